"""The chaos run: who dies when, who is started again, and what everybody received."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.chaos import roles
from mmformat.shm import list_segments, sweep
from mmformat.shm.failpoints import STEPS

SPAWN = multiprocessing.get_context("spawn")
WINDOW = 6
RANK_STEPS = [*STEPS["reader"][:-1], "anywhere", "anywhere", "anywhere"]
PRODUCER_STEPS = ["reserve.allocated", "seal.record", "seal.sealed", "reuse.freed"]
PATIENCE_S = 60.0


@dataclass
class Process:
    """A child and our end of its pipe."""

    child: Any
    pipe: Connection
    waiting: dict[int, tuple[bytes, list[str]]] = field(default_factory=dict)
    attached: bool = False

    def end(self) -> None:
        """Close the pipe, and wait until the process has ended by itself."""
        self.pipe.close()
        self.child.join(PATIENCE_S)
        if self.child.is_alive():
            raise RuntimeError(f"{self.child.name} does not end")


def _start(target: Any, *arguments: Any) -> Process:
    ours, theirs = SPAWN.Pipe()
    child = SPAWN.Process(target=target, args=(theirs, *arguments), daemon=True)
    child.start()
    theirs.close()
    return Process(child, ours)


class Chaos:
    """Run requests through one producer and N ranks while they are killed."""

    def __init__(self, directory: Path, *, requests: int, ranks: int, seed: int) -> None:
        self.directory = directory
        self.requests = requests
        self.seed = seed
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.deaths: Counter[str] = Counter()
        self.put_s: list[float] = []
        self.give_back_s: list[float] = []
        self.ranks: list[Process | None] = [None] * ranks
        self.started = 0
        self.next_rank_death = 0
        self.producer: Process
        self.name = ""

    def run(self) -> dict[str, Any]:
        """Run to the end and return the figures."""
        started_s = time.monotonic()
        self._start_producer()
        deaths = sorted(self.rng.sample(range(self.requests // 10, self.requests - 20), 2))
        number = 0
        while number < self.requests:
            if deaths and number >= deaths[0]:
                deaths.pop(0)
                label = self.rng.choice(PRODUCER_STEPS)
                self.producer.pipe.send(("die", label, self.rng.randint(1, 3)))
            if number >= self.next_rank_death:
                self._kill_some_rank()
                self.next_rank_death = number + self.rng.randint(5, 40)
            if self._put(number):
                number += 1
            self._listen(WINDOW - 1)
        self._listen(0)
        self.producer.pipe.send(("die", "never", 1))
        self._measure_give_back()
        return self._finish(time.monotonic() - started_s)

    def _start_producer(self) -> None:
        self.producer = _start(roles.producer, self.directory, len(self.ranks))
        self.name = self._answer(self.producer)[1]
        for number in range(len(self.ranks)):
            self._start_rank(number)

    def _start_rank(self, number: int, plan: tuple[str, int] | None = None) -> None:
        if (old := self.ranks[number]) is not None:
            old.end()
        self.started += 1
        new = _start(roles.rank, self.directory, number, self.name, self.started)
        self.ranks[number] = new
        try:
            new.pipe.send(plan)
            new.attached = self._answer(new)[0] == "attached"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._bury(number)

    def _kill_some_rank(self) -> None:
        number = self.rng.randrange(len(self.ranks))
        label = self.rng.choice(RANK_STEPS)
        self.deaths[label] += 1
        process = self.ranks[number]
        if label == "anywhere":
            if process is not None:
                process.child.kill()
        else:
            self._listen(0)  # so that ending it loses no answer
            self._start_rank(number, (label, self.rng.randint(1, 5)))

    def _bury(self, number: int) -> None:
        process = self.ranks[number]
        if process is not None:
            self.counts["lost with their rank"] += len(process.waiting)
            self.counts["rank deaths"] += 1
            process.child.join()
            process.pipe.close()
        self.ranks[number] = None
        if self.producer.child.is_alive():
            self._start_rank(number)
            # What its predecessor had not answered: stale for it, or right if nobody was there.
            for request, announced in process.waiting.items() if process else ():
                self.counts["announced again"] += self._announce(number, request, announced)

    def _put(self, number: int) -> bool:
        try:
            self.producer.pipe.send(("put", number, PATIENCE_S))
            verb, *answer = self._answer(self.producer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._replace_producer()
            return False
        if verb == "full":
            raise RuntimeError(f"a put of request {number} found no room: {answer}")
        handle, digests, seconds = answer
        self.put_s.append(seconds)
        self.counts["put"] += 1
        for rank in range(len(self.ranks)):
            self.counts["announced"] += self._announce(rank, number, (handle, digests))
        return True

    def _announce(self, rank: int, number: int, announced: tuple[bytes, list[str]]) -> bool:
        process = self.ranks[rank]
        if process is None:
            return False
        process.waiting[number] = announced
        try:
            process.pipe.send((number, *announced))
        except (BrokenPipeError, ConnectionResetError):
            self._bury(rank)
        return True

    def _replace_producer(self) -> None:
        """Ranks finish what they have, valid to the last byte; then all start over."""
        self.producer.child.join()
        self.counts["producer deaths"] += 1
        self._listen(0)
        for process in self.ranks:
            if process is not None:
                process.end()
        self.ranks = [None] * len(self.ranks)
        self._start_producer()
        left = [info.name for info in list_segments(self.directory) if info.name != self.name]
        if left:
            raise RuntimeError(f"the next start left {left}")

    def _listen(self, most: int) -> None:
        """Take answers until no rank has more than so many handles before it."""
        while True:
            behind = [p for p in self.ranks if p is not None and len(p.waiting) > most]
            pipes = {p.pipe: n for n, p in enumerate(self.ranks) if p is not None}
            ready = wait(list(pipes), timeout=PATIENCE_S if behind else 0)
            if behind and not ready:
                raise RuntimeError("a rank hangs")
            for pipe in ready:
                process = self.ranks[pipes[pipe]]
                if process is None or process.pipe is not pipe:
                    continue  # buried and replaced in this round
                try:
                    verb, number = pipe.recv()
                except (EOFError, ConnectionResetError):
                    self._bury(pipes[pipe])
                    continue
                self.counts[verb] += 1
                process.waiting.pop(number, None)
            if not behind and not ready:
                return

    def _measure_give_back(self) -> None:
        """Kill every rank at once, and time until the producer has everything back."""
        for process in self.ranks:
            if process is not None:
                process.child.kill()
        killed_s = time.monotonic()
        while True:
            self.producer.pipe.send(("stats",))
            stats = self._answer(self.producer)[1]
            if stats.slots_granted == 0 and stats.readers_attached == 0:
                break
            if time.monotonic() - killed_s > PATIENCE_S:
                raise RuntimeError(f"never given back: {stats}")
            time.sleep(0.002)
        self.give_back_s.append(time.monotonic() - killed_s)
        self.counts["reclaimed in the last arena"] = stats.reclaimed

    def _answer(self, process: Process) -> Any:
        if not process.pipe.poll(2 * PATIENCE_S):
            raise RuntimeError(f"{process.child.name} hangs")
        return process.pipe.recv()

    def _finish(self, seconds: float) -> dict[str, Any]:
        for process in self.ranks:
            if process is not None:
                process.end()
        self.producer.end()
        swept = sweep(self.directory)
        left = [path.name for path in self.directory.glob("mmf-*")]
        return {
            "requests": self.requests,
            "seed": self.seed,
            "ranks": len(self.ranks),
            "seconds": round(seconds, 1),
            "counts": dict(self.counts),
            "rank_deaths_planned_at": dict(self.deaths),
            "put_median_ms": round(sorted(self.put_s)[len(self.put_s) // 2] * 1e3, 3),
            "give_back_s": [round(value, 3) for value in self.give_back_s],
            "swept_at_the_end": swept,
            "segments_left": left,
        }


def problems(figures: dict[str, Any]) -> list[str]:
    """Return what went wrong, from the figures of a run."""
    counts = figures["counts"]
    found = []
    if counts.get("wrong"):
        found.append(f"{counts['wrong']} deliveries with wrong bytes")
    if not counts.get("right"):
        found.append("nothing was delivered")
    if figures["segments_left"] or figures["swept_at_the_end"]:
        found.append(f"segments left: {figures['segments_left'] or figures['swept_at_the_end']}")
    answered = sum(counts.get(verb, 0) for verb in ("right", "stale", "lost with their rank"))
    announced = counts["announced"] + counts.get("announced again", 0)
    if answered != announced:
        found.append(f"{announced} announced and {answered} accounted for")
    if max(figures["give_back_s"]) > 1.0:
        found.append(f"dead ranks held memory for {max(figures['give_back_s'])} s")
    return found
