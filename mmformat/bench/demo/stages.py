"""What the demo found: milliseconds, bytes and copies by stage, and whether every bit is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from mmformat.measure import Samples, environment

__all__ = ["STAGES", "DemoReport", "Way"]

STAGES: Final = {
    "materialize": "materialize the images",
    "serialize": "encode into the arena | dumps",
    "send": "announce to the last rank | send",
    "deserialize": "decode to torch | loads",
    "touch": "read every page",
    "all": "from encode to the last page read",
    "again": "again, content already there",
}

# How often the payload's bytes are written per request, in all processes together. For pickle 5
# in-band with torch tensors: dumps writes each storage into a BytesIO and that into the pickle;
# each send copies into a ZeroMQ message, the kernel copies it in and out, and recv copies it
# out; loads makes a bytes of it and reads the storage from that. Reallocation is not counted.
_PICKLE_DUMPS: Final = 2
_PICKLE_SEND_PER_RANK: Final = 4
_PICKLE_LOADS_PER_RANK: Final = 2


@dataclass(slots=True)
class Way:
    """Hold one way's samples by stage, and how many bytes each stage moves."""

    samples: dict[str, Samples] = field(default_factory=dict)
    moved_nbytes: dict[str, list[int]] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)

    def add(self, stage: str, duration_ns: int, *, nbytes: int = 0, copies: int = 0) -> None:
        """Add one request."""
        self.samples.setdefault(stage, Samples("ns")).values.append(duration_ns)
        self.moved_nbytes.setdefault(stage, []).append(nbytes)
        self.copies[stage] = copies

    def to_json(self) -> dict[str, Any]:
        """Return the stages for a program."""
        return {
            stage: {
                **samples.to_json(),
                "moved_nbytes": self.moved_nbytes[stage],
                "copies": self.copies[stage],
            }
            for stage, samples in self.samples.items()
        }

    def add_run(
        self,
        *,
        start_ns: int,
        serialized_ns: int,
        reports: list[dict[str, Any]],
        nbytes: tuple[int, int, int],
        copies: tuple[int, int, int],
    ) -> None:
        """Add one request's times; bytes and copies are of serialize, send and deserialize."""
        received = [report["received_ns"] for report in reports]
        decode = sorted(report["decoded_ns"] - report["received_ns"] for report in reports)
        read = sorted(report["touched_ns"] - report["decoded_ns"] for report in reports)
        middle = len(reports) // 2
        self.add("serialize", serialized_ns - start_ns, nbytes=nbytes[0], copies=copies[0])
        self.add("send", max(received) - serialized_ns, nbytes=nbytes[1], copies=copies[1])
        self.add("deserialize", decode[middle], nbytes=nbytes[2], copies=copies[2])
        self.add("touch", read[middle])
        last_ns = max(report["touched_ns"] for report in reports)
        self.add("all", last_ns - start_ns, nbytes=sum(nbytes), copies=sum(copies))


def pickle_copies(ranks: int) -> tuple[int, int, int]:
    """Return how often pickle in-band writes the payload: dumps, send, loads."""
    return _PICKLE_DUMPS, _PICKLE_SEND_PER_RANK * ranks, _PICKLE_LOADS_PER_RANK * ranks


@dataclass(slots=True, kw_only=True)
class DemoReport:
    """Hold what the demo found.

    Parameters
    ----------
    ranks, requests, images : int
        How many.
    encoding, compression : str
        As chosen.
    tensor_nbytes, message_nbytes : int
        Of all requests: the tensors, and the messages in the arena.
    handle_nbytes : int
        The longest announcement.
    tensors_checked, tensors_identical : int
        Over all ranks and ways.
    tensors_inside, tensors_outside : int
        How many of the arena's lie within its mapping, and how many were written anew.
    left_in_shm : list of str
        Segments of ours that are still there.
    own, pickle : Way
        The stages.
    """

    ranks: int
    requests: int
    images: int
    encoding: str
    compression: str
    tensor_nbytes: int = 0
    message_nbytes: int = 0
    handle_nbytes: int = 0
    tensors_checked: int = 0
    tensors_identical: int = 0
    tensors_inside: int = 0
    tensors_outside: int = 0
    left_in_shm: list[str] = field(default_factory=list)
    own: Way = field(default_factory=Way)
    pickle: Way = field(default_factory=Way)
    environment: dict[str, Any] = field(default_factory=environment)

    @property
    def promises_views(self) -> bool:
        """Whether every tensor must lie in the arena: nothing is expanded or decompressed."""
        return self.encoding == "plain" and self.compression == "none"

    @property
    def is_ok(self) -> bool:
        """Whether every tensor is right, where it must be, and nothing is left behind."""
        identical = 0 < self.tensors_checked == self.tensors_identical
        views = self.tensors_outside == 0 or not self.promises_views
        return identical and views and not self.left_in_shm

    def to_json(self) -> dict[str, Any]:
        """Return everything for a program."""
        return {
            "ok": self.is_ok,
            "ranks": self.ranks,
            "requests": self.requests,
            "images": self.images,
            "encoding": self.encoding,
            "compression": self.compression,
            "tensor_nbytes": self.tensor_nbytes,
            "message_nbytes": self.message_nbytes,
            "handle_nbytes": self.handle_nbytes,
            "tensors_checked": self.tensors_checked,
            "tensors_identical": self.tensors_identical,
            "tensors_inside": self.tensors_inside,
            "tensors_outside": self.tensors_outside,
            "left_in_shm": self.left_in_shm,
            "stages": {"mmformat": self.own.to_json(), "pickle5": self.pickle.to_json()},
            "environment": self.environment,
        }
