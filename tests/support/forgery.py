"""Messages put together by hand, so that a test can break exactly one promise of the format."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmformat._arrow import Schema, serialize_schema
from mmformat.codec.columns import PLAIN, Bytes, Row, TensorEntry
from mmformat.codec.compression import write_batch, write_compressed_batch
from mmformat.codec.record_batch import BatchMetadata, read_batch_metadata, write_batch_metadata
from mmformat.codec.schema import ALIGNMENT, CONTINUATION, END_OF_STREAM, SCHEMA_MESSAGE
from mmformat.model.tensors import ITEMSIZE

__all__ = [
    "batch",
    "bytes_of",
    "encapsulated",
    "item",
    "message",
    "metadata_of",
    "patched",
    "place_of",
    "schema_message",
    "tensor",
    "with_metadata",
]


def message(*batches: bytes, schema: bytes = SCHEMA_MESSAGE, end: bytes = END_OF_STREAM) -> bytes:
    """Return a stream of encapsulated batches."""
    return b"".join((schema, *batches, end))


def batch(*rows: Row, compressed: bool = False) -> bytes:
    """Return an encapsulated batch; its rows need not make sense."""
    # Each buffer is a frame here, whether it shrinks or not, so that there is one to break.
    frames = write_compressed_batch(rows, worth_ratio=math.inf) if compressed else write_batch(rows)
    return b"".join(frames)


def tensor(
    name: str = "feature",
    dtype: str = "float32",
    shape: tuple[int, ...] = (2, 4),
    *,
    data: Sequence[Bytes] | None = None,
    encoding: str = PLAIN,
    parameters: Any = None,
) -> TensorEntry:
    """Return a tensor's entry; its bytes count up from 0 when ``data`` is omitted."""
    if data is None:
        nbytes = math.prod(shape) * ITEMSIZE[dtype]
        data = [bytes(index % 251 for index in range(nbytes))]
    text = parameters if type(parameters) is str or parameters is None else _json(parameters)
    return TensorEntry(name, dtype, shape, encoding, text, list(data))


def item(index: int = 0, *tensors: TensorEntry, **fields: Any) -> Row:
    """Return an item's row; its attributes name the tensors unless they are given."""
    attributes = {entry.name: {"$ndarray": entry.name} for entry in tensors}
    values = {"modality": "IMAGE", "format": "normal", "attributes": attributes, **fields}
    if values["attributes"] is not None and type(values["attributes"]) is not str:
        values["attributes"] = _json(values["attributes"])
    return Row(index, tensors=list(tensors), **values)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def encapsulated(metadata: bytes, *, alignment: int = ALIGNMENT) -> bytes:
    """Return a flatbuffer behind marker and length, padded."""
    metadata += bytes(-(len(metadata) + 8) % alignment)
    return CONTINUATION + len(metadata).to_bytes(4, "little") + metadata


def schema_message(schema: Schema) -> bytes:
    """Return the encapsulated message of any schema, padded to 64 bytes."""
    return encapsulated(serialize_schema(schema)[8:])


def metadata_of(data: bytes) -> tuple[BatchMetadata, int]:
    """Return a batch's metadata and the byte at which its body begins."""
    body_at = 8 + int.from_bytes(data[4:8], "little")
    return read_batch_metadata(data[8:body_at]), body_at


def with_metadata(data: bytes, body: bytes | None = None, **changes: Any) -> bytes:
    """Return a batch with other metadata, and with another body when one is given."""
    metadata, body_at = metadata_of(data)
    made = write_batch_metadata(metadata._replace(**changes))
    return encapsulated(made) + (data[body_at:] if body is None else body)


def place_of(data: bytes, index: int) -> tuple[int, int]:
    """Return where a buffer lies in its batch's bytes, and its length."""
    metadata, body_at = metadata_of(data)
    offset, nbytes = metadata.buffers[2 * index : 2 * index + 2]
    return body_at + offset, nbytes


def patched(data: bytes, at: int, new: bytes, *, buffer: int | None = None) -> bytes:
    """Return bytes with some replaced, at a place counted in a batch's buffer when one is given."""
    start = at if buffer is None else place_of(data, buffer)[0] + at
    return data[:start] + new + data[start + len(new) :]


def bytes_of(count: int, seed: int = 1) -> npt.NDArray[np.uint8]:
    """Return bytes that look random and are the same with every version of numpy."""
    state = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    state ^= state >> np.uint64(29)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    return (state >> np.uint64(56)).astype(np.uint8)
