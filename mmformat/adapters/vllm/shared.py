"""An item that stays a handle until it is read, so that it crosses vLLM's processes as one."""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Mapping
from typing import Any, Final

from mmformat.adapters.readers import Readers
from mmformat.adapters.vllm.restore import from_mmformat, inputs_module
from mmformat.adapters.vllm.returns import give_back
from mmformat.errors import TransportError

__all__ = ["ARENA_VARIABLE", "attach", "fields_at_hand", "shared_item"]

ARENA_VARIABLE: Final = "MMFORMAT_VLLM_ARENA_NAME"
"""Set by the plugin for the processes it starts: the arena that :func:`attach` opens at once."""

_ADDRESS: Final = "address"
_HERE: Final[dict[str, Readers]] = {}


def attach(rank: int, *, device: str | None = None, expand: bool = True) -> Readers:
    """Let this process open handles as the given rank; each worker calls it once.

    Parameters
    ----------
    rank : int
        The worker's rank.
    device : str, optional
        Where its tensors are wanted, as ``"cuda:0"``; dictionaries are expanded there.
    expand : bool, default True
        Whether a dictionary becomes the tensor that it stands for.

    Returns
    -------
    Readers
        Whose ``close`` detaches.
    """
    if "readers" in _HERE:
        _HERE["readers"].close()
    readers = _HERE["readers"] = Readers(rank, device=device, expand=expand)
    if name := os.environ.get(ARENA_VARIABLE):
        with contextlib.suppress(TransportError):  # attached again with the first handle
            readers.attach(name)
    return readers


def fields_at_hand(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item's fields for processes that do not read the arena.

    Fields that vLLM keeps on the CPU keep their value. The others have ``data=None``, which is
    vLLM's own sign for data that is elsewhere.
    """
    elem_class = inputs_module().MultiModalFieldElem
    return {
        key: elem
        if getattr(elem.field, "keep_on_cpu", False)
        else elem_class(data=None, field=_alone(elem.field))
        for key, elem in item.items()
    }


def _alone(field: Any) -> Any:
    """Drop a field's ranges of the whole request: they are used before the item is made."""
    return type(field)(slices=[slice(None)]) if hasattr(field, "slices") else field


class _Way:
    """How far a handle has come in this process."""

    __slots__ = ("came_first", "went_on")

    def __init__(self, *, came_first: bool) -> None:
        self.came_first = came_first
        self.went_on = False


def shared_item(
    handle: bytes, *, came_first: bool = False, at_hand: Mapping[str, Any] | None = None
) -> Any:
    """Return a MultiModalKwargsItem that opens its handle when its tensors are first read.

    Pickled, it travels as the handle. A worker that drops it unopened releases its slot. The API
    server or engine core that drops it before it was sent on gives it back to the producer.

    Parameters
    ----------
    handle : bytes
        The handle.
    came_first : bool
        Whether this process is the only one that has the handle.
    at_hand : mapping, optional
        What the item holds in a process that is not attached, as :func:`fields_at_hand` gives it.

    Raises
    ------
    MissingExtraError
        When vLLM is not installed.
    """
    item = _shared_class()()
    item.handle = handle
    item.at_hand = dict(at_hand or {})
    item.opened = None
    item.way = _Way(came_first=came_first)
    item.unread = weakref.finalize(item, _drop, handle, item.way)
    item.unread.atexit = not came_first  # what may still be on its way on is not given back
    return item


def _construct(_item: Any) -> None:
    """Leave out UserDict's constructor, which would make the mapping."""


def _data(item: Any) -> Any:
    if item.opened is None:
        ranks = _HERE.get("readers")
        if ranks is None:
            return item.at_hand
        item.unread.detach()
        base = inputs_module().MultiModalKwargsItem
        item.opened = from_mmformat(ranks.get(item.handle), base).data
    return item.opened


def _getitem(item: Any, key: str) -> Any:
    elem = item.data.get(key)
    if item.opened is None and (elem is None or elem.data is None):
        raise TransportError(
            f"field {key!r} cannot be read: expected a process that reads the arena, got one that "
            "is not attached",
            hint="call mmformat.adapters.vllm.attach(rank) in each worker",
            code="not-attached",
        )
    return item.data[key]


def _contains(item: Any, key: Any) -> bool:
    # Where vLLM asks for this key it keeps an item of a prefix that is cached, as it does with
    # its own shared memory's: so that the workers see it, and can release it.
    if key == _ADDRESS and item.opened is None:
        return "readers" not in _HERE
    return key in item.data


def _equal(item: Any, other: Any) -> Any:
    if item is other:
        return True
    if isinstance(other, type(item)) and item.handle == other.handle:
        return True
    if item.opened is None and "readers" not in _HERE:
        return False
    return item.data == getattr(other, "data", other)


def _get_data(item: Any) -> dict[str, Any]:
    return {key: elem.data for key, elem in item.data.items()}


def _same(item: Any, _memo: Any = None) -> Any:
    return item


def _reduce(item: Any, _protocol: Any) -> Any:
    item.way.went_on = True
    return shared_item, (item.handle,)


@functools.cache
def _shared_class() -> type[Any]:
    body = {
        "__init__": _construct,
        "__getitem__": _getitem,
        "__contains__": _contains,
        "__eq__": _equal,
        "__hash__": None,
        "__copy__": _same,  # one item releases its slot once
        "__deepcopy__": _same,
        "copy": _same,
        "__reduce_ex__": _reduce,
        "data": property(_data),
        "get_data": _get_data,
    }
    return type("SharedKwargsItem", (inputs_module().MultiModalKwargsItem,), body)


def _drop(handle: bytes, way: _Way) -> None:
    if way.came_first and way.went_on:  # whoever was sent it releases it
        return
    ranks = _HERE.get("readers")
    if ranks is None:
        if way.came_first:
            give_back(handle)
    else:
        with contextlib.suppress(TransportError):  # a copy of the item may have released it
            ranks.release(handle)
