"""What each kind of allow-listed name does when a pickle calls it: our own functions alone."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from mmformat.errors import DecodeError, UnsafePickleError
from mmformat.legacy import numpy_values, torch_values
from mmformat.legacy.allowlist import ALLOWED
from mmformat.legacy.latin1 import LatinText
from mmformat.legacy.nodes import Arguments, Call, Enum, Instance, Marked, Name, Tensor

__all__ = ["resolve"]

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
        if type(pair[0]) not in (str, int, bytes):
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
    size = numpy_values.ITEMSIZE[dtype]
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
    **numpy_values.KINDS,
    **torch_values.KINDS,
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
