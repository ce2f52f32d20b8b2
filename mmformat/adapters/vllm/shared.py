"""An item that is a handle until somebody looks into it: it crosses vLLM's processes as such."""

from __future__ import annotations

import contextlib
import functools
import weakref
from typing import Any, Final

from mmformat.adapters.readers import Readers
from mmformat.adapters.vllm.restore import from_mmformat, inputs_module
from mmformat.errors import TransportError

__all__ = ["attach", "shared_item"]

_HERE: Final[dict[str, Readers]] = {}


def attach(reader: int) -> Readers:
    """Let this process open handles, as the reader with this number; a worker calls it once.

    Parameters
    ----------
    reader : int
        The worker's rank.

    Returns
    -------
    Readers
        Whose ``close`` detaches.
    """
    if "readers" in _HERE:
        _HERE["readers"].close()
    _HERE["readers"] = Readers(reader)
    return _HERE["readers"]


def shared_item(handle: bytes) -> Any:
    """Return a MultiModalKwargsItem that opens its handle when it is first looked into.

    Copied to another process it travels as the handle. A worker that drops it unopened releases
    its slot.

    Raises
    ------
    MissingExtraError
        When vLLM is not installed.
    """
    item = _shared_class()()
    item.handle = handle
    item.opened = None
    item.unread = weakref.finalize(item, _release, handle)
    return item


@functools.cache
def _shared_class() -> type[Any]:
    base = inputs_module().MultiModalKwargsItem

    def construct(_item: Any) -> None:
        """Leave out UserDict's, which would make the mapping."""

    def data(item: Any) -> Any:
        if item.opened is None:
            readers = _HERE.get("readers")
            if readers is None:
                raise TransportError(
                    "expected a process that reads the arena, got one that is not attached",
                    hint="call mmformat.adapters.vllm.attach(rank) in each worker",
                    code="not-attached",
                )
            item.unread.detach()
            item.opened = from_mmformat(readers.get(item.handle), base).data
        return item.opened

    def reduce(item: Any, _protocol: Any) -> Any:
        return shared_item, (item.handle,)

    body = {"__init__": construct, "data": property(data), "__reduce_ex__": reduce}
    return type("SharedKwargsItem", (base,), body)


def _release(handle: bytes) -> None:
    readers = _HERE.get("readers")
    if readers is not None:
        with contextlib.suppress(TransportError):  # a copy of the item may have released it
            readers.release(handle)
