"""Decide what the roots of a file are, and map each to the model."""

from __future__ import annotations

from typing import Any

from mmformat.legacy.nodes import Instance, Marked
from mmformat.legacy.plain import Values
from mmformat.legacy.reading import Found
from mmformat.legacy.sglang_shapes import (
    BATCHES,
    INPUTS,
    ITEM,
    REQUESTS,
    Members,
    SGLang,
    is_request_dict,
)
from mmformat.legacy.vllm_shapes import FEATURE, VLLM, is_vllm
from mmformat.model.item import MultimodalInputs

__all__ = ["Mapping", "joined"]


class Mapping:
    """Map inert roots to multimodal inputs, one for each request that they hold."""

    __slots__ = ("_sglang", "_values", "_vllm")

    def __init__(self, values: Values, found: Found, *, sglang_version: str | None = None) -> None:
        members = Members(found.instances, found.enums, sglang_version=sglang_version)
        if values.report.writer is None:
            values.report.writer = members.writer
        self._values = values
        self._sglang = SGLang(values, members)
        self._vllm = VLLM(values)

    def root(self, value: Any, path: str) -> list[MultimodalInputs]:
        """Return the inputs of one root.

        Raises
        ------
        DecodeError
            When a part of it has no meaning in the model.
        """
        if isinstance(value, Marked) and isinstance(value.value, dict):
            value = value.value
        if isinstance(value, Instance) and value.cls in BATCHES:
            made = []
            for name, part in value.state.items():
                if name == "batch" and isinstance(part, list | tuple):
                    for index, request in enumerate(part):
                        made += self.root(request, f"{path}.batch[{index}]")
                else:
                    self._values.report.add(f"{path}.{name}", "dropped", "field of the batch")
            return made
        if _is_inputs(value):
            return [self._one(value, path)]
        if isinstance(value, list | tuple) and value:
            if all(isinstance(part, Instance) and part.cls == ITEM for part in value):
                return [self._sglang.inputs({"mm_items": value}, path)]
            if all(isinstance(part, Instance) and part.cls == FEATURE for part in value):
                items = [self._vllm.feature(part, f"{path}[{i}]") for i, part in enumerate(value)]
                return [MultimodalInputs(items=items)]
            if all(_is_inputs(part) for part in value):
                return [self._one(part, f"{path}[{i}]") for i, part in enumerate(value)]
        made_value = self._values.of(value, path)
        if isinstance(made_value, dict) and all(type(key) is str for key in made_value):
            return [MultimodalInputs(request_data=made_value)]
        return [MultimodalInputs(request_data={"value": made_value})]

    def _one(self, value: Any, path: str) -> MultimodalInputs:
        if is_vllm(value):
            return self._vllm.inputs(value, path)
        if isinstance(value, Instance):
            if value.cls in REQUESTS:
                return self._sglang.request(value, path)
            if value.cls == ITEM:
                return MultimodalInputs(items=[self._sglang.item(value, path)])
        return self._sglang.inputs(value, path)


def _is_inputs(value: Any) -> bool:
    if isinstance(value, Instance):
        return is_vllm(value) or value.cls in INPUTS or value.cls in REQUESTS or value.cls == ITEM
    return is_request_dict(value)


def joined(parts: list[MultimodalInputs]) -> MultimodalInputs:
    """Return the inputs of all requests of a file as one, without losing whose item is whose.

    Examples
    --------
    >>> one = MultimodalInputs(request_data={"im_token_id": 7})
    >>> joined([one]) is one
    True
    >>> joined([one, one]).request_data["requests"][1]["item_range"]
    (0, 0)
    """
    if len(parts) == 1:
        return parts[0]
    items: list[Any] = []
    requests = []
    for part in parts:
        start = len(items)
        items += part.items
        requests.append({"item_range": (start, len(items)), "request_data": part.request_data})
    return MultimodalInputs(items=items, request_data={"requests": requests})
