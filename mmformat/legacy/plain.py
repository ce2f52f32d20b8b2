"""Inert values as values of the model, each change of type noted; Pillow images as arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from mmformat.errors import DecodeError
from mmformat.legacy.constructors import ArrayNode, DTypeNode
from mmformat.legacy.nodes import Enum, Instance, Marked, Name, Scalar, Tensor
from mmformat.legacy.report import ConversionReport

__all__ = [
    "SHM_POINTER",
    "Values",
    "image_value",
]

# Mode -> element type and bands; the modes whose raw pixels are an array of these.
_MODES: Final = {
    "L": ("uint8", 1), "P": ("uint8", 1), "RGB": ("uint8", 3), "RGBA": ("uint8", 4),
    "RGBX": ("uint8", 4), "CMYK": ("uint8", 4), "YCbCr": ("uint8", 3), "HSV": ("uint8", 3),
    "LAB": ("uint8", 3), "LA": ("uint8", 2), "PA": ("uint8", 2), "I": ("int32", 1),
    "I;16": ("uint16", 1), "F": ("float32", 1),
}  # fmt: skip
_SIZES: Final = {"uint8": 1, "uint16": 2, "int32": 4, "float32": 4}


def image_value(image: Instance, report: ConversionReport, path: str) -> Any:
    """Return the pixels as an array (height, width) or (height, width, bands).

    An image with a palette becomes a dict of ``mode``, ``pixels`` and ``palette``.

    Raises
    ------
    DecodeError
        For a state that is none of Pillow's, or a mode without whole bytes per pixel.
    """
    match image.state.get("state"):
        case [_, str() as mode, (int() as width, int() as height), palette, data, *_]:
            pass
        case _:
            raise DecodeError("expected the state of a Pillow image", path=path)
    if not isinstance(data, bytes | memoryview):
        raise DecodeError("expected the pixels of a Pillow image", path=path)
    if mode not in _MODES:
        raise DecodeError(
            f"expected a mode of {', '.join(_MODES)}, got {ascii(mode)[:12]}",
            path=path,
            code="dtype",
        )
    dtype, bands = _MODES[mode]
    view = memoryview(data)
    nbytes = width * height * bands * _SIZES[dtype]
    if width < 0 or height < 0 or view.nbytes != nbytes:
        raise DecodeError(
            f"expected {nbytes:,} bytes of pixels, got {view.nbytes:,}",
            path=path,
            code="tensor-bounds",
        )
    shape = (height, width) if bands == 1 else (height, width, bands)
    pixels = Tensor("numpy", dtype, shape, nbytes, view)
    if palette:
        report.add(path, "changed", f"{image.cls} of mode {mode} -> dict of mode, pixels, palette")
        return {"mode": mode, "pixels": pixels, "palette": palette}
    report.add(path, "changed", f"{image.cls} of mode {mode} -> array of its pixels")
    return pixels


SHM_POINTER: Final = "sglang.srt.managers.mm_utils.ShmPointerMMData"
_ATOMS: Final = frozenset({str, int, float, bool, type(None), bytes, complex})


class Values:
    """Convert values; what was one object in the pickle is one object in the result."""

    __slots__ = ("_known", "_make", "report")

    def __init__(self, make: Callable[[Tensor], Any], report: ConversionReport) -> None:
        self._make = make
        self._known: dict[int, tuple[Any, Any]] = {}
        self.report = report

    def of(self, value: Any, path: str) -> Any:
        """Return the model's value for an inert one.

        Raises
        ------
        DecodeError
            For a pointer to a shared segment, whose bytes are not in the pickle.
        """
        if type(value) in _ATOMS:
            return value
        key = id(value)
        if key in self._known:
            return self._known[key][1]
        made = self._convert(value, path)
        # The value is held too: an id means nothing once its object is gone.
        self._known[key] = (value, made)
        return made

    def _convert(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind in (list, tuple) and _ATOMS.issuperset(map(type, value)):
            return kind(value)
        if kind is list:
            return [self.of(part, f"{path}[{i}]") for i, part in enumerate(value)]
        if kind is tuple:
            return tuple([self.of(part, f"{path}[{i}]") for i, part in enumerate(value)])
        if kind is dict:
            return {
                key: part if type(part) in _ATOMS else self.of(part, f"{path}[{key!r}]")
                for key, part in value.items()
            }
        if kind is memoryview:
            return bytes(value)
        if kind is Tensor:
            return self._tensor(value, path)
        if kind is ArrayNode:
            return self.of(value.tensor, path)
        if kind is Marked:
            return self._marked(value, path)
        if kind is Scalar:
            python = type(value.value).__name__
            self.report.add(path, "changed", f"numpy.{value.dtype} scalar -> {python}")
            return value.value
        if kind is Instance:
            return self._instance(value, path)
        if kind is Enum:
            self.report.add(path, "changed", f"member of {value.cls} -> its stored value")
            return value.value
        if kind is Name:
            self.report.add(path, "changed", f"{value.path} -> its name")
            return value.path
        if kind is DTypeNode:
            self.report.add(path, "changed", "numpy.dtype -> its name")
            return value.dtype or value.code
        raise DecodeError(
            f"expected a value with a place in the model, got {kind.__name__}", path=path
        )

    def _tensor(self, tensor: Tensor, path: str) -> Any:
        note = self.report.add
        if tensor.swapped:
            note(path, "changed", f"big-endian {tensor.dtype} -> native byte order")
        if tensor.conjugate or tensor.negative:
            note(path, "changed", "conjugate or negative view -> resolved")
        if tensor.requires_grad:
            note(path, "dropped", "requires_grad")
        if tensor.location != "cpu":
            note(path, "changed", f"storage on {tensor.location[:20]!r} -> host memory")
        if tensor.attributes:
            note(path, "dropped", f"attributes {', '.join(map(ascii, tensor.attributes))}"[:200])
        return self._make(tensor)

    def _marked(self, value: Marked, path: str) -> Any:
        note = self.report.add
        inner = value.value
        if value.kind in ("set", "frozenset"):
            note(path, "changed", f"{value.kind} -> list, sorted where it has an order")
            try:
                return sorted(inner)
            except TypeError:
                return list(inner)
        targets = {
            "array.array": "numpy array",
            "torch.Size": "tuple",
            "slice": "tuple of start, stop, step",
            "bytearray": "bytes",
        }
        note(path, "changed", f"{value.kind} -> {targets.get(value.kind, type(inner).__name__)}")
        return self.of(inner, path)

    def _instance(self, value: Instance, path: str) -> Any:
        if value.cls == SHM_POINTER:
            name = value.state.get("shm_name")
            raise DecodeError(
                f"expected the bytes of a tensor, got a pointer to segment {ascii(name)[:80]}",
                path=path,
                hint="the segment ended with its server: write the pickle with inline transport",
                code="dangling-shm",
            )
        if value.cls.startswith("PIL."):
            return self.of(image_value(value, self.report, path), path)
        if value.cls.startswith("transformers."):
            self.report.add(path, "changed", f"{value.cls} -> dict")
            return self.of(value.state.get("data", value.state), path)
        self.report.add(path, "changed", f"{value.cls} -> dict of its fields")
        return {key: self.of(part, f"{path}.{key}") for key, part in value.state.items()}
