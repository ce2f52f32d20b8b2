"""What each allow-listed name builds: numpy and torch values and containers, all our own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mmformat.errors import DecodeError, UnsafePickleError
from mmformat.legacy.allowlist import ALLOWED
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.nodes import (
    Arguments,
    Call,
    Enum,
    Instance,
    LatinText,
    Marked,
    Name,
    Scalar,
    Storage,
    Tensor,
    is_long_key,
)
from mmformat.legacy.torch_files import load_stream
from mmformat.model.tensors import ITEMSIZE

__all__ = [
    "ITEMSIZE",
    "ArrayNode",
    "DTypeNode",
    "checked_shape",
    "resolve",
]

_CODES: Final = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8",
    "u2": "uint16", "u4": "uint32", "u8": "uint64", "f2": "float16", "f4": "float32",
    "f8": "float64", "c8": "complex64", "c16": "complex128",
}  # fmt: skip


@dataclass(slots=True, eq=False)
class DTypeNode:
    """Stand for a numpy dtype: its wire name and byte order."""

    code: str
    dtype: str | None
    order: str = "="

    def build(self, state: Any, path: str) -> None:
        """Take the byte order; fields and sub-arrays make the dtype one of no use here."""
        if type(state) is not tuple or len(state) < 5 or type(state[1]) is not str:
            raise DecodeError("expected the state of a numpy dtype", path=path)
        if state[1] not in ("<", ">", "=", "|"):
            raise DecodeError(f"expected a byte order, got {state[1][:9]!r}", path=path)
        self.order = state[1]
        if any(part is not None for part in state[2:5]):
            self.dtype = None

    def known(self, path: str) -> str:
        """Return the wire name or say that there is none."""
        if self.dtype is None:
            raise DecodeError(
                f"expected a dtype of the wire, got numpy {self.code[:20]!r}",
                path=path,
                hint="objects, texts, dates and structured dtypes are not converted",
                code="dtype",
            )
        return self.dtype


@dataclass(slots=True, eq=False)
class ArrayNode:
    """Stand for a numpy array until BUILD brings what it is."""

    limits: PickleLimits
    tensor: Tensor | None = None

    def build(self, state: Any, path: str) -> None:
        """Take shape, dtype, order and bytes."""
        match state:
            case (int(), tuple() as shape, DTypeNode() as dtype, fortran, data):
                pass
            case _:
                raise DecodeError("expected the state of a numpy array", path=path)
        if self.tensor is not None:
            raise DecodeError("expected one BUILD of an array, got a second", path=path)
        dtype.known(path)
        if isinstance(data, str):
            data = data.encode("latin-1", "replace")
        if not isinstance(data, bytes | memoryview):
            raise DecodeError(
                f"expected the bytes of an array, got {type(data).__name__}", path=path
            )
        order = "F" if fortran else "C"
        self.tensor = _numpy_array(
            memoryview(data), dtype, shape, order=order, limits=self.limits, path=path
        )


def checked_shape(shape: Any, limits: PickleLimits, path: str) -> tuple[int, ...]:
    """Return ``shape`` when it is a tuple of extents within the limits."""
    if not isinstance(shape, tuple | list):
        raise DecodeError(f"expected a shape, got {type(shape).__name__}", path=path)
    if not all(type(extent) is int and 0 <= extent < 2**62 for extent in shape):
        raise DecodeError("expected extents of 0 or more", path=path, code="tensor-shape")
    limits.check("dimensions", len(shape), path)
    return tuple(shape)


def _numpy_array(
    data: memoryview,
    dtype: DTypeNode,
    shape: Any,
    *,
    order: str,
    limits: PickleLimits,
    path: str,
) -> Tensor:
    name = dtype.known(path)
    extents = checked_shape(shape, limits, path)
    size = ITEMSIZE[name]
    nbytes = math.prod(extents) * size
    data = data.cast("B") if data.format != "B" else data
    if nbytes != data.nbytes:
        raise DecodeError(
            f"expected {nbytes:,} bytes for shape {extents} of {name}, got {data.nbytes:,}",
            path=path,
            code="tensor-bounds",
        )
    strides = None
    if order == "F" and len(extents) > 1 and nbytes:
        strides = tuple(size * math.prod(extents[:axis]) for axis in range(len(extents)))
    swapped = dtype.order == ">" and size > 1
    return Tensor("numpy", name, extents, nbytes, data, stride_nbytes=strides, swapped=swapped)


def _dtype(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (str() as code, *_):
            return DTypeNode(code, _CODES.get(code))
        case (Name(kind="ml-dtype") as name, *_):
            return DTypeNode(name.name, name.name)
    raise call.wrong()


def _reconstruct(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (Name(kind="numpy-ndarray"), tuple(), bytes() | memoryview() | str()):
            return ArrayNode(machine.limits)
    raise call.wrong()


def _frombuffer(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (bytes() | memoryview() as data, DTypeNode() as dtype, shape, ("C" | "F") as o, *rest):
            if rest not in ([], [None]):
                raise call.wrong()
            return _numpy_array(
                memoryview(data), dtype, shape, order=o, limits=machine.limits, path=call.path
            )
    raise call.wrong()


def _scalar(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (DTypeNode() as dtype, bytes() | memoryview() | str() as data):
            name = dtype.known(call.path)
            raw = data.encode("latin-1", "replace") if isinstance(data, str) else bytes(data)
            if len(raw) != ITEMSIZE[name] or dtype.code not in _CODES:
                raise call.wrong()
            plain = np.dtype(name)
            big = dtype.order == ">"
            found = np.frombuffer(raw, plain.newbyteorder(">" if big else "<"))[0]
            return Scalar(found.item(), name)
    raise call.wrong()


_NUMPY_KINDS: Final[Mapping[str, tuple[Call | None, Call | None]]] = {
    "numpy-dtype": (_dtype, None),
    "numpy-ndarray": (None, None),
    "numpy-reconstruct": (_reconstruct, None),
    "numpy-frombuffer": (_frombuffer, None),
    "numpy-scalar": (_scalar, None),
    "ml-dtype": (None, None),
}


def _load_from_bytes(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (bytes() | memoryview() as data,):
            view = memoryview(data)
            machine.enter(view.nbytes, call.path)
            value = load_stream(machine, view, call.path)
            if type(value) is not Storage:
                raise DecodeError("expected a torch storage in a nested stream", path=call.path)
            return value
    raise call.wrong()


def _tensor(
    machine: Any, call: Arguments, view: tuple[Any, Any, Any, Any], dtype: str | None = None
) -> Tensor:
    storage, offset, shape, stride = view
    if type(storage) is not Storage:
        raise call.wrong()
    name = dtype or storage.dtype
    if name is None:
        raise DecodeError("expected a storage with a dtype", path=call.path)
    if dtype is not None and storage.dtype not in (None, dtype):
        raise DecodeError(f"expected a storage of {dtype}, got {storage.dtype}", path=call.path)
    shape = shape.value if type(shape) is Marked and shape.kind == "torch.Size" else shape
    extents = checked_shape(shape, machine.limits, call.path)
    strides = checked_shape(stride, machine.limits, call.path)
    if len(strides) != len(extents) or type(offset) is not int or not 0 <= offset < 2**62:
        raise DecodeError(
            "expected an offset and one stride an axis", path=call.path, code="tensor-bounds"
        )
    size = ITEMSIZE[name]
    count = math.prod(extents)
    nbytes = count * size
    if count:
        last = offset + sum((n - 1) * step for n, step in zip(extents, strides, strict=True))
        if (last + 1) * size > storage.nbytes:
            raise DecodeError(
                f"expected a view within {storage.nbytes:,} bytes of storage, got one that ends "
                f"at {(last + 1) * size:,}",
                path=call.path,
                code="tensor-bounds",
            )
    return Tensor(
        "torch",
        name,
        extents,
        nbytes,
        storage,
        offset_nbytes=offset * size,
        stride_nbytes=None if _contiguous(extents, strides) else tuple(s * size for s in strides),
        location=storage.location,
    )


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for extent, step in zip(reversed(shape), reversed(strides), strict=True):
        if extent == 0:
            return True
        if extent != 1 and step != expected:
            return False
        expected *= extent
    return True


def _finish(tensor: Tensor, requires_grad: Any, metadata: Any, call: Arguments) -> Tensor:
    if type(requires_grad) is not bool:
        raise call.wrong()
    tensor.requires_grad = requires_grad
    if metadata is not None:
        if type(metadata) is not dict or not metadata.keys() <= {"conj", "neg"}:
            raise call.wrong()
        tensor.conjugate = bool(metadata.get("conj"))
        tensor.negative = bool(metadata.get("neg"))
    return tensor


def _rebuild_v1(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (storage, offset, shape, stride):
            return _tensor(machine, call, (storage, offset, shape, stride))
    raise call.wrong()


def _rebuild_v2(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (storage, offset, shape, stride, grad, _, *rest) if len(rest) <= 1:
            tensor = _tensor(machine, call, (storage, offset, shape, stride))
            return _finish(tensor, grad, rest[0] if rest else None, call)
    raise call.wrong()


def _rebuild_v3(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (storage, offset, shape, stride, grad, _, Name(kind="torch-dtype") as dtype, *rest):
            if len(rest) > 1:
                raise call.wrong()
            tensor = _tensor(machine, call, (storage, offset, shape, stride), dtype.name)
            return _finish(tensor, grad, rest[0] if rest else None, call)
    raise call.wrong()


def _parameter(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (Tensor() as data, bool() as grad, _):
            data.requires_grad = grad
            return data
        case (Tensor() as data, bool() as grad, _, state):
            data.requires_grad = grad
            data.build(state, call.path)
            return data
    raise call.wrong()


def _from_type(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (Name(call=rebuild) as function, Name(kind="torch-class"), tuple() as args, state):
            if function.kind in ("torch-tensor-v2", "torch-tensor-v3") and rebuild is not None:
                tensor: Tensor = rebuild(machine, Arguments(function, args, call.path))
                if call.values[1].name == "TransportProxyTensor":
                    return _proxy(tensor, state, call)
                # torch sets each entry of the state as an attribute; ours are only kept.
                tensor.build(state, call.path)
                return tensor
    raise UnsafePickleError(
        "expected torch._tensor._rebuild_from_type_v2 of a tensor, got another use",
        path=call.path,
        code="unsafe-pickle-call",
    )


def _proxy(tensor: Tensor, state: Any, call: Arguments) -> Tensor:
    # SGLang's __setstate__ takes the data from the state, by CUDA IPC when that was the transport.
    if type(state) is not dict:
        raise call.wrong()
    if state.get("ipc_extra") is not None:
        raise DecodeError(
            "expected the bytes of a tensor, got a CUDA IPC handle",
            path=call.path,
            hint="the handle ended with its process: write the pickle with the default transport",
            code="dangling-ipc",
        )
    data = state.get("tensor_data")
    found = data if type(data) is Tensor else tensor
    found.attributes = {"_metadata": state.get("metadata")}
    return found


def _size(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (tuple() | list() as shape,):
            return Marked("torch.Size", checked_shape(shape, machine.limits, call.path))
    raise call.wrong()


def _device(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (str() as kind,):
            return Marked("torch.device", kind)
        case (str() as kind, int() as index):
            return Marked("torch.device", f"{kind}:{index}")
    raise call.wrong()


_TORCH_KINDS: Final[Mapping[str, tuple[Call | None, Call | None]]] = {
    "torch-tensor-v1": (_rebuild_v1, None),
    "torch-tensor-v2": (_rebuild_v2, None),
    "torch-tensor-v3": (_rebuild_v3, None),
    "torch-parameter": (_parameter, None),
    "torch-from-type": (_from_type, None),
    "torch-load-bytes": (_load_from_bytes, None),
    "torch-storage": (None, None),
    "torch-dtype": (None, None),
    "torch-class": (None, None),
    "torch-size": (_size, None),
    "torch-device": (_device, None),
}


_ARRAY_DTYPES: Final = {
    "b": "int8", "B": "uint8", "h": "int16", "H": "uint16", "i": "int32", "I": "uint32",
    "l": "int64", "L": "uint64", "q": "int64", "Q": "uint64", "f": "float32", "d": "float64",
}  # fmt: skip
# CPython's machine format codes: element type, and whether the bytes are big-endian.
_ARRAY_FORMATS: Final = {
    0: ("uint8", False), 1: ("int8", False), 2: ("uint16", False), 3: ("uint16", True),
    4: ("int16", False), 5: ("int16", True), 6: ("uint32", False), 7: ("uint32", True),
    8: ("int32", False), 9: ("int32", True), 10: ("uint64", False), 11: ("uint64", True),
    12: ("int64", False), 13: ("int64", True), 14: ("float32", False), 15: ("float32", True),
    16: ("float64", False), 17: ("float64", True),
}  # fmt: skip


def _encode(machine: Any, call: Arguments) -> Any:
    if len(call.values) == 2 and call.values[1] in _LATIN1:
        if type(call.values[0]) is LatinText:
            return call.values[0].encoded(call.path)
        if type(call.values[0]) is str:
            try:
                return memoryview(call.values[0].encode("latin-1"))
            except UnicodeEncodeError:
                raise DecodeError("expected text of latin-1", path=call.path) from None
    raise UnsafePickleError(
        "expected bytes written as latin-1 text, got another use of _codecs.encode",
        path=call.path,
        code="unsafe-pickle-call",
    )


_LATIN1: Final = ("latin1", "latin-1")


def _ordered_dict(machine: Any, call: Arguments) -> Any:
    pairs = call.values[0] if call.values else []
    if len(call.values) > 1 or type(pairs) is not list:
        raise call.wrong()
    return Marked("OrderedDict", _pairs(pairs, call))


def _default_dict(machine: Any, call: Arguments) -> Any:
    if len(call.values) > 1:
        raise call.wrong()
    return Marked("defaultdict", {})


def _pairs(pairs: list[Any], call: Arguments) -> dict[Any, Any]:
    made = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise call.wrong()
        if type(pair[0]) not in (str, int, bytes) or is_long_key(pair[0]):
            raise call.wrong()
        made[pair[0]] = pair[1]
    return made


def _set_of(kind: str) -> Call:
    def make(machine: Any, call: Arguments) -> Any:
        items = call.values[0] if call.values else []
        if len(call.values) > 1 or not isinstance(items, list | tuple):
            raise call.wrong()
        if not all(type(item) in (str, int, float, bool, bytes, type(None)) for item in items):
            raise call.wrong()
        if any(map(is_long_key, items)):
            raise call.wrong()
        return Marked(kind, set(items))

    return make


def _empty(value: type[Any]) -> Call:
    def make(machine: Any, call: Arguments) -> Any:
        if call.values:
            raise call.wrong()
        return value()

    return make


def _bytearray(machine: Any, call: Arguments) -> Any:
    match call.values:
        case ():
            return Marked("bytearray", b"")
        case (bytes() | memoryview() as data,):
            return data
        case (str() as text, "latin-1" | "latin1"):
            return memoryview(text.encode("latin-1"))
        case (LatinText() as text, "latin-1" | "latin1"):
            return text.encoded(call.path)
    raise call.wrong()


def _complex(machine: Any, call: Arguments) -> Any:
    if len(call.values) != 2 or not all(type(part) in (int, float) for part in call.values):
        raise call.wrong()
    return complex(*call.values)


def _slice(machine: Any, call: Arguments) -> Any:
    if len(call.values) != 3:
        raise call.wrong()
    return Marked("slice", call.values)


def _reconstructor(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (Name() as cls, Name(kind="object"), None) if cls.new is not None:
            return cls.new(machine, Arguments(cls, (), call.path))
    raise UnsafePickleError(
        "expected copyreg._reconstructor of an allow-listed class and object",
        path=call.path,
        code="unsafe-pickle-call",
    )


def _struct(machine: Any, call: Arguments) -> Any:
    if call.values:
        raise call.wrong()
    return Instance(call.target.path)


def _enum(machine: Any, call: Arguments) -> Any:
    if len(call.values) != 1 or type(call.values[0]) not in (int, str):
        raise call.wrong()
    return Enum(call.target.path, call.values[0])


def _msgspec(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (Name(kind="struct") as cls, dict() as fields):
            made = Instance(cls.path)
            made.build(fields, call.path)
            return made
        case (Name(kind="pickle-wrapper"), {"data": bytes() | memoryview() as data}):
            return machine.nested(memoryview(data), call.path)
    raise UnsafePickleError(
        "expected msgspec._utils.rebuild of an allow-listed struct and its fields",
        path=call.path,
        code="unsafe-pickle-call",
    )


def _array(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (str() as code, list() as values) if code in _ARRAY_DTYPES:
            kinds = (int, float) if code in "fd" else (int,)
            if not all(type(value) in kinds for value in values):
                raise call.wrong()
            try:
                made = np.array(values, np.dtype(_ARRAY_DTYPES[code]))
            except OverflowError:
                raise call.wrong() from None
            raw = memoryview(made.tobytes())
            return Marked("array.array", _flat(_ARRAY_DTYPES[code], raw, call))
    raise call.wrong()


def _array_reconstructor(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (Name(kind="array"), str(), int() as code, bytes() | memoryview() as data):
            dtype, swapped = _ARRAY_FORMATS.get(code, ("", False))
            if dtype:
                tensor = _flat(dtype, memoryview(data), call)
                tensor.swapped = swapped
                return Marked("array.array", tensor)
    raise call.wrong()


def _flat(dtype: str, data: memoryview, call: Arguments) -> Tensor:
    size = ITEMSIZE[dtype]
    if data.nbytes % size:
        raise call.wrong()
    return Tensor("numpy", dtype, (data.nbytes // size,), data.nbytes, data)


# kind -> (what REDUCE does, what NEWOBJ does).
_KINDS: Final[dict[str, tuple[Call | None, Call | None]]] = {
    "encode-latin1": (_encode, None),
    "ordered-dict": (_ordered_dict, None),
    "default-dict": (_default_dict, None),
    "set": (_set_of("set"), None),
    "frozenset": (_set_of("frozenset"), None),
    "type-list": (_empty(list), None),
    "type-dict": (_empty(dict), None),
    "type-only": (None, None),
    "object": (None, None),
    "bytes": (_empty(bytes), None),
    "bytearray": (_bytearray, None),
    "complex": (_complex, None),
    "slice": (_slice, None),
    "reconstructor": (_reconstructor, None),
    "array": (_array, None),
    "array-reconstructor": (_array_reconstructor, None),
    "struct": (None, _struct),
    "enum": (_enum, None),
    "pickle-wrapper": (None, None),
    "msgspec-rebuild": (_msgspec, None),
    **_NUMPY_KINDS,
    **_TORCH_KINDS,
}


def _names() -> dict[tuple[str, str], Name]:
    made = {}
    for (module, name), entry in ALLOWED.items():
        kind, _, detail = entry.kind.partition(":")
        call, new = _KINDS[kind]
        made[module, name] = Name(module, name, kind, call, new, detail or name)
    return made


_NAMES: Final = _names()


def resolve(module: str, name: str) -> Name | None:
    """Return what stands for an allow-listed global, or None."""
    return _NAMES.get((module, name))
