"""The bounds on what a legacy pickle may ask of its converter."""

from __future__ import annotations

from dataclasses import dataclass

from mmformat.errors import LimitError
from mmformat.model.arguments import check_bounds

__all__ = ["PickleLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PickleLimits:
    """Bound a conversion; every bound is checked before the memory or the time is spent.

    Parameters
    ----------
    source_nbytes : int
        Bytes of the file and of its out-of-band buffers.
    opcodes : int
        Instructions of one stream; a nested stream counts for itself.
    memo : int
        Entries of one stream's memo.
    pickles : int
        Pickles that follow each other in one file.
    nesting : int
        Torch streams within each other.
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
