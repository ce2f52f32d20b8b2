"""The one ruler: interleaved timing with raw samples, memory, and what the machine was."""

from __future__ import annotations

import gc
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

__all__ = [
    "Case",
    "Cell",
    "Memory",
    "Samples",
    "Turn",
    "clock_ns",
    "environment",
    "interleaved",
    "memory",
    "minor_faults",
    "turns",
    "without_collection",
]

_PACKAGES: Final = (
    "mmformat", "numpy", "pyarrow", "torch", "pillow", "pyzmq", "blake3", "lz4", "msgspec",
    "safetensors", "transformers", "vllm", "sglang",
)  # fmt: skip

clock_ns: Final = time.monotonic_ns
"""Nanoseconds of CLOCK_MONOTONIC, which every process of a machine shares."""


@dataclass(slots=True)
class Samples:
    """Hold every measured value of one quantity, in the order of measurement.

    Parameters
    ----------
    unit : str
        The unit of the values, as ``"ns"``.
    values : list of float
        The raw samples.

    Examples
    --------
    >>> samples = Samples("ns", [4.0, 1.0, 2.0, 3.0])
    >>> samples.n, samples.median, samples.iqr
    (4, 2.5, 1.5)
    """

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.values)

    @property
    def median(self) -> float:
        """The middle value; not a number when there is none."""
        return statistics.median(self.values) if self.values else float("nan")

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile, the samples taken as the whole population."""
        if len(self.values) < 2:
            return self.median, self.median
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    @property
    def iqr(self) -> float:
        """The distance between the quartiles."""
        first, third = self.quartiles
        return third - first

    def to_json(self) -> dict[str, Any]:
        """Return the samples and what is made from them, for a report."""
        first, third = self.quartiles
        return {
            "unit": self.unit,
            "n": self.n,
            "median": self.median,
            "q1": first,
            "q3": third,
            "iqr": third - first,
            "samples": list(self.values),
        }


@dataclass(slots=True, kw_only=True)
class Cell:
    """Hold what was measured of one method with one payload.

    Parameters
    ----------
    payload, method : str
        Their names.
    metrics : dict of str to Samples
        Raw samples by what they measure.
    wire_nbytes : int
        Bytes that travel in the message itself.
    correct : bool
        Whether every tensor arrived bit for bit in every run.
    """

    payload: str
    method: str
    metrics: dict[str, Samples] = field(default_factory=dict)
    wire_nbytes: int = 0
    correct: bool = True

    def add(self, **values: float) -> None:
        """Add one run; the names' endings are the units."""
        for name, value in values.items():
            unit = name.rpartition("_")[2]
            self.metrics.setdefault(name, Samples(unit)).values.append(value)

    def median(self, metric: str) -> float:
        """Return a metric's median, not a number when there is none."""
        samples = self.metrics.get(metric)
        return float("nan") if samples is None else samples.median

    def to_json(self) -> dict[str, Any]:
        """Return the cell for the file."""
        return {
            "payload": self.payload,
            "arm": self.method,
            "wire_nbytes": self.wire_nbytes,
            "correct": self.correct,
            "metrics": {name: samples.to_json() for name, samples in self.metrics.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Name one thing to time.

    Parameters
    ----------
    name : str
        What the samples are found under.
    run : callable
        The timed call.
    after : callable, optional
        Called with each run's result, outside the clock: to check it, and to let it go.
    """

    name: str
    run: Callable[[], Any]
    after: Callable[[Any], object] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """Say whose turn it is, in which round; rounds below zero warm up and are not recorded."""

    name: str
    number: int

    @property
    def is_recorded(self) -> bool:
        """Whether the run counts."""
        return self.number >= 0


def turns(names: Sequence[str], *, rounds: int, warmup: int = 1) -> Iterator[Turn]:
    """Return the order of runs: in turn, round after round, so that no drift favours one.

    Parameters
    ----------
    names : sequence of str
        The first of a round is another one in each round, and every other round is reversed.
    rounds, warmup : int
        How many are recorded, and how many come before.

    Examples
    --------
    >>> [turn.name for turn in turns(["a", "b"], rounds=2, warmup=0)]
    ['a', 'b', 'a', 'b']
    >>> [turn.number for turn in turns(["a"], rounds=2)]
    [-1, 0, 1]
    """
    for number in range(-warmup, rounds):
        first = number % len(names)
        order = [*names[first:], *names[:first]]
        for name in reversed(order) if number % 2 else order:
            yield Turn(name, number)


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the cyclic garbage collector out of what is timed, as :mod:`timeit` does."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def interleaved(
    cases: Sequence[Case], *, rounds: int, warmup: int = 1, repeats: int = 1
) -> dict[str, Samples]:
    """Time the cases in turn.

    Parameters
    ----------
    cases : sequence of Case
        In the order of :func:`turns`.
    rounds, warmup : int
        How many times all cases are run and recorded, and how many times before that.
    repeats : int, default 1
        How often a case runs within its turn; each run is a sample.

    Returns
    -------
    dict of str to Samples
        Nanoseconds, by the cases' names; ``rounds * repeats`` of them.

    Examples
    --------
    >>> interleaved([Case(name="add", run=lambda: 1 + 1)], rounds=3)["add"].n
    3
    """
    by_name = {case.name: case for case in cases}
    samples = {name: Samples("ns") for name in by_name}
    for turn in turns(list(by_name), rounds=rounds, warmup=warmup):
        case = by_name[turn.name]
        for _ in range(repeats):
            with without_collection():
                start_ns = clock_ns()
                result = case.run()
                duration_ns = clock_ns() - start_ns
            if turn.is_recorded:
                samples[turn.name].values.append(duration_ns)
            if case.after is not None:
                case.after(result)
            del result
    return samples


def minor_faults() -> int:
    """Return how many pages this process had to be given without reading a disk, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Hold a process's resident bytes, all of them and its share of what several processes map."""

    rss_nbytes: int
    pss_nbytes: int
    pss_shmem_nbytes: int


def memory(pid: int | str = "self") -> Memory:
    """Read a process's memory; PSS counts a page that N processes map as 1/N.

    Raises
    ------
    OSError
        When the process is gone or not ours.

    Examples
    --------
    >>> 0 < memory().pss_nbytes <= memory().rss_nbytes + 2**20
    True
    """
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return Memory(
        rss_nbytes=found.get("Rss", 0),
        pss_nbytes=found.get("Pss", 0),
        pss_shmem_nbytes=found.get("Pss_Shmem", 0),
    )


def environment() -> dict[str, Any]:
    """Describe the machine and the software, with nothing that names a person or a host.

    Examples
    --------
    >>> sorted(environment())[:3]
    ['cores', 'cores_usable', 'cpu']
    """
    return {
        "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "memory_nbytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "packages": _versions(),
        "load": list(os.getloadavg()),
        "transparent_hugepages": _chosen("enabled"),
        "transparent_hugepages_shmem": _chosen("shmem_enabled"),
        "shm_nbytes": _shm_nbytes(),
    }


def _cpu() -> str:
    names = ("model name", "Model", "cpu model")  # x86-64, some Method, MIPS
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _chosen(name: str) -> str | None:
    text = _text(Path("/sys/kernel/mm/transparent_hugepage") / name)
    return text.partition("[")[2].partition("]")[0] or None


def _shm_nbytes() -> int | None:
    try:
        status = os.statvfs("/dev/shm")  # noqa: S108 - the size of it, nothing is written
    except OSError:
        return None
    return status.f_blocks * status.f_frsize


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
