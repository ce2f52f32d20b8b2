"""The tree of inert values as JSON: how the sandbox tells its parent what it read."""

from __future__ import annotations

import json
from typing import Any, Final

from mmformat.errors import DecodeError
from mmformat.legacy.constructors import ArrayNode, DTypeNode, resolve
from mmformat.legacy.nodes import Enum, Instance, Marked, Name, Scalar, Storage, Tensor
from mmformat.model.tensors import ITEMSIZE

__all__ = ["dump", "load"]

_INLINE: Final = frozenset({str, int, float, bool, type(None)})


def dump(roots: list[Any], tensors: list[Tensor]) -> bytes:
    """Return the tree as JSON; tensors are written as their number.

    A value is a JSON atom, or ``[n]``: the n-th node. Nodes refer to earlier ones only, so what is
    shared stays shared and nothing can hold itself.
    """
    writer = _Writer(tensors)
    values = [writer.value(root) for root in roots]
    return json.dumps([writer.nodes, values], separators=(",", ":")).encode()


class _Writer:
    def __init__(self, tensors: list[Tensor]) -> None:
        self.nodes: list[Any] = []
        self.known: dict[int, int] = {}
        self.number = {id(tensor): index for index, tensor in enumerate(tensors)}

    def value(self, value: Any) -> Any:
        if type(value) in _INLINE:
            return value
        if type(value) is ArrayNode:
            return self.value(value.tensor)
        index = self.known.get(id(value))
        if index is None:
            node = self.node(value)
            index = self.known[id(value)] = len(self.nodes)
            self.nodes.append(node)
        return [index]

    def node(self, value: Any) -> list[Any]:
        kind = type(value)
        if kind is list or kind is tuple:
            if _INLINE.issuperset(map(type, value)):
                return ["l" if kind is list else "t", list(value)]
            return ["l" if kind is list else "t", [self.value(part) for part in value]]
        if kind is dict:
            return ["d", self.pairs(value)]
        if kind is bytes or kind is memoryview:
            return ["b", str(value, "latin-1")]
        if kind is complex:
            return ["c", value.real, value.imag]
        if kind is Instance:
            return ["i", value.cls, self.pairs(value.state)]
        if kind is Marked:
            inner = value.value
            if isinstance(inner, set):
                return ["S", value.kind, [self.value(part) for part in inner]]
            return ["m", value.kind, self.value(inner)]
        if kind is Enum:
            return ["e", value.cls, value.value]
        if kind is Scalar:
            return ["s", self.value(value.value), value.dtype]
        if kind is Name:
            return ["n", value.module, value.name]
        if kind is DTypeNode:
            return ["y", value.code, value.dtype]
        if kind is Tensor:
            return self.tensor(value)
        if kind is Storage:
            return ["o"]
        raise DecodeError(f"expected a value of a pickle, got {kind.__name__}", path="$")

    def pairs(self, value: dict[Any, Any]) -> list[list[Any]]:
        return [
            [
                key if type(key) is str else self.value(key),
                part if type(part) in _INLINE else self.value(part),
            ]
            for key, part in value.items()
        ]

    def tensor(self, value: Tensor) -> list[Any]:
        # Byte order and views are resolved when the tensor is landed; what they were is a note.
        return [
            "T",
            self.number[id(value)],
            value.lib,
            value.dtype,
            list(value.shape),
            [value.swapped, value.conjugate, value.negative, value.requires_grad],
            value.location,
            self.value(value.attributes),
        ]


def load(data: bytes | bytearray) -> tuple[list[Any], list[Tensor]]:
    """Return the roots and the tensors, by number, of what :func:`dump` wrote.

    Raises
    ------
    DecodeError
        When it is not that; the child that wrote it is not trusted either.
    """
    try:
        nodes, values = json.loads(data)
        reader = _Reader()
        for node in nodes:
            reader.made.append(reader.node(node))
        return [reader.value(value) for value in values], reader.ordered()
    except DecodeError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise DecodeError(f"expected the sandbox's answer, got: {error}", path="$") from None


def _plain(parts: list[Any]) -> bool:
    return _INLINE.issuperset(map(type, parts))


class _Reader:
    def __init__(self) -> None:
        self.made: list[Any] = []
        self.tensors: dict[int, Tensor] = {}

    def ordered(self) -> list[Tensor]:
        return [self.tensors[index] for index in range(len(self.tensors))]

    def value(self, value: Any) -> Any:
        if type(value) is list:
            (index,) = value
            if type(index) is not int or index < 0:
                raise ValueError("a reference that is none")
            return self.made[index]
        if type(value) not in _INLINE:
            raise ValueError("a value that is none")
        return value

    def node(self, node: list[Any]) -> Any:
        match node:
            case ["l", list() as parts]:
                return parts if _plain(parts) else [self.value(part) for part in parts]
            case ["t", list() as parts]:
                return tuple([self.value(part) for part in parts])
            case ["d", list() as pairs]:
                return {
                    key if type(key) is str else self.value(key): part
                    if type(part) in _INLINE
                    else self.value(part)
                    for key, part in pairs
                }
            case ["b", str() as text]:
                return text.encode("latin-1")
            case ["c", float() as real, float() as imaginary]:
                return complex(real, imaginary)
            case ["i", str() as cls, list() as pairs]:
                return Instance(
                    cls,
                    {
                        str(key): part if type(part) in _INLINE else self.value(part)
                        for key, part in pairs
                    },
                )
            case ["S", str() as kind, list() as parts]:
                return Marked(kind, {self.value(part) for part in parts})
            case ["m", str() as kind, inner]:
                return Marked(kind, self.value(inner))
            case ["e", str() as cls, (int() | str()) as inner]:
                return Enum(cls, inner)
            case ["s", inner, str() as dtype]:
                return Scalar(self.value(inner), dtype)
            case ["n", str() as module, str() as name]:
                found = resolve(module, name)
                if found is None:
                    raise ValueError("a name that is not allow-listed")
                return found
            case ["y", str() as code, (str() | None) as dtype]:
                return DTypeNode(code, dtype)
            case ["T", *parts]:
                return self.tensor(parts)
            case ["o"]:
                return Storage(None, 0, 0, "cpu")
        raise ValueError("a node that is none")

    def tensor(self, parts: list[Any]) -> Tensor:
        number, lib, dtype, shape, flags, location, attributes = parts
        swapped, conjugate, negative, grad = (bool(flag) for flag in flags)
        if type(number) is not int or number in self.tensors or lib not in ("torch", "numpy"):
            raise ValueError("a tensor that is none")
        if not all(type(extent) is int and 0 <= extent < 2**62 for extent in shape):
            raise ValueError("a shape that is none")
        nbytes = ITEMSIZE[dtype]
        for extent in shape:
            nbytes *= extent
        made = Tensor(
            lib,
            dtype,
            tuple(shape),
            nbytes,
            None,
            swapped=swapped,
            conjugate=conjugate,
            negative=negative,
            requires_grad=grad,
            location=str(location),
            attributes=self.value(attributes),
        )
        self.tensors[number] = made
        return made
