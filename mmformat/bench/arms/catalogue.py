"""Every arm by name, imported when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final

from mmformat.bench.arms.arm import Arm
from mmformat.errors import ModelError

__all__ = ["ARMS", "arm_class", "make_arm", "why_missing"]

_HERE: Final = "mmformat.bench.arms"

ARMS: Final = {
    "mmformat": "own:PlainArm",
    "mmformat-arena": "arena:ArenaArm",
    "mmformat-arena-again": "arena:ArenaAgainArm",
    "mmformat-lz4": "own:Lz4Arm",
    "mmformat-dictionary": "own:DictionaryArm",
    "mmformat-codes": "own:CodesArm",
    "mmformat-arena-dictionary": "arena:ArenaDictionaryArm",
    "mmformat-arena-codes": "arena:ArenaCodesArm",
    "pickle4": "in_band:Pickle4Arm",
    "pickle5": "in_band:Pickle5Arm",
    "pickle5-oob": "out_of_band:OutOfBandArm",
    "torch-save": "torch_save:TorchSaveArm",
    "safetensors": "tensor_file:SafetensorsArm",
    "msgspec-oob": "msgpack_frames:MsgpackFramesArm",
    "pyfory": "fory:ForyArm",
    "tenso": "tenso_packet:TensoArm",
    "segment-per-tensor": "segment_per_tensor:SegmentPerTensorArm",
    "tensordict": "consolidated:TensorDictArm",
    "ray": "object_store:RayArm",
    "memcpy": "controls:MemcpyArm",
    "touch": "controls:TouchArm",
    "vllm": "engine_vllm:VllmArm",
    "sglang": "engine_sglang:SglangArm",
}
"""Module and class within this room, by the arm's name."""


def arm_class(name: str) -> type[Arm]:
    """Return an arm's class; no engine is imported before it is made.

    Raises
    ------
    ModelError
        When there is no arm of that name.
    """
    try:
        module, _, attribute = ARMS[name].partition(":")
    except KeyError:
        raise ModelError(f"expected an arm of {', '.join(ARMS)}, got {name!r}") from None
    found: type[Arm] = getattr(importlib.import_module(f"{_HERE}.{module}"), attribute)
    return found


def make_arm(name: str) -> Arm:
    """Return one side of an arm, neither opened nor attached.

    Raises
    ------
    ModelError
        When there is no arm of that name.
    """
    return arm_class(name)()


def why_missing(name: str) -> str | None:
    """Say why an arm cannot run here, or None when it can."""
    module = arm_class(name).module
    if module is None:
        return None
    try:
        if importlib.util.find_spec(module) is not None:
            return None
    except ModuleNotFoundError:  # the package above it is not installed either
        pass
    return f"{module} is not installed"
