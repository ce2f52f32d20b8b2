"""The producer's sockets: announce to every rank, and wait for every rank's report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import zmq

from mmformat.bench.crew import Crew
from mmformat.errors import TransportTimeoutError

__all__ = ["Desk"]

_LOOK_MS: Final = 200
"""How often a wait looks after the ranks' lives."""


class Desk:
    """Speak with the ranks of a crew.

    Parameters
    ----------
    crew : Crew
        Whose folder has the sockets, and whose members are looked after while waiting.
    ranks : int
        How many there are.
    timeout_s : float
        The longest wait for any report.
    """

    def __init__(self, crew: Crew, *, ranks: int, timeout_s: float) -> None:
        self._crew = crew
        self._ranks = ranks
        self._timeout_s = timeout_s
        self._context = zmq.Context()
        self._reports = self._context.socket(zmq.PULL)
        self._reports.bind(crew.address("reports"))
        self._out = []
        for rank in range(ranks):
            socket = self._context.socket(zmq.PUSH)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(crew.address(f"rank-{rank}"))
            self._out.append(socket)

    def announce(self, word: str, *frames: Any) -> None:
        """Send to every rank; the socket copies, which is pyzmq's default."""
        for socket in self._out:
            socket.send_multipart([word.encode(), *frames])

    def gather(self, word: str) -> list[dict[str, Any]]:
        """Return every rank's report, in the order of ranks.

        Raises
        ------
        TransportError
            When a rank died.
        TransportTimeoutError
            When a report did not come in time.
        """
        found: dict[int, dict[str, Any]] = {}
        deadline_s = time.monotonic() + self._timeout_s
        while len(found) < self._ranks:
            if self._reports.poll(_LOOK_MS):
                report = json.loads(self._reports.recv())
                if report["word"] == word:
                    found[report["rank"]] = report
                continue
            self._crew.check()
            if time.monotonic() > deadline_s:
                late = [str(rank) for rank in range(self._ranks) if rank not in found]
                raise TransportTimeoutError(
                    f"expected {word!r} from every rank within {self._timeout_s:g} s, got none "
                    f"from rank {', '.join(late)}",
                    hint="a busy machine may need more: --timeout SECONDS",
                )
        return [found[rank] for rank in range(self._ranks)]

    def ask(self, word: str, *frames: Any, answer: str) -> Sequence[dict[str, Any]]:
        """Announce, and gather the answers."""
        self.announce(word, *frames)
        return self.gather(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for socket in (*self._out, self._reports):
            socket.close(linger=1000 if kind is None else 0)
        self._context.term()
