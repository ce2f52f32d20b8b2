"""Run the demo: materialize, share, announce, decode, compare, and the same with pickle."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mmformat.arena import Arena
from mmformat.bench.arms import make_arm
from mmformat.bench.crew import Crew
from mmformat.bench.demo.desk import Desk
from mmformat.bench.demo.rank import fingerprints, run_rank
from mmformat.bench.demo.requests import (
    IMAGES_PER_REQUEST,
    lazy_request,
    materialized,
    with_plain_features,
)
from mmformat.bench.demo.stages import DemoReport, pickle_copies
from mmformat.bench.payloads import tensors_of
from mmformat.codec import encode
from mmformat.measure import clock_ns
from mmformat.model import MultimodalInputs

__all__ = ["DemoOptions", "run_demo"]

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
        self._pickle = make_arm("pickle5")
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
