"""Any bytes as an old pickle: values or our errors, nothing opened, imported or executed."""

from __future__ import annotations

import pickletools
import random
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from mmformat.codec import decode, encode
from mmformat.errors import EncodeError, MMFormatError, ModelError
from mmformat.legacy import PickleLimits, convert
from mmformat.testing.equality import twin_of
from tests.fuzz.target import EDGES, Mutate, Target, expect
from tests.security.legacy.attacks import corpus, storage_stream, torch_tensor, torch_zip, zip_root

__all__ = ["PICKLE"]

LIMITS = PickleLimits(
    tensor_nbytes=2**22,
    text_nbytes=2**20,
    values=50_000,
    opcodes=200_000,
    memo=50_000,
    time_s=20,
)
_FOLDER = Path(__file__).parents[1] / "data" / "legacy"
_MAX = 2**14
_FORBIDDEN = ("open", "exec", "import", "compile", "pickle.", "marshal.", "os.", "socket.")
_FORBIDDEN += ("subprocess.", "ctypes.", "shutil.", "urllib.", "mmap.")
_heard: list[str] = []
_listening = False


def _hear(event: str, arguments: Any) -> None:
    if _listening and event.startswith(_FORBIDDEN):
        _heard.append(f"{event} {arguments!r}"[:200])


@cache
def _watch() -> None:
    for seed in pickle_seeds():  # whatever is imported late is imported now
        try:
            _round(convert(seed, isolated=False, limits=LIMITS))
        except MMFormatError as error:
            str(error)
    sys.addaudithook(_hear)


def check_pickle(data: bytes) -> None:
    """Interpret a pickle in this process, where the audit hook hears what it does."""
    global _listening  # noqa: PLW0603 - an audit hook can be neither removed nor given an argument
    _watch()
    _heard.clear()
    inputs = None
    _listening = True
    try:
        inputs = convert(data, isolated=False, limits=LIMITS)
    except MMFormatError as error:
        expect(error.code, "an error without a code")
    finally:
        _listening = False
    expect(not _heard, f"heard {_heard[:3]}")
    if inputs is not None:
        _round(inputs)


def _round(inputs: Any) -> None:
    """What came out of a pickle travels as a message, or the model says why not."""
    try:
        encoded = bytes(encode(inputs))
    except (EncodeError, ModelError):
        return
    expect(twin_of(decode(encoded)) == twin_of(inputs), "a message gives something else")


@cache
def pickle_seeds() -> list[bytes]:
    """Return the engines' files, every attack, and torch's containers."""
    files = [path.read_bytes() for path in sorted(_FOLDER.rglob("*.pkl"))]
    made = [attack.data for attack in corpus() if not attack.limits]
    containers = [storage_stream(), torch_tensor(storage_stream()), torch_zip(zip_root())]
    return [data for data in (*files, *made, *containers) if len(data) <= _MAX]


@cache
def _names() -> list[bytes]:
    """Return opcodes that name or call something, taken from the files of engines."""
    found = set()
    for data in pickle_seeds()[:60]:
        for piece in _opcodes(data):
            if piece[:1] == b"c" or (piece[:1] in b"\x8cX" and b"." in piece):
                found.add(piece)
    return sorted(found)


def _opcodes(data: bytes) -> list[bytes]:
    """Cut a pickle between its instructions; what cannot be read is the last piece."""
    cuts = []
    try:
        cuts = [at for _, _, at in pickletools.genops(data) if at is not None]
    except Exception:
        # pickletools raises many kinds for a broken stream; what it saw so far is good enough.
        cuts = cuts or [0]
    cuts.append(len(data))
    return [data[a:b] for a, b in pairwise(cuts)]


_SMALL = [bytes([op]) for op in b"()]}ltdeaus012NRbo\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94."]


def mutate_pickle(data: bytes, limit: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Insert, remove, repeat and exchange instructions, or just bytes."""
    if chance.random() < 0.3:
        return mutate(data, limit)
    pieces = _opcodes(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(pieces) + 1)
        how = chance.randrange(7)
        if how == 0:
            pieces[at : at + 1] = []
        elif how == 1:
            pieces.insert(at, chance.choice(_SMALL))
        elif how == 2:
            pieces.insert(at, chance.choice(_names()))
        elif how == 3:
            number = chance.choice(EDGES)
            pieces.insert(at, b"\x8a\x09" + number.to_bytes(9, "little", signed=True))
        elif how == 4:
            end = min(len(pieces), at + chance.randrange(1, 8))
            pieces[at:at] = pieces[at:end]
        elif how == 5:
            other = _opcodes(chance.choice(pickle_seeds()))
            start = chance.randrange(len(other))
            pieces[at:at] = other[start : start + chance.randrange(1, 20)]
        elif at < len(pieces) and len(pieces[at]) > 1:
            piece = pieces[at]
            pieces[at] = piece[:1] + mutate(piece[1:], len(piece) + 16)
    return b"".join(pieces)[:limit]


PICKLE = Target(
    name="pickle",
    seeds=pickle_seeds,
    check=check_pickle,
    mutate=mutate_pickle,
    max_nbytes=_MAX,
    modules=("mmformat/legacy",),
)
