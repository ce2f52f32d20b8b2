"""What a pickle is read into: inert values that stand for the objects it describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmformat.errors import DecodeError, UnsafePickleError

if TYPE_CHECKING:
    from mmformat.legacy.machine import Machine

__all__ = ["Arguments", "Call", "Enum", "Instance", "Marked", "Name", "Scalar", "Storage", "Tensor"]

Call = Callable[["Machine", Any], Any]


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
