"""The processes of one arm, and one round with them."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any, Final

from mmformat.bench.arms import arm_class
from mmformat.bench.crew import Crew
from mmformat.bench.fanout.side import run_producer, run_reader
from mmformat.bench.results import Cell
from mmformat.errors import TransportTimeoutError

__all__ = ["Group"]

_LOOK_S: Final = 0.2


class Group:
    """Direct a producer and its readers by pipes; what is measured goes over ZeroMQ.

    Parameters
    ----------
    crew : Crew
        Where the processes are started.
    arm : str
        The way that they carry.
    ranks : int
        How many readers there are.
    timeout_s : float
        The longest wait for any answer.
    """

    def __init__(self, crew: Crew, arm: str, *, ranks: int, timeout_s: float) -> None:
        self.arm = arm
        self.carries = arm_class(arm).carries
        self._crew = crew
        self._timeout_s = timeout_s
        addresses = [crew.address(f"{arm}-{reader}") for reader in range(ranks)]
        self._producer, theirs = crew.pipe()
        crew.start(f"the producer of {arm}", run_producer, arm, addresses, theirs)
        self._readers: list[Connection] = []
        for reader, address in enumerate(addresses):
            ours, theirs = crew.pipe()
            crew.start(f"reader {reader} of {arm}", run_reader, arm, reader, address, theirs)
            self._readers.append(ours)
        self._before_nbytes = 0

    def wait_ready(self) -> None:
        """Wait until every process has imported what it needs."""
        for pipe in (self._producer, *self._readers):
            self._answer(pipe)

    def load(self, payload: str) -> None:
        """Make the payload and open the arm on both sides."""
        self._before_nbytes = self._ask(self._producer, "load", payload)
        self._before_nbytes += sum(self._ask_all("load", payload))

    def round(self, number: int, cell: Cell, *, is_recorded: bool) -> None:
        """Carry the payload once, check every tensor in every reader, and let all go."""
        expected = self._ask(self._producer, "stamp", number)
        for reader in self._readers:
            reader.send(("receive",))
        for reader in self._readers:
            self._answer(reader)  # waiting
        sent = self._ask(self._producer, "send")
        held = [self._answer(reader) for reader in self._readers]
        # Only now: a reader that hashed would take the others' time.
        pss_nbytes = self._ask(self._producer, "memory") + sum(self._ask_all("memory"))
        if self.carries:
            found = self._ask_all("verify")
            cell.correct = cell.correct and all(digests == expected for digests in found)
        self._ask_all("release")
        self._ask(self._producer, "reclaim")
        cell.wire_nbytes = sent["wire_nbytes"]
        if is_recorded:
            start_ns = sent["start_ns"]
            cell.add(
                encode_ns=sent["encoded_ns"] - start_ns,
                sent_ns=sent["sent_ns"] - start_ns,
                received_ns=max(each["received_ns"] for each in held) - start_ns,
                returned_ns=max(each["returned_ns"] for each in held) - start_ns,
                touched_ns=max(each["touched_ns"] for each in held) - start_ns,
                pss_nbytes=pss_nbytes - self._before_nbytes,
            )

    def unload(self) -> None:
        """Close the arm on both sides."""
        self._ask_all("unload")
        self._ask(self._producer, "unload")

    def end(self) -> None:
        """Tell every process to end."""
        for pipe in (*self._readers, self._producer):
            pipe.send(("end",))

    def _ask_all(self, *words: Any) -> list[Any]:
        for reader in self._readers:
            reader.send(words)
        return [self._answer(reader) for reader in self._readers]

    def _ask(self, pipe: Connection, *words: Any) -> Any:
        pipe.send(words)
        return self._answer(pipe)

    def _answer(self, pipe: Connection) -> Any:
        deadline_s = time.monotonic() + self._timeout_s
        while not pipe.poll(_LOOK_S):
            self._crew.check()
            if time.monotonic() > deadline_s:
                raise TransportTimeoutError(
                    f"expected an answer of {self.arm} within {self._timeout_s:g} s, got none"
                )
        try:
            return pipe.recv()
        except EOFError:
            time.sleep(_LOOK_S)  # until the kernel says how it ended
            self._crew.check()
            raise
