"""Inputs as one flat mapping of tensors and a JSON text, for rivals that carry nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmformat.bench.arms.arm import inputs_of, plain_of
from mmformat.model import MultimodalInputs

if TYPE_CHECKING:
    import torch

__all__ = ["inputs_of_named", "named_tensors"]


def named_tensors(inputs: MultimodalInputs) -> tuple[dict[str, torch.Tensor], str]:
    """Return every tensor by a name that says where it belongs, and the rest as JSON."""
    plain = plain_of(inputs)
    tensors = {}
    for number, item in enumerate(plain["items"]):
        tensors[f"{number}.feature"] = item.pop("feature")
        for name, value in item.pop("model_specific_data").items():
            tensors[f"{number}.data.{name}"] = value
    return tensors, json.dumps(plain)


def inputs_of_named(tensors: Mapping[str, Any], rest: str | bytes) -> MultimodalInputs:
    """Return the inputs of :func:`named_tensors`'s two values."""
    plain = json.loads(rest)
    for item in plain["items"]:
        item["model_specific_data"] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        item = plain["items"][int(number)]
        if name == "feature":
            item["feature"] = value
        else:
            item["model_specific_data"][name.removeprefix("data.")] = value
    return inputs_of(plain)
