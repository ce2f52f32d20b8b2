"""Flip every bit and cut every length of messages, and count what a reader makes of each."""

from __future__ import annotations

import resource
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, Final, NamedTuple

from mmformat.codec import decode
from mmformat.codec.describe import describe
from mmformat.codec.plans import forget_plans
from mmformat.errors import MMFormatError
from mmformat.model import Limits, MultimodalInputs
from mmformat.model.identity import identity_of
from mmformat.testing.corpus import Vector, golden_vectors
from mmformat.testing.equality import twin_of

__all__ = ["LIMITS", "PEAK_NBYTES", "Swept", "cuts", "flips", "outcome", "sweep"]

LIMITS: Final = Limits(
    message_nbytes=2**20,
    decompressed_nbytes=2**20,
    tensor_nbytes=2**20,
    metadata_nbytes=2**18,
)
"""Small, so that a message that asks for much memory is refused and not served."""

PEAK_NBYTES: Final = 32 * 2**20
"""How much more memory than before the process may ever take while it reads under LIMITS."""

_VALUES: Final = {
    (True, True): "value",
    (False, False): "value, other items: the digest differs",
    (True, False): "value, other items: SILENT",
    (False, True): "value, same items: the digest differs",
}


class Swept(NamedTuple):
    """Hold what a sweep found.

    Parameters
    ----------
    counts : Counter
        Cases by kind, reader and outcome: a value, or the code of an error.
    escaped : list of str
        A traceback for each exception that is no MMFormatError.
    silent : int
        Messages with other tensors or values in their items under the digest of the right ones.
    peak_nbytes : int
        By how much the process's memory grew at most, after every vector had been read once.
    """

    counts: Counter[str]
    escaped: list[str]
    silent: int
    peak_nbytes: int


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


def sweep(*, bits: int = 8, is_warm: bool = False) -> Swept:
    """Flip the bits of every valid vector, and cut each to every length.

    What is still read is held against the digest of the right items and against their values.

    Parameters
    ----------
    bits : int, default 8
        Bits flipped of each byte, one at a time.
    is_warm : bool, default False
        Decode the right message first, so that a plan of its structure is there for each case.
    """
    counts: Counter[str] = Counter()
    escaped: list[str] = []
    # Read all of them as they are first: what a library takes once is not what a case takes.
    rights = [_Right(vector, decode(vector.read())) for vector in golden_vectors("valid")]
    for right in rights:
        right.decode(right.vector.read(), limits=LIMITS)
    before_nbytes = _peak_nbytes()
    for right in rights:
        vector, data = right.vector, right.vector.read()
        forget_plans()
        for _ in range(3 * is_warm):
            right.decode(data, limits=LIMITS)
        for kind, cases in (("flip", flips(data, len(data), bits=bits)), ("cut", cuts(data))):
            for case in cases:
                for read in (right.decode, describe):
                    name = getattr(read, "__name__", "decode")
                    try:
                        found = outcome(case, read)
                    except Exception:
                        escaped.append(f"{vector.name}, {kind}:\n{traceback.format_exc(limit=-4)}")
                        found = "escaped"
                    if read == right.decode and found == "value":
                        found = right.found
                    counts[f"{kind} {name} {found}"] += 1
    silent = sum(count for name, count in counts.items() if name.endswith("SILENT"))
    return Swept(counts, escaped, silent, _peak_nbytes() - before_nbytes)


class _Right:
    """Know a vector's right items, and say what became of those of a changed message."""

    def __init__(self, vector: Vector, inputs: MultimodalInputs) -> None:
        self.vector = vector
        self.items = vector.expected()["items"]
        self.digests = _digests(inputs)
        self.found = ""

    def decode(self, data: bytes, *, limits: Limits) -> None:
        inputs = decode(data, limits=limits)
        same = [_content(item) for item in twin_of(inputs)["items"]] == [
            _content(item) for item in self.items
        ]
        self.found = _VALUES[_digests(inputs) == self.digests, same]


_IN_THE_DIGEST: Final = ("modality", "feature", "precomputed_embeddings", "model_specific_data")


def _content(item: dict[str, Any]) -> list[Any]:
    return [item[name] for name in _IN_THE_DIGEST]


def _digests(inputs: MultimodalInputs) -> list[str]:
    """Return the digest of each item's content, whatever identity the message claims."""
    found = []
    for item in inputs.items:
        bare = copy(item)
        bare.identity = None
        found.append(identity_of(bare))
    return found


def _peak_nbytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _main() -> int:
    return _told(sweep()) | _told(sweep(is_warm=True))


def _told(swept: Swept) -> int:
    for name, count in sorted(swept.counts.items()):
        sys.stdout.write(f"{count:>9,}  {name}\n")
    for text in swept.escaped[:20]:
        sys.stdout.write(f"\n{text}")
    sys.stdout.write(
        f"{sum(swept.counts.values()):,} cases, {len(swept.escaped)} escaped, {swept.silent} with "
        f"other items under the right digest, at most {swept.peak_nbytes >> 20} MiB more memory\n"
    )
    return int(bool(swept.escaped or swept.silent or swept.peak_nbytes > PEAK_NBYTES))


if __name__ == "__main__":
    sys.exit(_main())
