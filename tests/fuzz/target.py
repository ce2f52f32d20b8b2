"""What a fuzzer needs of one attack surface: seeds, a mutation that knows its form, an oracle."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["EDGES", "Mutate", "Target", "expect", "some_bytes"]

Mutate = Callable[[bytes, int], bytes]
"""Change bytes without knowing what they are; never more than so many of them."""

EDGES = (
    *(0, 1, 2, 3, 4, 7, 8, 9, 12, 13, 63, 64, 65, 127, 128, 255, 256, 4095, 4096, 65535, 65536),
    *(2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1),
    *(-1, -2, -8, -64, -(2**31), -(2**63)),
)
"""Numbers at which arithmetic goes wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Hold one attack surface.

    Parameters
    ----------
    name : str
        What it is called on the command line.
    seeds : callable
        Inputs to begin with.
    check : callable
        Read the bytes; raises whatever must never be raised: AssertionError where the answer is
        wrong, anything else where an exception escaped.
    mutate : callable
        Change an input in its own terms: the input, the most bytes that it may have, randomness,
        and how bytes without a form are changed.
    max_nbytes : int
        The most bytes of an input.
    modules : tuple of str
        Whose lines count as covered.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    check: Callable[[bytes], None]
    mutate: Callable[[bytes, int, random.Random, Mutate], bytes]
    max_nbytes: int
    modules: tuple[str, ...]


def expect(holds: object, what: str) -> None:
    """Raise AssertionError unless ``holds``; assertions of Python could be switched off."""
    if not holds:
        raise AssertionError(what)


def some_bytes(chance: random.Random) -> Mutate:
    """Return a mutation for runs without atheris: bytes set, inserted, removed, repeated."""

    def mutate(data: bytes, max_nbytes: int) -> bytes:
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 4))):
            at = chance.randrange(len(changed) + 1)
            new = chance.choice(
                (
                    chance.randbytes(chance.randrange(1, 9)),
                    chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * chance.choice((1, 4, 8)),
                    bytes(changed[at : at + chance.randrange(1, 33)]),
                )
            )
            changed[at : at + chance.choice((0, len(new), len(new), 1, 8))] = new
        return bytes(changed[:max_nbytes])

    return mutate
