"""Put the adapter into a running engine's objects, and take it out again."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from mmformat._extras import require
from mmformat.adapters.readers import Readers
from mmformat.adapters.sglang import inline_pickle, shm_pointers
from mmformat.adapters.sglang.handles import Announcer
from mmformat.arena import Arena
from mmformat.errors import ModelError

__all__ = ["Installed", "install", "why_off"]


class Installed:
    """Undo what :func:`install` did, by :meth:`remove` or as a context manager."""

    def __init__(
        self,
        undo: Callable[[], None],
        *,
        announcer: Announcer | None = None,
        rank: int | None = None,
    ) -> None:
        self._undo: Callable[[], None] | None = undo
        self.announcer = announcer
        self.rank = rank

    def remove(self) -> None:
        """Leave the engine as it was found; a second call does nothing."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def install(
    target: Any,
    *,
    arena: Arena | str | None = None,
    renew: Callable[[], Arena] | None = None,
    rank: int | None = None,
    timeout_s: float = 0.0,
    device: str | None = None,
    expand: bool = True,
) -> Installed:
    """Let a handle of under 256 bytes cross the engine in place of a request's media.

    Parameters
    ----------
    target : TokenizerManager, Scheduler or SchedulerRequestReceiver
        Of SGLang 0.5.5 or 0.5.23. It must be installed in the tokenizer's process and in each
        scheduler's.
    arena : Arena or str, optional
        In the tokenizer's process: where the media go; one reader for each tensor-parallel rank.
        In a scheduler's process: the name of an arena to attach to at once. Omitted, the rank
        attaches when the first handle comes, which a rank that was attached before must not do.
    renew : callable, optional
        In the tokenizer's process: makes a new arena if the name of the first is removed before
        every rank has attached. With it, the adapter removes the name itself once every rank has.
    rank : int, optional
        In a scheduler's process: its reader's number; the tensor-parallel rank when omitted.
    timeout_s : float
        How long the tokenizer may wait for room before a request goes the engine's own way.
    device : str, optional
        In a scheduler's process: where its tensors are wanted, as ``"cuda:0"``; dictionaries are
        expanded there.
    expand : bool, default True
        In a scheduler's process: whether a dictionary becomes the tensor that it stands for.

    Returns
    -------
    Installed
        Takes the adapter out again.

    Raises
    ------
    ModelError
        When the target is none of these, or its ranks are not the ranks of one host that all read
        every request (``dp_size`` or ``nnodes`` over 1).

    Notes
    -----
    What does not fit (no room, tensors on a device, another transport's proxies) goes the
    engine's own way, request by request. A rank gets hash and pad values with the media and
    hashes nothing.

    References
    ----------
    docs/engines.md, "SGLang".
    """
    reason = why_off(target)
    if reason is not None:
        raise ModelError(
            reason, hint="every rank of one host must read every request; leave the adapter off"
        )
    newer = _is_newer()
    if hasattr(target, "send_to_scheduler"):
        if not isinstance(arena, Arena):
            raise ModelError(f"expected an arena for a tokenizer manager, got {arena!r}")
        announcer = Announcer(arena, timeout_s=timeout_s, renew=renew)
        way = shm_pointers.announce if newer else inline_pickle.announce
        return Installed(way(target, announcer), announcer=announcer)
    if not hasattr(target, "model_config"):
        raise ModelError(f"expected a TokenizerManager or a Scheduler, got {type(target).__name__}")
    rank = _rank_of(target) if rank is None else rank
    ranks = Readers(rank, device=device, expand=expand)
    if arena is not None:
        ranks.attach(arena if isinstance(arena, str) else arena.name)
    undo = (shm_pointers.open_handles if newer else inline_pickle.open_handles)(target, ranks)

    def remove() -> None:
        undo()
        ranks.close()

    return Installed(remove, rank=rank)


def _is_newer() -> bool:
    return hasattr(require("sglang.srt.managers.mm_utils", extra="sglang"), "wrap_shm_features")


def _rank_of(scheduler: Any) -> int:
    rank = getattr(scheduler, "tp_rank", None)
    if rank is None:
        rank = require("sglang.srt.runtime_context", extra="sglang").get_parallel().tp_rank
    return int(rank)


def why_off(target: Any) -> str | None:
    """Return why the adapter cannot serve this engine's ranks, or None if it can."""
    arguments = getattr(target, "server_args", None)
    for name in ("dp_size", "nnodes"):
        count = getattr(arguments, name, 1) or 1
        if count != 1:
            return f"{name} must be 1, got {count}"
    return None
