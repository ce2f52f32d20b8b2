"""Descriptions of messages, made without reading tensor bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mmformat.codec.chained_buffer import open_chained
from mmformat.codec.columns import Place, Row, TensorEntry
from mmformat.codec.compression import Choice, choices_of
from mmformat.codec.decode import gather
from mmformat.codec.schema import COMPRESSION_KEY, VERSION
from mmformat.codec.stream import Batch, find_batches, placed_rows, read_key
from mmformat.codec.tensors import check_entry
from mmformat.model.limits import Limits
from mmformat.model.tensors import ITEMSIZE

__all__ = [
    "BatchDescription",
    "ChunkDescription",
    "ItemDescription",
    "MessageDescription",
    "TensorDescription",
    "describe",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDescription:
    """The place of a chunk.

    Parameters
    ----------
    at : int or None
        Byte of the message; None for a chunk of 12 bytes or fewer, which its view holds.
    nbytes, stored_nbytes : int
        Bytes after decompression, and in the message.
    """

    at: int | None
    nbytes: int
    stored_nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDescription:
    """A tensor and its storage.

    Parameters
    ----------
    name, dtype, encoding : str
        As in the message.
    shape : tuple of int
        Extents after decoding.
    nbytes : int
        Bytes after decoding.
    encoded_nbytes : int
        Bytes after decompression: those of a plain tensor, or of table and codes.
    stored_nbytes : int
        Bytes in the message.
    codec : {"lz4", "zstd"} or None
        Codec of the frames, apart from chunks that are stored uncompressed.
    batch : int
        The record batch that holds them.
    chunks : tuple of ChunkDescription
        Where they lie.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    encoding: str
    nbytes: int
    encoded_nbytes: int
    stored_nbytes: int
    codec: str | None
    batch: int
    chunks: tuple[ChunkDescription, ...]

    @property
    def compressed(self) -> bool:
        """Whether its batch is compressed."""
        return self.codec is not None

    @property
    def ratio(self) -> float:
        """Bytes after decoding for each byte of the message."""
        return self.nbytes / max(1, self.stored_nbytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDescription:
    """An item, or the request if ``index`` is -1; values are as in the message."""

    index: int
    modality: str
    format: str | None
    hash: str | None
    pad_value: int | None
    identity: str | None
    offsets: tuple[tuple[int, int], ...] | None
    attributes_nbytes: int
    tensors: tuple[TensorDescription, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDescription:
    """The place of a record batch: its metadata begins at ``at``, its body ends at ``end``."""

    at: int
    body_at: int
    end: int
    rows: int
    tensors: int
    codec: str | None

    @property
    def compressed(self) -> bool:
        """Whether its buffers are frames of a codec."""
        return self.codec is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDescription:
    """The content of a message.

    Parameters
    ----------
    version : int
        The schema's version.
    nbytes : int
        Bytes of the whole message.
    batches : tuple of BatchDescription
        In stream order.
    items : tuple of ItemDescription
        In item order.
    request : ItemDescription or None
        What belongs to the whole request.
    choices : tuple of Choice
        The choices of ``"auto"`` as the writer recorded them, unverified.
    """

    version: int
    nbytes: int
    batches: tuple[BatchDescription, ...]
    items: tuple[ItemDescription, ...]
    request: ItemDescription | None
    choices: tuple[Choice, ...] = ()

    @property
    def tensors(self) -> tuple[TensorDescription, ...]:
        """All tensors, the items' first."""
        rows = self.items if self.request is None else (*self.items, self.request)
        return tuple(tensor for row in rows for tensor in row.tensors)

    @property
    def tensor_nbytes(self) -> int:
        """Bytes of all tensors after decoding."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the description as JSON."""
        return json.dumps(asdict(self), indent=indent)


def describe(source: Any, *, limits: Limits | None = None) -> MessageDescription:
    """Describe a message without reading its tensors.

    Parameters
    ----------
    source : EncodedMessage, bytes, buffer, list of frames, or path
        The message; a path is mapped.
    limits : Limits, optional
        Bounds on the message.

    Returns
    -------
    MessageDescription
        Items, tensors, their places and sizes.

    Raises
    ------
    DecodeError
        If metadata or columns violate the format. Tensor bytes, attributes and view prefixes are
        not examined; ``decode`` and ``verify`` do that.
    LimitError
        If the message asks for more than the limits allow.

    Notes
    -----
    **Copies**: the columns. No byte of a tensor of more than 12 bytes is read, none is
    decompressed: only the columns of a compressed batch are.

    Examples
    --------
    >>> import numpy as np
    >>> import mmformat as mm
    >>> message = mm.encode(mm.MultimodalInputs(request_data={"a": np.zeros((4, 8), np.float32)}))
    >>> tensor = describe(message).tensors[0]
    >>> tensor.dtype, tensor.shape, tensor.nbytes, tensor.chunks[0].at % 64
    ('float32', (4, 8), 128, 0)
    """
    bounds = Limits.of(limits)
    spans = open_chained(source)
    batches: list[BatchDescription] = []
    numbers: dict[int, int] = {}

    def rows_of_batches() -> Iterator[list[Row]]:
        decompressed = 0
        for batch in find_batches(spans, bounds):
            rows, nbytes = placed_rows(spans, batch, bounds, decompressed=decompressed)
            decompressed += nbytes if batch.metadata.compressed else 0
            for row in rows:
                numbers.update((id(entry), len(batches)) for entry in row.tensors)
            batches.append(_batch(batch, rows))
            yield rows

    items, request = gather(rows_of_batches(), bounds)

    def described(row: Row, path: str) -> ItemDescription:
        tensors = []
        for entry in row.tensors:
            check_entry(entry, bounds, path=f"{path}.{entry.name}")
            number = numbers[id(entry)]
            tensors.append(_tensor(entry, number, batches[number].codec))
        return ItemDescription(
            index=row.item,
            modality=row.modality,
            format=row.format,
            hash=row.hash,
            pad_value=row.pad_value,
            identity=row.identity,
            offsets=None if row.offsets is None else tuple(row.offsets),
            attributes_nbytes=len((row.attributes or "").encode()),
            tensors=tuple(tensors),
        )

    return MessageDescription(
        version=VERSION,
        nbytes=spans.nbytes,
        items=tuple(described(*rows) for rows in items),
        request=None if request is None else described(request, "$"),
        batches=tuple(batches),
        choices=choices_of(read_key(spans, COMPRESSION_KEY, bounds) or b""),
    )


def _batch(batch: Batch, rows: list[Row]) -> BatchDescription:
    return BatchDescription(
        at=batch.start,
        body_at=batch.body_at,
        end=batch.body_at + batch.metadata.body_nbytes,
        rows=len(rows),
        tensors=sum(len(row.tensors) for row in rows),
        codec=batch.metadata.codec,
    )


def _tensor(entry: TensorEntry, batch: int, codec: str | None) -> TensorDescription:
    chunks = tuple(
        ChunkDescription(at=chunk.at, nbytes=chunk.nbytes, stored_nbytes=chunk.stored_nbytes)
        if isinstance(chunk, Place)
        else ChunkDescription(at=None, nbytes=len(chunk), stored_nbytes=len(chunk))
        for chunk in entry.data
    )
    return TensorDescription(
        name=entry.name,
        dtype=entry.dtype,
        shape=tuple(entry.shape),
        encoding=entry.encoding,
        nbytes=math.prod(entry.shape) * ITEMSIZE[entry.dtype],
        encoded_nbytes=entry.stored_nbytes,
        stored_nbytes=sum(chunk.stored_nbytes for chunk in chunks),
        codec=codec,
        batch=batch,
        chunks=chunks,
    )
