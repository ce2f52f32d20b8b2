"""Every attack surface, by name."""

from __future__ import annotations

from tests.fuzz.frames import DECOMPRESS
from tests.fuzz.messages import DECODE, SCHEMA
from tests.fuzz.network import REMOTE, TICKET
from tests.fuzz.pickles import PICKLE
from tests.fuzz.segments import HANDLE, SEGMENT
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (DECODE, SCHEMA, DECOMPRESS, HANDLE, SEGMENT, PICKLE, REMOTE, TICKET)
}
