"""Bounds that a reader sets on messages."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from mmformat.errors import LimitError, ModelError
from mmformat.model.arguments import check_bounds, check_type

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on a message; each is checked before memory is allocated.

    Parameters
    ----------
    message_nbytes : int
        Bytes of the whole encoded message.
    decompressed_nbytes : int
        Bytes of all tensors and columns after decompression; also, counted separately, of all
        dictionary tensors after expansion.
    tensor_nbytes : int
        Bytes of one tensor after decompression and dictionary expansion.
    metadata_nbytes : int
        Bytes of one record batch's metadata, and of its columns without the tensor bytes.
    items, tensors, batches : int
        Counts in one message.
    dimensions : int
        Axes of one tensor.
    chunks : int
        Chunks of one tensor.
    attributes_nbytes : int
        Bytes of one row's attributes.
    attributes_depth : int
        Nesting of one row's attributes.

    Raises
    ------
    ModelError
        If a bound is not a positive int.

    Examples
    --------
    >>> Limits(items=8).items
    8
    """

    message_nbytes: int = 16 * 2**30
    decompressed_nbytes: int = 16 * 2**30
    tensor_nbytes: int = 16 * 2**30
    metadata_nbytes: int = 64 * 2**20
    items: int = 4096
    tensors: int = 65_536
    batches: int = 64
    dimensions: int = 32
    chunks: int = 65_536
    attributes_nbytes: int = 16 * 2**20
    attributes_depth: int = 64

    def __post_init__(self) -> None:
        check_bounds(self)

    @classmethod
    def of(cls, value: Limits | None) -> Limits:
        """Return the value itself, or the defaults for None.

        Raises
        ------
        ModelError
            For anything else.
        """
        if value is None:
            return _DEFAULTS
        check_type(value, cls, "Limits", name="limits")
        return value

    def check(self, name: str, value: int, *, path: str | None = None) -> None:
        """Raise LimitError if ``value`` exceeds the bound ``name``.

        Raises
        ------
        LimitError
            Naming the bound, its limit and the value.
        ModelError
            If there is no such bound, or ``value`` is not an int.
        """
        bound: Any = getattr(self, name, None) if type(name) is str else None
        if type(bound) is type(value) is int and value <= bound:
            return  # the common case, twenty times a message
        if type(bound) is not int:
            names = [each.name for each in fields(self)]
            raise ModelError(f"expected one of {', '.join(names)}, got {name!r:.60}", path="$.name")
        check_type(value, int, "an int", name="value")
        if value > bound:
            raise LimitError(
                f"expected {name} of at most {bound:,}, got {value:,}",
                path=path,
                hint=f"if you trust the sender: Limits({name}={value})",
            )


_DEFAULTS: Final = Limits()
