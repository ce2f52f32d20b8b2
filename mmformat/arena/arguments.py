"""What callers pass, checked at the door, so that a slip is named and nothing foreign escapes."""

from __future__ import annotations

from collections.abc import Sequence

from mmformat.errors import TransportError

__all__ = ["check_choice", "check_count", "check_timeout"]


def check_count(value: object, name: str) -> None:
    """Raise unless the value is an int.

    Raises
    ------
    TransportError
        With code ``arena-argument``; bounds are the transport's to check.
    """
    if type(value) is not int:
        raise TransportError(
            f"expected an int, got {type(value).__name__}", path=f"$.{name}", code="arena-argument"
        )


def check_timeout(value: object, name: str = "timeout_s") -> None:
    """Raise unless the value is a number of seconds, 0 or more.

    Raises
    ------
    TransportError
        With code ``arena-argument``, also for NaN.
    """
    if not isinstance(value, (int, float)) or not value >= 0:
        raise TransportError(
            f"expected seconds of 0 or more, got {value!r}", path=f"$.{name}", code="arena-argument"
        )


def check_choice(value: object, choices: Sequence[object], name: str) -> None:
    """Raise unless the value is one of the choices.

    Raises
    ------
    TransportError
        With code ``arena-argument``.
    """
    if not isinstance(value, str) or value not in choices:
        raise TransportError(
            f"expected one of {', '.join(map(repr, choices))}, got {value!r}",
            path=f"$.{name}",
            code="arena-argument",
        )
