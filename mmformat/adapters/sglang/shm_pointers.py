"""SGLang 0.5.23: in place of its shared-memory pointers, through the same functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from mmformat._extras import require
from mmformat.adapters.readers import Readers
from mmformat.adapters.sglang.handles import HANDLE, Announcer, open_media
from mmformat.errors import TransportError

__all__ = ["announce", "open_handles"]

_RECEIVER = "sglang.srt.managers.scheduler_components.request_receiver"
_MANAGER = "sglang.srt.managers.tokenizer_manager"


def announce(manager: Any, announcer: Announcer) -> Callable[[], None]:
    """Send handles from a TokenizerManager; return what undoes it.

    ``wrap_shm_features`` is where the engine exchanges tensors for pointers, and batches, which do
    not pass there, are caught where they are sent.
    """
    module: Any = require(_MANAGER, extra="sglang")
    batches = require("sglang.srt.managers.io_struct", extra="sglang").BaseBatchReq
    schedule = require("sglang.srt.managers.schedule_batch", extra="sglang")
    wrap, dispatch = module.wrap_shm_features, manager._dispatch_to_scheduler

    def exchange(request: Any) -> bool:
        media = getattr(request, "mm_inputs", None)
        if not isinstance(media, schedule.MultimodalProcessorOutput) or not media.mm_items:
            return False
        if _handle_of(request) is not None:
            return True
        handle = announcer.handle_of(media)
        if handle is None:
            return False
        item = schedule.MultimodalDataItem(
            modality=media.mm_items[0].modality, model_specific_data={HANDLE: handle}
        )
        # In place, as the engine's own function does: the tensors must not outlive the sending.
        request.mm_inputs = schedule.MultimodalProcessorOutput(mm_items=[item])
        return True

    def wrap_or_announce(request: Any) -> Any:
        return request if exchange(request) else wrap(request)

    def dispatch_announced(request: Any) -> Any:
        if isinstance(request, batches):
            for part in getattr(request, "batch", ()):
                exchange(part)
        return dispatch(request)

    module.wrap_shm_features = wrap_or_announce
    manager._dispatch_to_scheduler = dispatch_announced

    def undo() -> None:
        module.wrap_shm_features = wrap
        del manager._dispatch_to_scheduler

    return undo


def open_handles(scheduler: Any, ranks: Readers) -> Callable[[], None]:
    """Open handles where a scheduler finalizes shared-memory pointers; return what undoes it.

    The engine's function around these three waits for all ranks and, when one of them failed,
    rejects the request on every rank.
    """
    module: Any = require(_RECEIVER, extra="sglang")
    schedule = require("sglang.srt.managers.schedule_batch", extra="sglang")
    has, unwrap, discard = (
        module.has_shm_features,
        module.unwrap_shm_features,
        module.discard_shm_features,
    )
    modalities = bool(getattr(scheduler.model_config, "requires_mm_token_modalities", False))

    def has_any(requests: Any) -> Any:
        return any(
            _handle_of(part) is not None for request in requests for part in _parts(request)
        ) or has(requests)

    def open_or_unwrap(request: Any) -> Any:
        for part in _parts(request):
            handle = _handle_of(part)
            if handle is not None:
                media = open_media(ranks, handle, cls=schedule.MultimodalProcessorOutput)
                # Hash and pad values are set, so this hashes nothing; and the finished inputs are
                # never broadcast a second time.
                part.mm_inputs = schedule.MultimodalInputs.from_processor_output(
                    media, requires_mm_token_modalities=modalities
                )
        return unwrap(request)

    def drop_or_discard(request: Any) -> None:
        for part in _parts(request):
            handle = _handle_of(part)
            if handle is not None:
                with contextlib.suppress(TransportError):  # what failed to open may be gone
                    ranks.release(handle)
        discard(request)

    module.has_shm_features = has_any
    module.unwrap_shm_features = open_or_unwrap
    module.discard_shm_features = drop_or_discard
    restore_idle = _drop_finished_media(scheduler)

    def undo() -> None:
        restore_idle()
        module.has_shm_features = has
        module.unwrap_shm_features = unwrap
        module.discard_shm_features = discard

    return undo


def _drop_finished_media(scheduler: Any) -> Callable[[], None]:
    """Let an idle scheduler drop the media of its last batch; return what undoes it.

    ``ScheduleBatch.filter_batch`` empties ``reqs`` and leaves ``multimodal_inputs`` in place, so an
    idle scheduler would hold the slots of finished requests until the next request.
    """
    on_idle = getattr(scheduler, "on_idle", None)
    if on_idle is None:
        return lambda: None

    def drop_and_idle() -> None:
        for batch in (scheduler.running_batch, scheduler.last_batch):
            if batch is not None and batch.is_empty():
                batch.multimodal_inputs = None
        on_idle()

    scheduler.on_idle = drop_and_idle

    def undo() -> None:
        del scheduler.on_idle

    return undo


def _parts(request: Any) -> Any:
    return getattr(request, "batch", None) or (request,)


def _handle_of(request: Any) -> bytes | None:
    items = getattr(getattr(request, "mm_inputs", None), "mm_items", None)
    if not items or len(items) != 1:
        return None
    handle = items[0].model_specific_data.get(HANDLE)
    return handle if isinstance(handle, bytes) else None
