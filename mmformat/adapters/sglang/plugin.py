"""SGLang's plugin hook: install the adapter in every process of a server that asks for it."""

from __future__ import annotations

import os
from typing import Any, Final

from mmformat._extras import require
from mmformat.adapters.sglang.installation import install
from mmformat.arena import Arena
from mmformat.errors import ModelError

__all__ = ["VARIABLE", "register"]

VARIABLE: Final = "MMFORMAT_SGLANG_ARENA_NBYTES"
"""The arena's size; the plugin does nothing where it is not set."""

_MANAGERS: Final = "sglang.srt.managers."


def register() -> None:
    """Have the adapter installed in each process of SGLang, if the variable is set.

    SGLang 0.5.23 calls it in every process by the entry point of the group
    ``sglang.srt.plugins``. With the variable unset nothing is imported and nothing changes.

    Raises
    ------
    ModelError
        When the variable is no number of bytes.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return
    if not text.isdecimal() or int(text) < 1:
        raise ModelError(f"expected a number of bytes in {VARIABLE}, got {text!r}")
    nbytes = int(text)
    hooks = require("sglang.srt.plugins.hook_registry", extra="sglang")

    def made_manager(result: Any, manager: Any, *_args: Any, **_options: Any) -> Any:
        arena = Arena.create(nbytes=nbytes, ranks=manager.server_args.tp_size)
        # Kept with the manager: the arena lives as long as it does.
        manager.mmformat = (arena, install(manager, arena=arena))
        return result

    def made_scheduler(result: Any, scheduler: Any, *_args: Any, **_options: Any) -> Any:
        scheduler.mmformat = install(scheduler)
        return result

    after = hooks.HookType.AFTER
    hooks.HookRegistry.register(
        _MANAGERS + "tokenizer_manager.TokenizerManager.__init__", made_manager, after
    )
    hooks.HookRegistry.register(_MANAGERS + "scheduler.Scheduler.__init__", made_scheduler, after)
