"""Compare the methods on one message: size, encode and decode, and the fan-out to N ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from mmformat.arena import decode
from mmformat.bench.crew import Crew
from mmformat.bench.fanout import Group
from mmformat.bench.measure import (
    Cell,
    clock_ns,
    environment,
    minor_faults,
    turns,
    without_collection,
)
from mmformat.bench.methods import METHODS, Method, inputs_of, method_class, plain_of, why_missing
from mmformat.bench.payloads import Payload, digests_of, payload, stamp, tensors_of, touch
from mmformat.errors import MMFormatError, ModelError
from mmformat.legacy import convert
from mmformat.model import MultimodalInputs

__all__ = ["Comparison", "Follow", "compare_methods", "opened", "run_once", "subject_of"]

Follow: TypeAlias = Callable[[str, float], None]
"""Called with what is being done and how much of it, 0 to 1, is finished."""

_PASSES: Final = 2
"""The ranks carry all methods one way round, then the other, so that no drift favours one."""
_STARTUP_TIMEOUT_S: Final = 300.0


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Hold what was measured of one message.

    Parameters
    ----------
    subject : Payload
        The message.
    ranks : int
        How many processes read it in the fan-out; none when 0.
    alone, shared : dict of str to Cell
        By method: encode and decode in one process, and the fan-out.
    missing : dict of str to str
        Why a method was not measured.
    """

    subject: Payload
    ranks: int
    alone: dict[str, Cell] = field(default_factory=dict)
    shared: dict[str, Cell] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def is_correct(self) -> bool:
        """Whether every tensor arrived bit for bit."""
        return all(cell.correct for cell in (*self.alone.values(), *self.shared.values()))

    def to_json(self) -> dict[str, Any]:
        """Return everything, raw samples included."""
        return {
            "mmformat_bench": 2,
            "message": self.subject.title,
            "tensor_nbytes": self.subject.nbytes,
            "ranks": self.ranks,
            "correct": self.is_correct,
            "methods": [
                {
                    "name": name,
                    "title": METHODS[name].title,
                    "note": METHODS[name].note,
                    "message_nbytes": cell.wire_nbytes,
                    "one_process": _samples(cell),
                    "fan_out": _samples(self.shared[name]) if name in self.shared else None,
                }
                for name, cell in self.alone.items()
            ],
            "missing": self.missing,
            "environment": environment(),
        }


def _samples(cell: Cell) -> dict[str, Any]:
    return {name: samples.to_json() for name, samples in cell.metrics.items()}


def subject_of(source: str) -> Payload:
    """Return what a word on the command line names: a message, an old pickle, or a payload.

    Raises
    ------
    ModelError
        If it names neither a file nor a payload, or holds no tensor.
    DecodeError, UnsafePickleError
        If the file is no valid message, or no pickle that :func:`mmformat.convert` reads.
    """
    path = Path(source)
    if not path.is_file():
        return payload(source)
    make = partial(_read, str(path.resolve()))
    inputs = make(0)
    tensors = list(tensors_of(inputs))
    if not tensors:
        raise ModelError(
            f"{source} has no tensors",
            hint="materialize its sources first; a message of URLs and paths is small either way",
        )
    nbytes = sum(tensor.nbytes for tensor in tensors)
    title = f"{path.name}: {len(inputs.items)} items, {len(tensors)} tensors, {nbytes / 1e6:.1f} MB"
    return Payload(name=source, title=title, nbytes=nbytes, make=make)


def _read(path: str, seed: int) -> MultimodalInputs:
    """Return a file's inputs in memory of their own, dictionaries expanded."""
    data = Path(path).read_bytes()
    is_pickle = data[:1] == b"\x80" or data[:2] == b"PK"
    inputs = convert(data) if is_pickle else decode(data)
    return inputs_of(_owned(plain_of(inputs)))


def _owned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _owned(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_owned(each) for each in value]
    if hasattr(value, "__array__"):
        import torch

        return torch.as_tensor(value).clone()
    return value


def compare_methods(
    subjects: Sequence[Payload],
    *,
    methods: Sequence[str] = tuple(METHODS),
    ranks: int = 4,
    rounds: int = 7,
    follow: Follow | None = None,
) -> list[Comparison]:
    """Measure the methods in turn, in one process and then from a producer to ranks.

    Parameters
    ----------
    subjects : sequence of Payload
        As :func:`subject_of` returns them.
    methods : sequence of str
        Of :data:`~mmformat.bench.methods.METHODS`.
    ranks : int, default 4
        Reader processes of the fan-out; 0 leaves it out.
    rounds : int, default 7
        How often each method runs; each round carries other bytes.
    follow : callable, optional
        Called with the progress.

    Raises
    ------
    ModelError
        If there is no method of a name.
    TransportError
        If a rank dies, with code ``rank-died``.
    """
    tell = follow or (lambda text, done: None)
    found = []
    for number, subject in enumerate(subjects):
        tell(f"{subject.title}: one process", 0.4 * number / len(subjects))
        found.append(_alone(subject, methods, ranks, rounds))
    if ranks:
        tell(f"starting {ranks + 1} processes", 0.4)
        with Crew() as crew:
            group = Group(crew, "bench", ranks=ranks, timeout_s=_STARTUP_TIMEOUT_S)
            group.wait_ready()
            for number, each in enumerate(found):
                tell(f"{each.subject.title}: {ranks} ranks", 0.5 + 0.5 * number / len(found))
                _share(each, group, rounds)
            group.end()
    tell("done", 1.0)
    return found


def _alone(subject: Payload, methods: Sequence[str], ranks: int, rounds: int) -> Comparison:
    found = Comparison(subject=subject, ranks=ranks)
    inputs = subject.make(0)
    usable: dict[str, type[Method]] = {}
    for name in methods:
        method = method_class(name)
        reason = why_missing(method) or _why_not_carried(method, inputs, subject.nbytes)
        if reason is None:
            usable[name] = method
        else:
            found.missing[name] = reason
    found.alone = {name: Cell(payload=subject.name, method=name) for name in usable}
    repeats = 10 if subject.nbytes < 2**20 else 1
    with opened(usable, subject.nbytes) as sides:
        for turn in turns(list(sides), rounds=rounds):
            stamp(inputs, turn.number)
            expected = digests_of(inputs)
            for number in range(repeats):
                check = expected if number == repeats - 1 else None
                prefix = "" if turn.is_recorded else None
                run_once(sides[turn.name], inputs, found.alone[turn.name], check, prefix=prefix)
    return found


def _why_not_carried(method: type[Method], inputs: MultimodalInputs, nbytes: int) -> str | None:
    try:
        with opened({method.name: method}, nbytes) as sides:
            run_once(sides[method.name], inputs, Cell(payload="", method=""), None, prefix=None)
    except MMFormatError:
        raise
    except Exception as error:
        return f"cannot carry this message: {type(error).__name__}: {error}"
    return None


def _share(found: Comparison, group: Group, rounds: int) -> None:
    names = list(found.alone)
    found.shared = {name: Cell(payload=found.subject.name, method=name) for name in names}
    for number in range(_PASSES):
        count = rounds // _PASSES + (rounds % _PASSES if number == 0 else 0)
        for name in reversed(names) if number % 2 else names:
            group.load(method_class(name), found.subject)
            for turn in range(-1, count):
                stamped = number * rounds + turn
                group.round(stamped, found.shared[name], is_recorded=turn >= 0)
            group.unload()


@contextmanager
def opened(methods: Mapping[str, type[Method]], nbytes: int) -> Iterator[dict[str, Method]]:
    """Yield both sides of each method in this process, and close them."""
    sides: dict[str, Method] = {}
    try:
        for name, method in methods.items():
            sides[name] = method()
            sides[name].open(nbytes=nbytes, ranks=1)
            sides[name].attach(rank=0)
        yield sides
    finally:
        for side in sides.values():
            side.close()


def run_once(
    method: Method,
    inputs: MultimodalInputs,
    cell: Cell,
    expected: list[str] | None,
    *,
    prefix: str | None,
) -> None:
    """Encode, decode and read every page once; record it under a prefix unless that is None."""
    with without_collection():
        faults = minor_faults()
        start_ns = clock_ns()
        frames = method.encode(inputs)
        encoded_ns = clock_ns()
        decoded = method.decode(frames)
        decoded_ns = clock_ns()
        touch(decoded)
        touched_ns = clock_ns()
        faults = minor_faults() - faults
    cell.wire_nbytes = sum(memoryview(frame).nbytes for frame in frames)
    values = {
        "encode_ns": encoded_ns - start_ns,
        "decode_ns": decoded_ns - encoded_ns,
        "touch_ns": touched_ns - decoded_ns,
        "round_trip_ns": decoded_ns - start_ns,
        "touched_ns": touched_ns - start_ns,
        "faults_count": faults,
    }
    if prefix is not None:
        cell.add(**{prefix + name: value for name, value in values.items()})
    if method.carries and expected is not None:
        cell.correct = cell.correct and digests_of(decoded) == expected
    del decoded, frames
    method.release()
    method.reclaim()
