"""Every method by name, imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Final

import mmformat.bench.methods
from mmformat.bench.methods import Method
from mmformat.errors import ModelError

__all__ = ["METHODS", "make_method", "method_class", "why_missing"]

_WHEEL: Final = "mmformat.bench.methods"

METHODS: Final = {
    "mmformat": f"{_WHEEL}:PlainMethod",
    "mmformat-arena": f"{_WHEEL}:ArenaMethod",
    "mmformat-arena-again": "benchmarks.baselines.own:ArenaAgainMethod",
    "mmformat-lz4": "benchmarks.baselines.own:Lz4Method",
    "mmformat-dictionary": "benchmarks.baselines.own:DictionaryMethod",
    "mmformat-codes": "benchmarks.baselines.own:CodesMethod",
    "mmformat-arena-dictionary": "benchmarks.baselines.own:ArenaDictionaryMethod",
    "mmformat-arena-codes": "benchmarks.baselines.own:ArenaCodesMethod",
    "pickle4": f"{_WHEEL}:Pickle4Method",
    "pickle5": f"{_WHEEL}:Pickle5Method",
    "pickle5-oob": f"{_WHEEL}:OutOfBandMethod",
    "torch-save": "benchmarks.baselines.torch_save:TorchSaveMethod",
    "safetensors": f"{_WHEEL}:SafetensorsMethod",
    "msgspec-oob": f"{_WHEEL}:MsgpackFramesMethod",
    "pyfory": "benchmarks.baselines.fory:ForyMethod",
    "tenso": "benchmarks.baselines.tenso:TensoMethod",
    "segment-per-tensor": "benchmarks.baselines.segment_per_tensor:SegmentPerTensorMethod",
    "tensordict": "benchmarks.baselines.tensordict:TensorDictMethod",
    "ray": "benchmarks.baselines.ray:RayMethod",
    "memcpy": "benchmarks.baselines.controls:MemcpyMethod",
    "touch": "benchmarks.baselines.controls:TouchMethod",
    "vllm": "benchmarks.baselines.engine_vllm:VllmMethod",
    "sglang": "benchmarks.baselines.engine_sglang:SglangMethod",
}
"""Module and class, by the method's name."""


def method_class(name: str) -> type[Method]:
    """Return a method's class; no engine is imported before it is made.

    Raises
    ------
    ModelError
        If there is no method of that name.
    """
    if name not in METHODS:
        raise ModelError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def make_method(name: str) -> Method:
    """Return one side of a method, neither opened nor attached."""
    return method_class(name)()


def why_missing(name: str) -> str | None:
    """Return why a method cannot run here, or None if it can."""
    return mmformat.bench.methods.why_missing(method_class(name))
