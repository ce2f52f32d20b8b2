"""A message between its columns and its values: rows, and the tensors that they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from mmformat._arrow import Buffer

__all__ = ["Bytes", "Row", "TensorEntry"]


class Place:
    """Stand for bytes that are not read: where they lie in the message, and how many they are.

    Parameters
    ----------
    at : int
        Byte of the message.
    nbytes : int
        Bytes after decompression; also the length.
    stored_nbytes : int
        Bytes in the message.

    Attributes
    ----------
    prefix : bytes
        What its view says that the first bytes are.
    """

    __slots__ = ("at", "nbytes", "prefix", "stored_nbytes")

    def __init__(self, at: int, *, nbytes: int, stored_nbytes: int) -> None:
        self.at = at
        self.prefix = b""
        self.nbytes = nbytes
        self.stored_nbytes = stored_nbytes

    def __len__(self) -> int:
        return self.nbytes


Bytes: TypeAlias = Buffer | memoryview | bytes
"""Bytes where they lie."""

PLAIN = "plain"
DICTIONARY = "dictionary"


class TensorEntry(NamedTuple):
    """Hold one element of the ``tensors`` column.

    Parameters
    ----------
    name : str
        Where the tensor stands in the item, as ``model_specific_data['image_grid_thw']``.
    dtype : str
        Element type after decoding.
    shape : tuple of int
        Extents after decoding.
    encoding : {"plain", "dictionary"}
        How ``data`` makes the tensor.
    parameters : str or None
        The encoding's parameters, JSON.
    data : list of bytes, or of Place when they are not to be read
        Plain: the chunks. Dictionary: the table, then the chunks of the codes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    encoding: str
    parameters: str | None
    data: list[Any]

    @property
    def stored_nbytes(self) -> int:
        """Bytes of the data, as encoded and before any compression."""
        return sum(len(chunk) for chunk in self.data)


@dataclass(slots=True)
class Row:
    """Hold one row: an item's first row, its continuation with more tensors, or the request's."""

    item: int
    modality: str
    format: str | None = None
    hash: str | None = None
    pad_value: int | None = None
    identity: str | None = None
    offsets: list[tuple[int, int]] | None = None
    attributes: str | None = None
    tensors: list[TensorEntry] = field(default_factory=list)
