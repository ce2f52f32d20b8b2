"""Flip bits and cut messages, and count what a reader makes of each: a value or an error's code."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from mmformat.codec import decode
from mmformat.codec.describe import describe
from mmformat.errors import MMFormatError
from mmformat.model import Limits
from mmformat.testing.corpus import golden_vectors

__all__ = ["LIMITS", "cuts", "flips", "outcome", "sweep"]

LIMITS: Final = Limits(
    message_nbytes=2**20,
    decompressed_nbytes=2**20,
    tensor_nbytes=2**20,
    metadata_nbytes=2**18,
)
"""Small, so that a message that asks for much memory is refused and not served."""


def flips(data: bytes, nbytes: int, *, bits: int = 8) -> Iterator[bytes]:
    """Yield a message once for each of the first ``nbytes`` bytes and each of ``bits`` bits."""
    for at in range(min(nbytes, len(data))):
        for bit in range(bits):
            # Another bit at each byte when only one is asked for.
            changed = bytearray(data)
            changed[at] ^= 1 << ((bit + at) % 8)
            yield bytes(changed)


def cuts(data: bytes) -> Iterator[bytes]:
    """Yield a message cut to every length below its own."""
    for nbytes in range(len(data)):
        yield data[:nbytes]


def outcome(data: bytes, read: Callable[..., Any] = decode) -> str:
    """Return what a reader makes of bytes: ``value``, or the code of its error.

    Raises
    ------
    Exception
        Whatever escapes the reader that is no MMFormatError: a bug.
    """
    try:
        read(data, limits=LIMITS)
    except MMFormatError as error:
        return error.code
    return "value"


def sweep(*, bits: int = 8) -> tuple[Counter[str], list[str]]:
    """Flip the bits of every valid vector, and cut each to every length.

    Parameters
    ----------
    bits : int, default 8
        Bits flipped of each byte, one at a time.

    Returns
    -------
    Counter, list of str
        Cases by outcome, and a traceback for each exception that is no MMFormatError.
    """
    counts: Counter[str] = Counter()
    escaped = []
    for vector in golden_vectors("valid"):
        data = vector.read()
        for kind, cases in (("flip", flips(data, len(data), bits=bits)), ("cut", cuts(data))):
            for case in cases:
                for read in (decode, describe):
                    try:
                        found = outcome(case, read)
                    except Exception:
                        escaped.append(f"{vector.name}, {kind}:\n{traceback.format_exc(limit=-4)}")
                        found = "escaped"
                    counts[f"{kind} {read.__name__} {found}"] += 1
    return counts, escaped


def _main() -> int:
    counts, escaped = sweep()
    for name, count in sorted(counts.items()):
        sys.stdout.write(f"{count:>9,}  {name}\n")
    for text in escaped[:20]:
        sys.stdout.write(f"\n{text}")
    sys.stdout.write(f"{sum(counts.values()):,} cases, {len(escaped)} escaped\n")
    return int(bool(escaped))


if __name__ == "__main__":
    sys.exit(_main())
