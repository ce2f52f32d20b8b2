"""The bounds on what a legacy pickle may ask of its converter."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mmformat.errors import LimitError
from mmformat.model.arguments import check_bounds

__all__ = ["Budget", "PickleLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PickleLimits:
    """Bound a conversion; every bound is checked before the memory or the time is spent.

    Parameters
    ----------
    source_nbytes : int
        Bytes of the file and of its out-of-band buffers.
    opcodes : int
        Instructions of the source: of all its pickles and of every stream nested in them, each
        time that it is read.
    memo : int
        Entries of one stream's memo.
    pickles : int
        Pickles that follow each other in one file.
    nesting : int
        Streams within each other. All nested streams together may have this many times the
        bytes of the source; a file that was written by pickle holds each of them once.
    depth : int
        Containers within each other.
    values : int
        Values of the result with every shared container counted at each place where it stands.
    text_nbytes : int
        Characters and bytes of all text and byte strings of the result, counted likewise.
    integer_nbytes : int
        Bytes of one integer.
    tensors : int
        Tensors of the result.
    tensor_nbytes : int
        Bytes of all tensors of the result.
    expansion : int
        Bytes of all tensors as a multiple of the source's bytes, once they pass 256 MiB: a stride
        of 0 makes a terabyte of four bytes.
    dimensions : int
        Axes of one tensor.
    time_s : int
        Seconds of interpretation; the sandbox is killed a little after that.

    Raises
    ------
    ModelError
        When a bound is not a positive int.

    Examples
    --------
    >>> PickleLimits(depth=8).depth
    8
    """

    source_nbytes: int = 16 * 2**30
    opcodes: int = 20_000_000
    memo: int = 5_000_000
    pickles: int = 100_000
    nesting: int = 4
    depth: int = 64
    values: int = 10_000_000
    text_nbytes: int = 256 * 2**20
    integer_nbytes: int = 256
    tensors: int = 65_536
    tensor_nbytes: int = 16 * 2**30
    expansion: int = 64
    dimensions: int = 32
    time_s: int = 600

    def __post_init__(self) -> None:
        check_bounds(self)

    def check(self, name: str, value: int, path: str | None = None) -> None:
        """Raise LimitError when ``value`` is over the bound called ``name``.

        Raises
        ------
        LimitError
            Naming the bound, its value and what was asked.
        """
        bound: int = getattr(self, name)
        if value > bound:
            raise LimitError(
                f"expected {name} of at most {bound:,}, got {value:,}",
                path=path,
                hint=f"if you trust the file: PickleLimits({name}={value})",
            )


@dataclass(slots=True)
class Budget:
    """Count what the streams of one source have used, nested ones included.

    A stream of a thousand bytes can ask for the stream within it thirty times, and that one for
    the next: what bounds each run alone does not bound them all.
    """

    limits: PickleLimits
    source_nbytes: int
    opcodes: int = 0
    nested_nbytes: int = 0
    deadline_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline_s = time.monotonic() + self.limits.time_s

    def check_time(self, path: str) -> None:
        """Raise LimitError after the deadline.

        Raises
        ------
        LimitError
            When the time is up.
        """
        if time.monotonic() > self.deadline_s:
            raise LimitError(f"reading took longer than {self.limits.time_s} s", path=path)

    def enter(self, nbytes: int, path: str) -> None:
        """Count the bytes of a nested stream before it is read.

        Raises
        ------
        LimitError
            When the time is up, or nested streams are read again and again.
        """
        self.check_time(path)
        self.nested_nbytes += nbytes
        allowed = self.limits.nesting * self.source_nbytes
        if self.nested_nbytes > allowed:
            raise LimitError(
                f"nested streams may have {allowed:,} bytes in all, got {self.nested_nbytes:,}",
                path=path,
                hint="the file reads the same nested stream again and again",
            )
