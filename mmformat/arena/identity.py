"""What a whole message is known by, so that content already in the arena is not copied again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from blake3 import blake3

from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import MultimodalInputs
from mmformat.model.message import EncodedMessage
from mmformat.model.tensors import is_tensor, tensor_buffer

__all__ = ["message_identity"]


def message_identity(inputs: MultimodalInputs, message: EncodedMessage) -> bytes:
    """Return 32 bytes that name the content, or none when an item was not materialized.

    An item's own tensors are known by the identity that materialization gave it; an item that is
    not frozen, or whose values were replaced since, is not recognized. Everything else
    is hashed: the metadata and columns, and the tensors of ``request_data``, which are small.

    Notes
    -----
    **Cost**: constant in the size of the items' tensors.
    """
    if not inputs.items or not all(item.is_intact for item in inputs.items):
        return b""
    digest = blake3(message.head)
    for tensor in _tensors(inputs.request_data):
        buffer = tensor_buffer(tensor)
        digest.update(len(buffer).to_bytes(8, "little"))
        digest.update(memoryview(buffer))
    return digest.digest()


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, DictionaryTensor):
        yield from (value.table, value.codes)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif is_tensor(value):
        yield value
