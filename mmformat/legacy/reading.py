"""Read every pickle of a source into one bounded tree of inert values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mmformat.errors import DecodeError, LimitError, TruncatedError
from mmformat.legacy.constructors import ArrayNode, DTypeNode
from mmformat.legacy.limits import Budget, PickleLimits
from mmformat.legacy.machine import Machine
from mmformat.legacy.nodes import Enum, Instance, Marked, Name, Scalar, Storage, Tensor
from mmformat.legacy.torch_files import is_stream, is_zip, load_stream, load_zip

__all__ = [
    "Found",
    "Reading",
    "measure",
    "read",
]

_FREE_NBYTES: Final = 256 * 2**20
_LEAVES: Final = frozenset({
    int, float, bool, type(None), complex, Name, Enum, Scalar, DTypeNode, Storage,
})  # fmt: skip
_FLAT: Final = frozenset({int, float, bool, type(None)})
_Size = tuple[int, int, int, int]
"""Values, bytes of text, bytes of tensors, depth."""


@dataclass(slots=True)
class Found:
    """What a tree holds, each object once, in the order in which it stands."""

    tensors: list[Tensor] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    enums: list[Enum] = field(default_factory=list)


def measure(roots: list[Any], limits: PickleLimits, source_nbytes: int) -> Found:
    """Check depth, counts and sizes of the tree and return what it holds.

    Raises
    ------
    LimitError
        When a bound is passed; a pickle of a hundred bytes can describe 2**30 values.
    DecodeError
        When a container holds itself.

    Notes
    -----
    **Cost**: linear in the containers that are there; shared ones are visited once.
    """
    walk = _Walk(limits)
    values = text = tensors = 0
    for root in roots:
        size = walk.size(root, 1)
        values, text, tensors = values + size[0], text + size[1], tensors + size[2]
    limits.check("values", values, "$")
    limits.check("text_nbytes", text, "$")
    found = walk.found
    limits.check("tensors", len(found.tensors), "$")
    unique = sum(tensor.nbytes for tensor in found.tensors)
    limits.check("tensor_nbytes", max(tensors, unique), "$")
    if max(tensors, unique) > _FREE_NBYTES:
        limits.check("expansion", -(-max(tensors, unique) // source_nbytes), "$")
    return found


class _Walk:
    def __init__(self, limits: PickleLimits) -> None:
        self.limits = limits
        self.known: dict[int, _Size | None] = {}
        self.found = Found()

    def size(self, value: Any, level: int) -> _Size:
        """Return the size of ``value``; ids are safe keys because the roots keep all alive."""
        kind = type(value)
        if kind is str:
            return 1, len(value), 0, 0
        if kind in _LEAVES:
            if kind is Enum:
                self.found.enums.append(value)
            return 1, 0, 0, 0
        if kind is bytes or kind is memoryview:
            return 1, len(value) if kind is bytes else value.nbytes, 0, 0
        key = id(value)
        if key in self.known:
            found = self.known[key]
            if found is None:
                raise DecodeError("expected a tree, got a container that holds itself", path="$")
            self.limits.check("depth", level + found[3], "$")
            return found
        self.limits.check("depth", level, "$")
        self.known[key] = None
        made = self._container(value, level)
        self.limits.check("values", made[0], "$")
        self.known[key] = made
        return made

    def _container(self, value: Any, level: int) -> _Size:
        if isinstance(value, list | tuple) and _FLAT.issuperset(map(type, value)):
            return 1 + len(value), 0, 0, 1
        values, text, tensors, depth = 1, 0, 0, 0
        for part in self._parts(value):
            # Here and not in a call: most parts are these, and this is run twice for each file.
            kind = type(part)
            if kind is str:
                values += 1
                text += len(part)
                depth = depth or 1
                continue
            if kind in _FLAT:
                values += 1
                depth = depth or 1
                continue
            size = self.size(part, level + 1)
            values += size[0]
            text += size[1]
            tensors += size[2]
            depth = max(depth, size[3] + 1)
        if type(value) is Tensor:
            tensors += value.nbytes
        return values, text, tensors, depth

    def _parts(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return value
        if isinstance(value, dict):
            return [*value.keys(), *value.values()]
        if type(value) is Instance:
            self.found.instances.append(value)
            return value.state.values()
        if type(value) is Marked:
            inner = value.value
            return list(inner) if isinstance(inner, set) else [inner]
        if type(value) is Tensor:
            self.found.tensors.append(value)
            return [] if value.attributes is None else [value.attributes]
        if type(value) is ArrayNode:
            if value.tensor is None:
                raise DecodeError("expected the state of a numpy array, got none", path="$")
            return [value.tensor]
        raise DecodeError(f"expected a value of a pickle, got {type(value).__name__}", path="$")


@dataclass(slots=True)
class Reading:
    """What a source holds: a root for each pickle, and the tensors among them."""

    container: str = "pickle"
    protocol: int = 0
    roots: list[Any] = field(default_factory=list)
    found: Found = field(default_factory=Found)
    names: list[str] = field(default_factory=list)


def read(source: memoryview, limits: PickleLimits, buffers: Sequence[memoryview] = ()) -> Reading:
    """Interpret all pickles of ``source`` and check the bounds of what they describe.

    Raises
    ------
    UnsafePickleError, DecodeError, TruncatedError, LimitError
        As :func:`mmformat.convert`.

    Notes
    -----
    **Copies**: no tensor byte; the result refers to ``source`` and ``buffers``.
    """
    nbytes = len(source) + sum(len(buffer) for buffer in buffers)
    limits.check("source_nbytes", nbytes, "$")
    if not len(source):
        raise TruncatedError("expected a pickle, got no bytes", path="$")
    machine = Machine(source, budget=Budget(limits, nbytes), buffers=buffers)
    reading = Reading()
    failed = None
    try:
        if is_zip(source):
            reading.container = "torch-zip"
            reading.roots.append(load_zip(machine, source))
        elif is_stream(source):
            reading.container = "torch-stream"
            reading.roots.append(load_stream(machine, source, "$"))
        else:
            _pickles(machine, reading, limits)
        reading.found = measure(reading.roots, limits, nbytes)
    except (MemoryError, RecursionError) as error:
        # Raised below: an error within this one would hold the frames that hold the memory.
        failed = type(error).__name__
    if failed is not None:
        reading.roots.clear()
        raise LimitError(f"expected to fit into memory, got {failed}", path="$")
    reading.protocol = machine.protocol
    reading.names = sorted(machine.seen)
    return reading


def _pickles(machine: Machine, reading: Reading, limits: PickleLimits) -> None:
    position = 0
    while position < len(machine.source):
        limits.check("pickles", len(reading.roots) + 1, machine.path(position))
        if reading.roots:
            machine.where = f"$[pickle {len(reading.roots)}]"
        root, position = machine.load(position)
        reading.roots.append(root)
    if machine.buffers:
        raise DecodeError(
            f"expected every out-of-band buffer to be used, got {len(machine.buffers)} left",
            path="$",
        )
