"""Name the steps of the protocol, so that a test can kill a process at each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["STEPS", "step"]

STEPS: Final = {
    "producer": (
        "create.opened",
        "create.locked",
        "create.allocated",
        "create.header",
        "create.ready",
        "reserve.allocated",
        "seal.record",
        "seal.sealed",
        "reuse.freed",
        "close.closed",
        "close.unlinked",
    ),
    "reader": (
        "attach.opened",
        "attach.locked",
        "attach.given-back",
        "attach.attached",
        "map.checked",
        "map.mapped",
        "release.unmapped",
        "release.released",
        "detach.detached",
    ),
}
"""Every label, by role; docs/arena.md says what a death at each leaves."""

_hook: Callable[[str], None] | None = None


def step(label: str) -> None:
    """Tell the hook, when a test has set one, that the protocol has come to this step."""
    if _hook is not None:
        _hook(label)
