"""Equality of inputs bit for bit, and the expected values that stand beside a golden vector."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from mmformat.model import DictionaryTensor, MultimodalInputs
from mmformat.model.tensors import is_tensor, is_torch, tensor_buffer, tensor_spec

__all__ = ["assert_inputs_equal", "twin_of"]


def twin_of(inputs: MultimodalInputs) -> dict[str, Any]:
    """Return what inputs are, as JSON that any language can compare its own reading with.

    Returns
    -------
    dict
        Every value with its type; ints and floats as text, floats in C's hexadecimal notation;
        a tensor by library, dtype, shape and the SHA-256 of its bytes in C order.

    Examples
    --------
    >>> twin_of(MultimodalInputs(request_data={"a": (1, None)}))["request_data"]["pairs"][0][1]
    {'type': 'tuple', 'values': [{'type': 'int', 'value': '1'}, {'type': 'none'}]}
    """
    return {
        "items": [
            {
                "modality": item.modality.value,
                "format": item.format.value,
                "hash": None if item.hash is None else str(item.hash),
                "pad_value": None if item.pad_value is None else str(item.pad_value),
                "identity": item.identity,
                "offsets": None if item.offsets is None else [list(pair) for pair in item.offsets],
                "feature": _value(item.feature),
                "precomputed_embeddings": _value(item.precomputed_embeddings),
                "model_specific_data": _value(item.model_specific_data),
            }
            for item in inputs.items
        ],
        "request_data": _value(inputs.request_data),
    }


def _value(value: Any) -> dict[str, Any]:
    kind = type(value)
    if value is None:
        return {"type": "none"}
    if kind in (list, tuple):
        return {"type": kind.__name__, "values": [_value(part) for part in value]}
    if kind is dict:
        return {"type": "dict", "pairs": [[_value(k), _value(v)] for k, v in value.items()]}
    if kind in (bool, str):
        return {"type": kind.__name__, "value": value}
    if kind is int:
        return {"type": "int", "value": str(value)}
    if kind is float:
        return {"type": "float", "value": value.hex()}
    if kind is complex:
        return {"type": "complex", "value": [value.real.hex(), value.imag.hex()]}
    if kind in (bytes, bytearray):
        return {"type": kind.__name__, "value": value.hex()}
    if isinstance(value, np.generic):
        return {"type": "scalar", "dtype": value.dtype.name, "value": value.tobytes().hex()}
    return _tensor(value)


def _tensor(value: Any) -> dict[str, Any]:
    if isinstance(value, DictionaryTensor):
        value = value.expand()
    if not is_tensor(value):
        raise AssertionError(f"expected a value of the format, got {type(value).__name__}")
    spec = tensor_spec(value)
    return {
        "type": "tensor",
        "library": "torch" if is_torch(value) else "numpy",
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "sha256": hashlib.sha256(memoryview(tensor_buffer(value))).hexdigest(),
    }


def assert_inputs_equal(actual: MultimodalInputs, expected: MultimodalInputs) -> None:
    """Raise AssertionError unless two inputs are equal: types, order of keys, and every bit.

    A dictionary tensor equals the tensor that it expands to.

    Parameters
    ----------
    actual, expected : MultimodalInputs
        NaNs are compared by their bits in tensors, and as equal where they are Python floats.

    Raises
    ------
    AssertionError
        Naming the first difference by its path.

    Examples
    --------
    >>> a = MultimodalInputs(request_data={"x": 1})
    >>> assert_inputs_equal(a, MultimodalInputs(request_data={"x": 1}))
    >>> assert_inputs_equal(a, MultimodalInputs(request_data={"x": True}))
    Traceback (most recent call last):
    AssertionError: expected 'bool', got 'int' - at $.request_data.pairs[0][1].type
    """
    _compare(twin_of(actual), twin_of(expected), "$")


def _compare(actual: Any, expected: Any, path: str) -> None:
    if type(actual) is dict and type(expected) is dict and actual.keys() == expected.keys():
        for key, value in expected.items():
            _compare(actual[key], value, f"{path}.{key}")
    elif type(actual) is list and type(expected) is list and len(actual) == len(expected):
        for index, value in enumerate(expected):
            _compare(actual[index], value, f"{path}[{index}]")
    elif actual != expected:
        raise AssertionError(f"expected {expected!r}, got {actual!r} - at {path}")
