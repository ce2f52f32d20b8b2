"""An item that is a handle until somebody looks into it: it crosses vLLM's processes as such."""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Any, Final

from mmformat.adapters.readers import Readers
from mmformat.adapters.vllm.restore import from_mmformat, inputs_module
from mmformat.adapters.vllm.returns import give_back
from mmformat.errors import TransportError

__all__ = ["attach", "shared_item"]

_ADDRESS: Final = "address"
_HERE: Final[dict[str, Readers]] = {}


def attach(rank: int, *, device: str | None = None, expand: bool = True) -> Readers:
    """Let this process open handles, as the reader with this number; a worker calls it once.

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
    _HERE["readers"] = Readers(rank, device=device, expand=expand)
    return _HERE["readers"]


class _Way:
    """How far a handle has come in this process."""

    __slots__ = ("came_first", "went_on")

    def __init__(self, *, came_first: bool) -> None:
        self.came_first = came_first
        self.went_on = False


def shared_item(handle: bytes, *, came_first: bool = False) -> Any:
    """Return a MultiModalKwargsItem that opens its handle when it is first looked into.

    Copied to another process it travels as the handle. A worker that drops it unopened releases
    its slot. The engine core that drops it before it was sent on gives it back to the producer.

    Parameters
    ----------
    handle : bytes
        The handle.
    came_first : bool
        Whether this process is the only one that was sent the handle.

    Raises
    ------
    MissingExtraError
        When vLLM is not installed.
    """
    item = _shared_class()()
    item.handle = handle
    item.opened = None
    item.way = _Way(came_first=came_first)
    item.unread = weakref.finalize(item, _drop, handle, item.way)
    item.unread.atexit = not came_first  # what may still be on its way on is not given back
    return item


@functools.cache
def _shared_class() -> type[Any]:
    base = inputs_module().MultiModalKwargsItem

    def construct(_item: Any) -> None:
        """Leave out UserDict's, which would make the mapping."""

    def data(item: Any) -> Any:
        if item.opened is None:
            ranks = _HERE.get("readers")
            if ranks is None:
                raise TransportError(
                    "expected a process that reads the arena, got one that is not attached",
                    hint="call mmformat.adapters.vllm.attach(rank) in each worker",
                    code="not-attached",
                )
            item.unread.detach()
            item.opened = from_mmformat(ranks.get(item.handle), base).data
        return item.opened

    def reduce(item: Any, _protocol: Any) -> Any:
        item.way.went_on = True
        return shared_item, (item.handle,)

    def contains(item: Any, key: Any) -> bool:
        # Where vLLM asks for this key it keeps an item of a prefix that is cached, as it does with
        # its own shared memory's: so that the workers see it, and can release it.
        if key == _ADDRESS and item.opened is None and "readers" not in _HERE:
            return True
        return key in item.data

    body = {
        "__init__": construct,
        "__contains__": contains,
        "__reduce_ex__": reduce,
        "data": property(data),
    }
    return type("SharedKwargsItem", (base,), body)


def _drop(handle: bytes, way: _Way) -> None:
    ranks = _HERE.get("readers")
    if ranks is None:
        if way.came_first and not way.went_on:
            give_back(handle)
    else:
        with contextlib.suppress(TransportError):  # a copy of the item may have released it
            ranks.release(handle)
