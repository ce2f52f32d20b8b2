"""SGLang's plugin: install the adapter in every process of a server that asks for it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from mmformat._extras import require
from mmformat._sizes import parse_nbytes
from mmformat.adapters.sglang.handles import Announcer
from mmformat.adapters.sglang.installation import install, why_off
from mmformat.arena import Arena
from mmformat.errors import MMFormatError, TransportError

__all__ = ["APP_VARIABLE", "VARIABLE", "register"]

VARIABLE: Final = "MMFORMAT_SGLANG_ARENA_NBYTES"
"""The arena's size, such as ``8GiB``; the plugin does nothing where it is not set."""

APP_VARIABLE: Final = "SGLANG_HTTP_SERVER_APP_PATH"
"""SGLang's variable for the application that each tokenizer worker imports."""

_WORKER_APP: Final = "mmformat.adapters.sglang.plugin:app"
_MANAGERS: Final = "sglang.srt.managers."
_LOG: Final = logging.getLogger("mmformat.sglang")


def register() -> None:
    """Install the adapter in each process of SGLang if the variable is set.

    SGLang 0.5.23 calls this in every process through the entry point group
    ``sglang.srt.plugins``. With the variable unset nothing is imported and nothing changes.

    Raises
    ------
    ModelError
        If the variable is not a size.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return
    nbytes = parse_nbytes(text, path=VARIABLE)
    hooks = require("sglang.srt.plugins.hook_registry", extra="sglang")
    # Tokenizer workers import this application and load no plugins; see __getattr__.
    os.environ.setdefault(APP_VARIABLE, _WORKER_APP)

    def made_manager(result: Any, manager: Any, *_args: Any, **_options: Any) -> Any:
        _install_or_log("tokenizer", manager, lambda: _install_manager(manager, nbytes))
        return result

    def made_scheduler(result: Any, scheduler: Any, *_args: Any, **_options: Any) -> Any:
        _install_or_log("scheduler", scheduler, lambda: _install_scheduler(scheduler))
        return result

    after = hooks.HookType.AFTER
    hooks.HookRegistry.register(
        _MANAGERS + "tokenizer_manager.TokenizerManager.__init__", made_manager, after
    )
    hooks.HookRegistry.register(_MANAGERS + "scheduler.Scheduler.__init__", made_scheduler, after)


def _install_or_log(process: str, target: Any, install_it: Callable[[], str]) -> None:
    """Install the adapter and log one line; a server starts without it where it cannot."""
    wanted = str(getattr(getattr(target, "server_args", None), "log_level", "")).lower()
    if wanted in ("info", "debug") and not _LOG.isEnabledFor(logging.INFO):
        # A tokenizer worker, where SGLang sets the level of its own loggers only.
        _LOG.setLevel(logging.INFO)
        if not _LOG.hasHandlers():
            _LOG.addHandler(logging.StreamHandler())
    reason = why_off(target)
    if reason is None:
        try:
            _LOG.info("mmformat is on in %s (pid %d): %s", process, os.getpid(), install_it())
        except MMFormatError as error:
            reason = str(error)
    if reason is not None:
        _LOG.warning("mmformat is off in %s (pid %d): %s", process, os.getpid(), reason)


def _install_manager(manager: Any, nbytes: int) -> str:
    ranks = manager.server_args.tp_size

    def create() -> Arena:
        return Arena.create(nbytes=nbytes, ranks=ranks)

    arena = create()
    # Kept with the manager: the arena lives as long as it does.
    manager.mmformat = install(manager, arena=arena, renew=create)
    if getattr(manager.server_args, "enable_metrics", False):
        _export_counts(manager.mmformat.announcer)
    return f"arena {arena.name}, {nbytes:,} bytes, ranks {ranks}"


def _install_scheduler(scheduler: Any) -> str:
    scheduler.mmformat = install(scheduler)
    return f"rank {scheduler.mmformat.rank}"


def _export_counts(announcer: Announcer) -> None:
    """Add the counts to the server's ``/metrics``, in SGLang's own multiprocess registry."""
    prometheus = require("prometheus_client", extra="prometheus")
    counters = {
        name: prometheus.Counter(f"mmformat_{name}", text)
        for name, text in (
            ("handles", "Requests whose media were sent as a handle"),
            ("fallbacks", "Requests whose media were left to the engine's own transport"),
            ("bytes", "Feature bytes of the requests that were sent as a handle"),
            ("hits", "Lookups of content that the arena already held"),
            ("arenas_lost", "Arenas replaced because their name was removed"),
        )
    }
    announcer.on_count = lambda name, number: counters[name].inc(number)
    granted = prometheus.Gauge(
        "mmformat_slots_granted",
        "Handles that some rank has not released",
        multiprocess_mode="livesum",
    )
    threading.Thread(
        target=_watch_slots, args=(announcer, granted), name="mmformat-slots", daemon=True
    ).start()


def _watch_slots(announcer: Announcer, granted: Any) -> None:
    """Update the gauge each second: SGLang's multiprocess metrics cannot call a function."""
    while True:
        try:
            announcer.arena.reap()
            granted.set(announcer.arena.stats().slots_granted)
        except TransportError:  # closed: replaced, or the server is ending
            _LOG.debug("slots of a closed arena are not counted", exc_info=True)
        time.sleep(1.0)


def __getattr__(name: str) -> Any:
    """Return SGLang's HTTP application as ``app``, with the plugins loaded into this process."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("sglang.srt.plugins", extra="sglang").load_plugins()
    return require("sglang.srt.entrypoints.http_server", extra="sglang").app
