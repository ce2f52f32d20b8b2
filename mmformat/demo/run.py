"""Run the demo: materialize, share, announce, decode, compare, and the same with pickle."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mmformat.arena import Arena
from mmformat.bench.crew import Crew
from mmformat.bench.measure import Samples, clock_ns, environment
from mmformat.bench.methods import Pickle5Method
from mmformat.bench.payloads import tensors_of
from mmformat.codec import encode
from mmformat.demo.ranks import Desk, fingerprints, run_rank
from mmformat.demo.requests import (
    IMAGES_PER_REQUEST,
    lazy_request,
    materialized,
    with_plain_features,
)
from mmformat.model import MultimodalInputs

__all__ = [
    "STAGES",
    "DemoOptions",
    "DemoReport",
    "Way",
    "run_demo",
]

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


Follow = Callable[[str, float], None]
"""Told what is being done, and how much of it, 0 to 1, is."""

_SHM: Final = Path("/dev/shm")  # noqa: S108 - where segments are looked for
_SPARE_NBYTES: Final = 2**23


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Choose what the demo shows.

    Parameters
    ----------
    ranks, requests : int
        How many rank processes, and how many requests of three images.
    encoding : {"plain", "dictionary"}
        How features travel in the arena.
    compression : {"none", "lz4", "auto"}
        Of features over 10 MiB.
    timeout_s : float
        The longest wait for any rank.
    """

    ranks: int = 4
    requests: int = 4
    encoding: Literal["plain", "dictionary"] = "plain"
    compression: str = "none"
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class _Request:
    inputs: MultimodalInputs
    plain: MultimodalInputs
    expected: list[dict[str, Any]]
    nbytes: int
    message_nbytes: int


def run_demo(options: DemoOptions, follow: Follow | None = None) -> DemoReport:
    """Run the demo and return what it found.

    Parameters
    ----------
    options : DemoOptions
        What to show.
    follow : callable, optional
        Told what is being done.

    Raises
    ------
    ArenaFullError
        When /dev/shm has not the room.
    TransportError
        When a rank dies, with code ``rank-died``.
    TransportTimeoutError
        When a rank does not answer in time.

    Notes
    -----
    However it ends, the ranks are gone and the arena is removed.
    """
    tell = follow or (lambda text, done: None)
    report = DemoReport(
        ranks=options.ranks,
        requests=options.requests,
        images=options.requests * IMAGES_PER_REQUEST,
        encoding=options.encoding,
        compression=options.compression,
    )
    tell(f"starting {options.ranks} ranks", 0.0)
    with Crew() as crew, Desk(crew, ranks=options.ranks, timeout_s=options.timeout_s) as desk:
        for rank in range(options.ranks):
            crew.start(
                f"rank {rank}",
                run_rank,
                rank,
                crew.address(f"rank-{rank}"),
                crew.address("reports"),
            )
        desk.gather("ready")
        requests = _materialize(options, report, tell)
        with Arena.create(nbytes=_arena_nbytes(requests), ranks=options.ranks) as arena:
            desk.ask("attach", arena.name.encode(), answer="attached")
            _Run(options, report, desk, arena).all(requests, tell)
            desk.announce("end")
    report.left_in_shm = sorted(
        path.name for path in _SHM.glob("mmf*") if f"-{os.getpid()}-" in path.name
    )
    tell("done", 1.0)
    return report


def _materialize(options: DemoOptions, report: DemoReport, tell: Follow) -> list[_Request]:
    materialized(lazy_request(0), encoding=options.encoding)  # imports and tables, once
    requests = []
    for number in range(options.requests):
        tell(f"materializing request {number + 1}", 0.2 + 0.2 * number / options.requests)
        lazy = lazy_request(number)
        start_ns = clock_ns()
        inputs = materialized(lazy, encoding=options.encoding)
        duration_ns = clock_ns() - start_ns
        plain = with_plain_features(inputs)
        nbytes = sum(tensor.nbytes for tensor in tensors_of(plain))
        message_nbytes = encode(inputs).nbytes
        report.own.add("materialize", duration_ns, nbytes=message_nbytes)
        report.pickle.add("materialize", duration_ns, nbytes=nbytes)
        report.tensor_nbytes += nbytes
        requests.append(_Request(inputs, plain, fingerprints(plain), nbytes, message_nbytes))
    return requests


def _arena_nbytes(requests: Sequence[_Request]) -> int:
    """Return room for all requests, so that they can be asked for again, or for as many as fit."""
    sizes = [request.message_nbytes + 2**16 for request in requests]
    status = os.statvfs(_SHM)
    room = status.f_bavail * status.f_frsize - _SPARE_NBYTES
    return max(*sizes, min(sum(sizes), room))


class _Run:
    """Carry each request both ways, and compare."""

    def __init__(self, options: DemoOptions, report: DemoReport, desk: Desk, arena: Arena) -> None:
        self._options = options
        self._report = report
        self._desk = desk
        self._arena = arena
        self._pickle = Pickle5Method()
        self._compression = None if options.compression == "none" else options.compression

    def all(self, requests: Sequence[_Request], tell: Follow) -> None:
        """Warm both ways up, measure both, then ask for everything again."""
        self._warm_up()
        for number, request in enumerate(requests):
            tell(f"sharing request {number + 1}", 0.4 + 0.5 * number / len(requests))
            self._share(request, is_again=False)
            tell(f"pickling request {number + 1}", 0.4 + 0.5 * (number + 0.5) / len(requests))
            self._by_pickle(request)
        for request in requests:
            tell("asking for the same again", 0.9)
            self._share(request, is_again=True)

    def _warm_up(self) -> None:
        # Imports, first faults of code and sockets, in every process. Its content is not that of
        # any request, so nothing is there beforehand.
        small = MultimodalInputs(request_data={"warm": "up"})
        for word, frame in (
            ("share", bytes(self._arena.put(small))),
            ("pickle", self._pickle.encode(small)[0]),
        ):
            self._desk.ask(word, frame, answer="held")
            self._desk.ask("release", answer="released")

    def _share(self, request: _Request, *, is_again: bool) -> None:
        start_ns = clock_ns()
        handle = self._arena.put(
            request.inputs, compression=self._compression, timeout_s=self._options.timeout_s
        )
        put_ns = clock_ns()
        reports = self._desk.ask("share", bytes(handle), answer="held")
        ways = self._report
        if is_again:
            ways.own.add("again", max(each["touched_ns"] for each in reports) - start_ns)
        else:
            announced = len(bytes(handle)) * ways.ranks
            ways.handle_nbytes = max(ways.handle_nbytes, len(bytes(handle)))
            ways.message_nbytes += handle.nbytes
            # What is expanded or decompressed is written once in each rank.
            anew = 0 if ways.promises_views else self._written_nbytes(request) * ways.ranks
            ways.own.add_run(
                start_ns=start_ns,
                serialized_ns=put_ns,
                reports=list(reports),
                nbytes=(handle.nbytes, announced, anew),
                copies=(1, 0, ways.ranks if anew else 0),
            )
        self._verify(request, own=True)

    def _written_nbytes(self, request: _Request) -> int:
        if self._options.encoding == "dictionary":
            return request.nbytes
        return sum(
            tensor.nbytes for tensor in tensors_of(request.plain) if tensor.nbytes > 10 * 2**20
        )

    def _by_pickle(self, request: _Request) -> None:
        start_ns = clock_ns()
        frames = self._pickle.encode(request.plain)
        dumped_ns = clock_ns()
        reports = self._desk.ask("pickle", *frames, answer="held")
        copies = pickle_copies(self._report.ranks)
        self._report.pickle.add_run(
            start_ns=start_ns,
            serialized_ns=dumped_ns,
            reports=list(reports),
            nbytes=(request.nbytes * copies[0], request.nbytes * copies[1],
                    request.nbytes * copies[2]),
            copies=copies,
        )  # fmt: skip
        self._verify(request, own=False)

    def _verify(self, request: _Request, *, own: bool) -> None:
        report = self._report
        for answer in self._desk.ask("verify", answer="verified"):
            report.tensors_checked += len(request.expected)
            same = [
                found == expected
                for found, expected in zip(answer["tensors"], request.expected, strict=False)
            ]
            report.tensors_identical += sum(same)
            if own:
                report.tensors_inside += sum(answer["inside"])
                report.tensors_outside += len(answer["inside"]) - sum(answer["inside"])
        self._desk.ask("release", answer="released")
