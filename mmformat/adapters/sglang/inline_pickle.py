"""SGLang 0.5.5: in place of the dict that it pickles to rank 0 and broadcasts twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmformat.adapters.readers import Readers
from mmformat.adapters.sglang.handles import HANDLE, Announcer, open_media
from mmformat.adapters.sglang.restore import schedule_batch

__all__ = ["announce", "open_handles"]

_FIELDS = ("mm_inputs", "image_inputs")


class _Sender:
    """Stand before the tokenizer manager's socket."""

    def __init__(self, socket: Any, announcer: Announcer) -> None:
        self._socket = socket
        self._announcer = announcer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def send_pyobj(self, request: Any, *args: Any, **options: Any) -> Any:
        for part in getattr(request, "batch", None) or (request,):
            for name in _FIELDS:
                media = getattr(part, name, None)
                if not isinstance(media, dict) or not media.get("mm_items"):
                    continue
                handle = self._announcer.handle_of(media)
                if handle is not None:
                    setattr(part, name, {HANDLE: handle})
        return self._socket.send_pyobj(request, *args, **options)


def announce(manager: Any, announcer: Announcer) -> Callable[[], None]:
    """Send handles from a TokenizerManager; return what undoes it."""
    socket = manager.send_to_scheduler
    manager.send_to_scheduler = _Sender(socket, announcer)

    def undo() -> None:
        manager.send_to_scheduler = socket

    return undo


def open_handles(scheduler: Any, ranks: Readers) -> Callable[[], None]:
    """Open handles where a scheduler makes its inputs; return what undoes it.

    Every rank opens the handle for itself, so the inputs are not broadcast again. An error ends
    the scheduler, as an error of the engine's own function does in this version.
    """
    process = scheduler._process_and_broadcast_mm_inputs
    own = "_process_and_broadcast_mm_inputs" in vars(scheduler)
    inputs_class = schedule_batch().MultimodalInputs

    def open_or_process(raw: Any) -> Any:
        handle = raw.get(HANDLE) if isinstance(raw, dict) else None
        if not isinstance(handle, bytes):
            return process(raw)
        # The engine's own constructor: hash and pad values are set, so it hashes nothing.
        return inputs_class.from_dict(open_media(ranks, handle, cls=dict))

    scheduler._process_and_broadcast_mm_inputs = open_or_process

    def undo() -> None:
        if own:
            scheduler._process_and_broadcast_mm_inputs = process
        else:
            del scheduler._process_and_broadcast_mm_inputs

    return undo
