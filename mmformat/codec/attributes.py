"""The values of an item as JSON and tensors, and back."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from mmformat.codec.bounded_cache import bounded_cache
from mmformat.errors import DecodeError, EncodeError, LimitError, MissingExtraError, ModelError
from mmformat.model.limits import Limits
from mmformat.model.tensors import is_torch, numpy_dtype_name
from mmformat.model.values import Budget, kind_of, refusal_of

__all__ = ["BARE", "LARGEST_INT", "exact_int", "join", "split"]

SAFE_INT: Final = 2**53
"""Larger ints are written as text, because JSON readers in other languages may use doubles."""

MAX_INT_DIGITS: Final = 1234
"""The digits of 2**4096; conversion takes quadratic time."""

LARGEST_INT: Final = 10**MAX_INT_DIGITS - 1
"""The largest int that is encoded, and the largest that is decoded."""

REMEMBERED_CHARACTERS: Final = 4096
"""Parsed attributes of at most this many characters are cached."""

BARE: Final = (str, bytes, bytearray, int, float, complex, np.generic)
"""Types that neither are nor contain a tensor."""

TORCH: Final = "$tensor"
NUMPY: Final = "$ndarray"

# Created once; json.dumps and json.loads with options create one at every call.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

Collect = Callable[[str, Any], None]
Restore = Callable[[str, bool], Any]


def split(values: dict[str, Any], collect: Collect, *, path: str) -> str:
    """Return the JSON text of ``values``; each tensor goes to ``collect`` under its name.

    Parameters
    ----------
    values : dict
        The fields of an item or of the request.
    collect : callable
        Called with a name such as ``feature[0]`` and the tensor.
    path : str
        Path of the values, for errors.

    Raises
    ------
    EncodeError
        If a value cannot travel; the path names it.
    """
    splitter = _Splitter(collect, path)
    try:
        return _ENCODER.encode(
            {key: splitter.value(value, key, 0) for key, value in values.items()}
        )
    except ModelError as error:
        raise EncodeError(
            error.reason, path=error.path, hint=error.hint, code=_code_of(error)
        ) from error
    except RecursionError as error:
        raise EncodeError(
            "values are nested too deeply for this call stack", path=path, code="attributes-depth"
        ) from error


def _code_of(error: ModelError) -> str | None:
    return None if error.code == ModelError.code else error.code


class _Splitter:
    __slots__ = ("budget", "collect", "path")

    def __init__(self, collect: Collect, path: str) -> None:
        self.budget = Budget()
        self.collect = collect
        self.path = path

    def value(self, value: Any, name: str, depth: int) -> Any:
        kind = kind_of(value)
        if kind in ("str", "bool", "none"):
            return value
        if kind == "int":
            return value if -SAFE_INT <= value <= SAFE_INT else self._large_int(value, name)
        if kind == "float":
            return value if math.isfinite(value) else {"$float": repr(value)}
        if kind in ("list", "tuple"):
            self.budget.enter(len(value), depth, path=f"{self.path}.{name}")
            parts = [self.value(part, f"{name}[{i}]", depth + 1) for i, part in enumerate(value)]
            return parts if kind == "list" else {"$tuple": parts}
        if kind == "dict":
            self.budget.enter(len(value), depth, path=f"{self.path}.{name}")
            return self._dict(value, name, depth + 1)
        if kind == "dictionary":
            self.collect(name, value)
            return {TORCH if is_torch(value.table) else NUMPY: name}
        if kind == "tensor":
            self.collect(name, value)
            return {NUMPY if isinstance(value, np.ndarray) else TORCH: name}
        if kind in ("bytes", "bytearray"):
            return {f"${kind}": base64.b64encode(value).decode()}
        if kind == "complex":
            return {
                "$complex": [
                    self.value(value.real, name, depth),
                    self.value(value.imag, name, depth),
                ]
            }
        if kind == "scalar":
            dtype = numpy_dtype_name(value.dtype)
            return {"$scalar": [dtype, base64.b64encode(_bytes_of_scalar(value)).decode()]}
        raise refusal_of(value, path=f"{self.path}.{name}")

    def _dict(self, value: dict[Any, Any], name: str, depth: int) -> Any:
        parts = {key: self.value(part, f"{name}[{key!r}]", depth) for key, part in value.items()}
        if all(type(key) is str and not key.startswith("$") for key in parts):
            return parts
        return {
            "$dict": [[self.value(key, f"{name}.keys", depth), part] for key, part in parts.items()]
        }

    def _large_int(self, value: int, name: str) -> Any:
        if abs(value) > LARGEST_INT:
            raise EncodeError(
                f"an int of {value.bit_length():,} bits has more than {MAX_INT_DIGITS:,} digits",
                path=f"{self.path}.{name}",
            )
        return {"$int": str(value)}


def _bytes_of_scalar(value: np.generic) -> bytes:
    # Any byte but 0 is true, but only 1 is canonical.
    return bytes([bool(value)]) if value.dtype == bool else value.tobytes()


def join(
    text: str, restore: Restore, *, limits: Limits, path: str, makes_scalars: bool = True
) -> dict[str, Any]:
    """Return the values that :func:`split` encoded.

    Parameters
    ----------
    text : str
        JSON.
    restore : callable
        Called with a tensor's name and whether it was a torch tensor; returns the tensor.
    limits : Limits
        ``attributes_nbytes`` and ``attributes_depth`` are enforced.
    path : str
        Path of the row, for errors.
    makes_scalars : bool, default True
        Make every numpy scalar; otherwise one whose dtype needs ml_dtypes is only checked if
        that is not installed.

    Raises
    ------
    DecodeError
        If the text is not a JSON object or holds an unknown tag.
    LimitError
        If it is too long or nested too deeply.
    """
    limits.check("attributes_nbytes", len(text), path=path)
    try:
        tree = parsed(text)
    except RecursionError as error:
        raise _too_deep(limits, path) from error
    except ValueError as error:
        raise DecodeError(
            f"attributes are not valid JSON: {error}", path=path, code="attributes"
        ) from error
    if type(tree) is not dict:
        raise DecodeError("attributes must be a JSON object", path=path, code="attributes")
    joiner = _Joiner(restore, limits, path, makes_scalars)
    try:
        return {key: joiner.value(value, 1) for key, value in tree.items()}
    except RecursionError as error:
        raise _too_deep(limits, path) from error


def _too_deep(limits: Limits, path: str) -> LimitError:
    return LimitError(
        f"expected attributes_depth of at most {limits.attributes_depth}, or Python's own",
        path=path,
    )


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        # JSON readers differ in which of the two they keep.
        raise ValueError("duplicate key in an object")
    return made


_BEYOND: Final = 10**MAX_INT_DIGITS


def _int(text: str) -> int:
    """Return a JSON integer; one with too many digits becomes one that is refused."""
    if len(text) <= MAX_INT_DIGITS:
        return int(text)
    # Python's own limit raises no error of ours, and may be switched off.
    return -_BEYOND if text.startswith("-") else _BEYOND


_DECODER: Final = json.JSONDecoder(
    parse_int=_int, parse_constant=_no_constant, object_pairs_hook=_object
)


def _length(text: str) -> int:
    return len(text)


@bounded_cache(_length, limit=REMEMBERED_CHARACTERS)
def parsed(text: str) -> Any:
    """Parse JSON without NaN, Infinity or duplicate keys.

    Raises
    ------
    ValueError
        If it is invalid.
    """
    # Most requests of a model have the same attributes. The tree is never changed.
    return _DECODER.decode(text)


class _Joiner:
    __slots__ = ("limits", "makes_scalars", "path", "restore")

    def __init__(self, restore: Restore, limits: Limits, path: str, makes_scalars: bool) -> None:
        self.makes_scalars = makes_scalars
        self.restore = restore
        self.limits = limits
        self.path = path

    def value(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is dict:
            self._deeper(depth)
            if len(value) == 1:
                tag, content = next(iter(value.items()))
                if tag.startswith("$"):
                    return self._tagged(tag, content, depth + 1)
            return {self._plain(key): self.value(part, depth + 1) for key, part in value.items()}
        if kind is list:
            self._deeper(depth)
            return [self.value(part, depth + 1) for part in value]
        if (kind is int and not -SAFE_INT <= value <= SAFE_INT) or (
            kind is float and not math.isfinite(value)
        ):
            raise self._bad("$int or $float for a number that a double does not hold")
        return value

    def _deeper(self, depth: int) -> None:
        self.limits.check("attributes_depth", depth, path=self.path)

    def _plain(self, key: str) -> str:
        if key.startswith("$"):
            raise self._bad(f"a key that begins with $ alone in its object, got {key!r}")
        return key

    def _tagged(self, tag: str, content: Any, depth: int) -> Any:
        if tag in (TORCH, NUMPY) and type(content) is str:
            return self.restore(content, tag == TORCH)
        if tag in ("$tuple", "$dict", "$complex") and type(content) is list:
            return self._composite(tag, content, depth)
        try:
            if tag == "$int" and type(content) is str:
                return exact_int(content)
            if tag == "$float" and content in ("nan", "inf", "-inf"):
                return float(content)
            if tag in ("$bytes", "$bytearray") and type(content) is str:
                made = base64.b64decode(content, validate=True)
                return made if tag == "$bytes" else bytearray(made)
            if tag == "$scalar" and type(content) is list and len(content) == 2:
                return _scalar(*content, is_made=self.makes_scalars)
        except (ValueError, TypeError) as error:
            raise self._bad(f"a value of {tag}, got: {error}") from error
        raise self._bad(f"a tag of version 1, got {tag!r} with a {type(content).__name__}")

    def _composite(self, tag: str, content: list[Any], depth: int) -> Any:
        parts = self.value(content, depth)
        if tag == "$tuple":
            return tuple(parts)
        try:
            if tag == "$complex":
                real, imaginary = parts
                if type(real) is not float or type(imaginary) is not float:
                    raise TypeError("two floats")
                return complex(real, imaginary)
            pairs = [(key, part) for key, part in parts]
            made = dict(pairs)
        except (TypeError, ValueError) as error:
            raise self._bad(f"pairs in {tag}, got: {error}") from error
        if len(made) != len(pairs):
            raise self._bad("different keys in $dict, got one twice")
        return made

    def _bad(self, expected: str) -> DecodeError:
        return DecodeError(f"expected {expected}", path=self.path, code="attributes-value")


def exact_int(text: str) -> int:
    """Return the int of a decimal text, as ``$int`` and the hash column hold it.

    Raises
    ------
    ValueError
        If the text is anything else.
    """
    # int() alone would allow spaces, underscores and other scripts' digits.
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > MAX_INT_DIGITS:
        raise ValueError("not a decimal number")
    return int(text)


def _scalar(name: str, text: str, *, is_made: bool) -> Any:
    from mmformat.model.tensors import ITEMSIZE, numpy_dtype

    data = base64.b64decode(text, validate=True)
    if type(name) is not str or name not in ITEMSIZE:
        raise ValueError(f"{name!r:.40} is no dtype of the wire")
    if len(data) != ITEMSIZE[name]:
        raise ValueError(f"expected {ITEMSIZE[name]} bytes")
    if name == "bool" and data not in (b"\0", b"\1"):
        raise ValueError("expected the byte 0 or 1")
    try:
        return np.frombuffer(data, numpy_dtype(name))[0]
    except MissingExtraError:
        if is_made:
            raise
        return (name, data)
