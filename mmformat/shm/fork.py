"""What a forked child may not keep: locks, names and the right to say that memory is free."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

__all__ = ["watch"]


class Forkable(Protocol):
    """What an object does around a fork."""

    def before_fork(self) -> None: ...
    def after_fork(self) -> None: ...
    def after_fork_in_child(self) -> None: ...


_WATCHED: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_PAUSED: Final[list[Forkable]] = []
"""Who was told that a fork comes: another thread may add to the watched before it is over."""


def watch(item: Forkable) -> None:
    """Call the object's hooks around every fork of this process, for as long as it lives."""
    _WATCHED.add(item)


def _before() -> None:
    for item in list(_WATCHED):
        item.before_fork()
        _PAUSED.append(item)


def _after() -> None:
    while _PAUSED:
        _PAUSED.pop().after_fork()


def _after_in_child() -> None:
    for item in list(_WATCHED):
        item.after_fork_in_child()
    _WATCHED.clear()
    _PAUSED.clear()


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
