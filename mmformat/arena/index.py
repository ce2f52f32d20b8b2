"""The slot of a request whose items lie in slots of their own: their handles, then its message."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from mmformat.codec.schema import ALIGNMENT
from mmformat.errors import TransportError
from mmformat.model.item import MultimodalDataItem, MultimodalInputs
from mmformat.shm import Handle

__all__ = ["Entry", "composed", "content_of", "pack_index", "unpack_index", "without_content"]

_MAGIC: Final = b"mmfi"
_VERSION: Final = 1
# magic, version, entries
_HEAD: Final = struct.Struct("<4sHxxI")
# item, slot, generation, offset, nbytes, holders
_ENTRY: Final = struct.Struct("<IIQQQQ")


class Entry(NamedTuple):
    """Say which item of the request lies in which slot."""

    item: int
    handle: Handle


def content_of(item: MultimodalDataItem) -> MultimodalInputs:
    """Return what an item shares with every request that it is in: its tensors and identity."""
    content = MultimodalDataItem(
        modality=item.modality,
        feature=item.feature,
        precomputed_embeddings=item.precomputed_embeddings,
        model_specific_data=item.model_specific_data,
        identity=item.identity,
    )
    content.freeze()
    return MultimodalInputs(items=[content])


def without_content(item: MultimodalDataItem) -> MultimodalDataItem:
    """Return what an item is in this request alone: its place, its names, and no tensor."""
    return replace(
        item,
        feature=None,
        precomputed_embeddings=None,
        model_specific_data={},
        identity=None if item.identity is None else str(item.identity),
    )


def composed(inputs: MultimodalInputs, contents: dict[int, MultimodalInputs]) -> MultimodalInputs:
    """Put the content of items back into the request.

    Parameters
    ----------
    inputs : MultimodalInputs
        The request; its items of ``contents`` were written :func:`without_content`.
    contents : dict
        What each slot held, by the item's number.

    Raises
    ------
    TransportError
        With code ``index`` when these do not belong together.
    """
    items = list(inputs.items)
    for number, content in contents.items():
        if number >= len(items) or len(content.items) != 1:
            raise _broken(f"one item for item {number} of {len(items)}, got {len(content.items)}")
        found = content.items[0]
        items[number] = replace(
            items[number],
            feature=found.feature,
            precomputed_embeddings=found.precomputed_embeddings,
            model_specific_data=found.model_specific_data,
        )
    return MultimodalInputs(items=items, request_data=inputs.request_data)


def pack_index(entries: Sequence[Entry]) -> bytes:
    """Return what stands before the request's message, a multiple of 64 bytes."""
    parts = [_HEAD.pack(_MAGIC, _VERSION, len(entries))]
    for item, handle in entries:
        parts.append(
            _ENTRY.pack(
                item,
                handle.slot,
                handle.generation,
                handle.offset,
                handle.nbytes,
                handle.holders,
            )
        )
    packed = b"".join(parts)
    return packed + bytes(-len(packed) % ALIGNMENT)


def unpack_index(view: memoryview, handle: Handle) -> tuple[list[Entry], memoryview]:
    """Return the entries of an index, and the request's message, trusting no bit of it.

    Parameters
    ----------
    view : memoryview
        The slot.
    handle : Handle
        The slot's; the items are in the same arena.

    Raises
    ------
    TransportError
        With code ``index``. That each entry is a slot of this rank is for the transport to check.
    """
    if len(view) < _HEAD.size:
        raise _broken(f"{_HEAD.size} bytes or more, got {len(view)}")
    magic, version, count = _HEAD.unpack_from(view)
    if magic != _MAGIC or version != _VERSION:
        raise _broken(f"{_MAGIC!r} and version {_VERSION}, got {magic!r} and {version}")
    nbytes = _HEAD.size + count * _ENTRY.size
    start = nbytes + -nbytes % ALIGNMENT
    if start >= len(view):
        raise _broken(f"{count:,} entries before a message, got {len(view):,} bytes in all")
    entries: list[Entry] = []
    for at in range(_HEAD.size, nbytes, _ENTRY.size):
        item, slot, generation, offset, length, holders = _ENTRY.unpack_from(view, at)
        if entries and item <= entries[-1].item:
            raise _broken("entries in the order of the items")
        made = replace(
            handle,
            slot=slot,
            generation=generation,
            offset=offset,
            nbytes=length,
            holders=holders,
            composed=False,
        )
        entries.append(Entry(item, made))
    return entries, view[start:]


def _broken(what: str) -> TransportError:
    return TransportError(f"expected an index of items with {what}", code="index")
