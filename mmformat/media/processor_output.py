"""The output of a processor, normalized to one type, and several outputs merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np

from mmformat.errors import MaterializeError
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import MultimodalDataItem
from mmformat.model.tensors import is_tensor, is_torch
from mmformat.model.values import Feature

__all__ = ["Draft", "ProcessorOutput", "processor_output"]

_FIELDS: Final = frozenset(
    each.name for each in fields(MultimodalDataItem) if not each.name.startswith("_")
) - {"feature", "model_specific_data", "modality"}


@dataclass(slots=True, kw_only=True)
class ProcessorOutput:
    """The output of a processor for one medium."""

    feature: Feature
    model_specific_data: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Draft:
    """An item whose media are processed, before the result is assembled.

    Parameters
    ----------
    item : MultimodalDataItem
        Where all else comes from.
    feature : tensor, ProcessorOutput, list of these, or None
        What came of the item's feature; an output stands for its own feature.
    precomputed_embeddings, data
        The item's, loaded.
    outputs : list of ProcessorOutput
        One for each medium, in order.
    """

    item: MultimodalDataItem
    feature: Any = None
    precomputed_embeddings: Any = None
    data: dict[str, Any] = field(default_factory=dict)
    outputs: list[ProcessorOutput] = field(default_factory=list)

    def build(self) -> MultimodalDataItem:
        """Return the new item, without identity and not frozen."""
        updates: dict[str, Any] = {
            "feature": _features(self.feature),
            "precomputed_embeddings": self.precomputed_embeddings,
            "model_specific_data": {**self.data, **_merged(self.outputs)},
        }
        for output in self.outputs:
            updates.update(output.fields)
        return replace(self.item, **updates)


def processor_output(made: Any) -> ProcessorOutput:
    """Convert what a processor returned to a ProcessorOutput.

    Raises
    ------
    MaterializeError
        When the result is neither an object with ``feature``, nor a mapping, nor a tensor.
    """
    if is_tensor(made) or isinstance(made, DictionaryTensor):
        return ProcessorOutput(feature=made)
    if isinstance(made, Mapping):
        updates = dict(made)
        feature = updates.pop("feature", None)
        data = dict(updates.pop("model_specific_data", None) or {})
        given = {name: updates.pop(name) for name in list(updates) if name in _FIELDS}
        output = ProcessorOutput(
            feature=feature, model_specific_data={**data, **updates}, fields=given
        )
    elif hasattr(made, "feature") and hasattr(made, "model_specific_data"):
        output = ProcessorOutput(
            feature=made.feature, model_specific_data=dict(made.model_specific_data)
        )
    else:
        raise MaterializeError(
            f"expected a tensor, a mapping or an object with a feature, got {type(made).__name__}"
        )
    _check_feature(output.feature)
    return output


def _merged(outputs: Sequence[ProcessorOutput]) -> dict[str, Any]:
    """Join the data of several media: arrays along their first axis, other values in a list."""
    if len(outputs) == 1:
        return outputs[0].model_specific_data
    names = dict.fromkeys(name for output in outputs for name in output.model_specific_data)
    return {
        name: _joined([output.model_specific_data.get(name) for output in outputs])
        for name in names
    }


def _features(value: Any) -> Any:
    if isinstance(value, ProcessorOutput):
        return value.feature
    if isinstance(value, dict):
        return {key: _features(each) for key, each in value.items()}
    return [_features(each) for each in value] if isinstance(value, list) else value


def _joined(values: list[Any]) -> Any:
    first = values[0]
    if any(
        not is_tensor(each)
        or type(each) is not type(first)
        or each.ndim == 0
        or each.shape[1:] != first.shape[1:]
        or each.dtype != first.dtype
        for each in values
    ):
        return values
    if is_torch(first):
        import torch

        return torch.cat(values)
    return np.concatenate(values)


def _check_feature(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for each in value:
            _check_feature(each)
    elif not (value is None or is_tensor(value) or isinstance(value, DictionaryTensor)):
        raise MaterializeError(
            f"expected the processor's feature to be a tensor, got {type(value).__name__}"
        )
