"""Run the axes of growth, each with our arena, pickle and a memcpy in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mmformat.bench.growth.fans import grow_fans
from mmformat.bench.growth.puts import grow_bytes, grow_items, grow_requests
from mmformat.bench.results import Result
from mmformat.bench.scenarios import SCENARIOS, Follow

__all__ = ["run_growth"]

_GROWTH: Final = SCENARIOS["growth"]
_IN_PROCESS: Final = {"bytes": grow_bytes, "items": grow_items, "requests": grow_requests}
_READERS: Final = (1, 2, 4, 8)


def run_growth(
    *,
    payloads: Sequence[str] = _GROWTH.payloads,
    arms: Sequence[str] = _GROWTH.arms,
    rounds: int | None = None,
    quick: bool = False,
    ranks: Sequence[int] | None = None,
    full: bool = False,
    follow: Follow | None = None,
) -> Result:
    """Measure ``cost_ns`` along each axis.

    Parameters
    ----------
    payloads : sequence of str
        The axes. ``bytes``, ``items`` and ``requests`` measure encoding, as put does it, in one
        process, and ``get_ns`` of decoding; ``ranks`` measures the producer until all was sent,
        and ``knee`` until the last reader has read every page, both with real processes.
    arms : sequence of str
        Their names.
    rounds : int, optional
        How often the arms take turns; 7, or 3 with more than 64 MB, when omitted.
    quick : bool
        Three rounds of small sizes.
    readers : sequence of int, optional
        Readers of ``ranks`` and ``knee``; 1, 2, 4 and 8 when omitted.
    full : bool
        The knee up to 512 MB too.
    follow : callable, optional
        Told what is being done.
    """
    tell = follow or (lambda text, done: None)
    counts = tuple(ranks or ((1, 2) if quick else _READERS))
    settings: dict[str, Any] = {"quick": quick, "rounds": rounds, "full": full, "readers": counts}
    result = Result(scenario="growth", settings=settings)
    steps = len(payloads)
    for number, axis in enumerate(payloads):
        tell(axis, number / steps)
        if axis in _IN_PROCESS:
            _IN_PROCESS[axis](result, arms, rounds=rounds, quick=quick)
    fans = [axis for axis in payloads if axis in ("ranks", "knee")]
    if fans:
        grow_fans(
            result,
            arms,
            axes=fans,
            ranks=counts,
            rounds=rounds,
            quick=quick,
            full=full,
            tell=lambda text, done: tell(text, 1 - len(fans) / steps * (1 - done)),
        )
    return result
