"""Inert values that stand for what a pickle describes, and its Latin-1 text made bytes again."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from mmformat.errors import DecodeError, UnsafePickleError

__all__ = [
    "KEY_BITS",
    "LONG_NBYTES",
    "Arguments",
    "Call",
    "Enum",
    "Instance",
    "LatinText",
    "Marked",
    "Name",
    "Scalar",
    "Storage",
    "Tensor",
    "give_back",
    "is_long_key",
    "long_text",
]

KEY_BITS: Final = 64
"""Longest integer that may be a key of a dict or an element of a set."""


def is_long_key(value: Any) -> bool:
    """Say whether a value is an integer too long for a key.

    Multiples of 2**61 - 1 all have one hash: a dict of a hundred thousand of them takes minutes.
    """
    return type(value) is int and value.bit_length() > KEY_BITS


Call = Callable[[Any, Any], Any]
"""A machine and the :class:`Arguments` of a call, to an inert value."""


@dataclass(slots=True, eq=False)
class Arguments:
    """The arguments of a call, with what an error about them must say."""

    target: Name
    values: tuple[Any, ...]
    path: str

    def wrong(self) -> DecodeError:
        """Return the error that says that the arguments are not those of the function."""
        return DecodeError(
            f"expected the arguments of {self.target.path}, got others", path=self.path
        )


@dataclass(slots=True, eq=False)
class Name:
    """Stand for an allow-listed global; nothing was imported.

    ``call`` is our own function for REDUCE, ``new`` for NEWOBJ; None where the pickle may not.
    """

    module: str
    name: str
    kind: str
    call: Call | None = None
    new: Call | None = None
    value: Any = None

    @property
    def path(self) -> str:
        """The dotted name as the pickle wrote it."""
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Instance:
    """Stand for an object of a class: its dotted name and its fields."""

    cls: str
    state: dict[str, Any] = field(default_factory=dict)
    built: bool = False

    def build(self, state: Any, path: str) -> None:
        """Take the fields that a BUILD instruction brings."""
        slots = None
        if type(state) is tuple and len(state) == 2 and isinstance(state[1], dict | None):
            state, slots = state
        for part in (state, slots):
            if part is None:
                continue
            if not isinstance(part, dict):
                # Pillow's images and frozen slotted dataclasses have a list as state.
                self.state = {"state": part}
                continue
            for key, value in part.items():
                if type(key) is not str:
                    raise DecodeError(f"expected field names, got {type(key).__name__}", path=path)
                if key.startswith("__"):
                    # No class that is read here has such a field; an attack on Python's does.
                    raise UnsafePickleError(
                        f"expected field names without underscores, got {key[:40]!a}",
                        path=path,
                        code="unsafe-pickle-build",
                    )
                self.state[key] = value
        self.built = True


@dataclass(slots=True, eq=False)
class Enum:
    """Stand for a member of an enum: the class's dotted name and the stored value."""

    cls: str
    value: Any


@dataclass(slots=True, eq=False)
class Scalar:
    """Stand for a numpy scalar: a Python number and the dtype that it had."""

    value: int | float | complex | bool
    dtype: str


@dataclass(slots=True, eq=False)
class Marked:
    """Stand for a container or a value that the model has no type for; ``kind`` says which."""

    kind: str
    value: Any

    def build(self, state: Any, path: str) -> None:
        """Ignore attributes of an ordered dict, as torch's ``_metadata``; they hold no media."""


@dataclass(slots=True, eq=False)
class Storage:
    """Stand for a torch storage: ``nbytes`` bytes that may be read only after the stream."""

    dtype: str | None
    numel: int
    nbytes: int
    location: str
    data: memoryview | None = None


@dataclass(slots=True, eq=False)
class Tensor:
    """Stand for a tensor: a checked view of bytes.

    ``stride_nbytes`` is None for bytes that lie in C order from ``offset_nbytes`` on.
    """

    lib: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    source: Storage | memoryview | None
    offset_nbytes: int = 0
    stride_nbytes: tuple[int, ...] | None = None
    swapped: bool = False
    location: str = "cpu"
    attributes: dict[str, Any] | None = None
    requires_grad: bool = False
    conjugate: bool = False
    negative: bool = False

    def build(self, state: Any, path: str) -> None:
        """Keep the attributes of a tensor subclass."""
        self.attributes = state if isinstance(state, dict) else {"state": state}


LONG_NBYTES: Final = 2**18
"""Text from this size on is not decoded before it is known what it is for."""

_PIECE_NBYTES: Final = 2**18
_AROUND_NBYTES: Final = 2**18
_ENCODERS: Final = frozenset({"encode-latin1", "bytearray"})
_CHARACTER_NBYTES: Final = 4


def long_text(source: memoryview, begin: int, end: int, stack: list[Any]) -> Any:
    """Return the text between two positions: as it is, when it will be encoded to bytes.

    A pickle writes the function first, then the text.
    """
    view = source[begin:end]
    if stack and type(stack[-1]) is Name and stack[-1].kind in _ENCODERS:
        return LatinText(view)
    return str(view, "utf-8", "surrogatepass")


class LatinText:
    """Stand for long UTF-8 text of the file that only ``_codecs.encode`` and ``bytearray`` take."""

    __slots__ = ("_source",)

    def __init__(self, source: memoryview) -> None:
        self._source = source

    def encoded(self, path: str) -> memoryview:
        """Return its characters as latin-1 bytes.

        Raises
        ------
        DecodeError
            For a character over U+00FF, or text that is no UTF-8.

        Notes
        -----
        **Copies**: each byte once. The text is never whole in memory: its pages in the file are
        given back as they are read.
        """
        source, size = self._source, len(self._source)
        # Private and from the kernel itself, so that pages can go back to it one by one.
        try:
            target = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError from error
        filled = position = 0
        while position < size:
            end = min(position + _PIECE_NBYTES, size)
            for _ in range(_CHARACTER_NBYTES - 1):
                if end < size and source[end] & 0xC0 == 0x80:
                    end -= 1  # not within a character
            try:
                piece = str(source[position:end], "utf-8").encode("latin-1")
            except ValueError:
                raise DecodeError("expected text of latin-1", path=path) from None
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            give_back(source, position, end)
            position = end
        return memoryview(target)[:filled]


def give_back(view: memoryview, begin: int, end: int) -> None:
    """Let the kernel take the pages of a mapping between two positions of a view of it.

    A file's pages are clean and come back when they are read again. Memory without a file comes
    back as zeros: only who reads it last, and in order, may give it back.
    """
    mapping = view.obj
    if not isinstance(mapping, mmap.mmap) or begin >= end:
        return
    start = np.frombuffer(view, np.uint8).ctypes.data
    start -= np.frombuffer(mapping, np.uint8).ctypes.data
    # From a little earlier: a fault also maps the pages before its own, which had been given back.
    first = -(-(start + max(0, begin - _AROUND_NBYTES)) // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + end) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)
