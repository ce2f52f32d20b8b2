"""vLLM's objects into the model, without losing a field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from mmformat.adapters.vllm.names import (
    FIELDS,
    IS_EMBED,
    MM_HASH,
    MODALITIES,
    MODALITY,
    PREFIX,
    feature_of,
)
from mmformat.errors import ModelError
from mmformat.model import DictionaryTensor, Modality, MultimodalDataItem, MultimodalInputs
from mmformat.model.tensors import is_tensor

__all__ = ["forget_neighbours", "tensor_nbytes", "to_mmformat"]

_KINDS: Final = {
    "MultiModalBatchedField": "batched",
    "MultiModalFlatField": "flat",
    "MultiModalSharedField": "shared",
}
_KNOWN: Final = frozenset({"data", "modality", "identifier", "mm_position", "mm_hash"})


def to_mmformat(obj: Any) -> MultimodalInputs:
    """Return vLLM's multimodal inputs as the model's.

    Parameters
    ----------
    obj : MultiModalKwargsItem, MultiModalKwargsItems, MultiModalFeatureSpec, or a list of the last
        Of vLLM 0.33.

    Returns
    -------
    MultimodalInputs
        ``pixel_values`` and the like as ``feature``, the other keys in ``model_specific_data``
        beside ``vllm_fields``, which says how vLLM batches each.

    Raises
    ------
    ModelError
        When the object is none of these, or a field is of a class that vLLM 0.33 has not.

    Notes
    -----
    **Copies**: none; the tensors are the engine's. vLLM's ranges are half-open; the model's name
    the last token. Nothing of the engine is imported.

    References
    ----------
    docs/engines.md, "Names".
    """
    if isinstance(obj, (list, tuple)):
        return MultimodalInputs(items=[_feature(part, f"$[{i}]") for i, part in enumerate(obj)])
    if dataclasses.is_dataclass(obj):
        return MultimodalInputs(items=[_feature(obj, "$")])
    if not isinstance(obj, Mapping):
        raise ModelError(f"expected vLLM's multimodal inputs, got {type(obj).__name__}", path="$")
    if all(isinstance(part, (list, tuple)) for part in obj.values()) and obj:
        items = [
            _item(part, modality, f"$[{modality!r}][{i}]")
            for modality, parts in obj.items()
            for i, part in enumerate(parts)
        ]
        return MultimodalInputs(items=items, request_data={MODALITIES: list(obj)})
    if not obj and type(obj).__name__ == "MultiModalKwargsItems":
        return MultimodalInputs(request_data={MODALITIES: []})
    return MultimodalInputs(items=[_item(obj, None, "$")])


def _feature(value: Any, path: str) -> MultimodalDataItem:
    names = {field.name for field in dataclasses.fields(value)} if _is_instance(value) else set()
    if not names >= _KNOWN:
        raise ModelError(f"expected a MultiModalFeatureSpec, got {type(value).__name__}", path=path)
    item = _item(value.data, value.modality, f"{path}.data")
    item.identity = value.identifier
    if value.mm_hash != value.identifier:
        item.model_specific_data[MM_HASH] = value.mm_hash
    place = value.mm_position
    item.offsets = [(place.offset, place.offset + place.length - 1)]
    if place.is_embed is not None:
        item.model_specific_data[IS_EMBED] = place.is_embed
    for name in sorted(names - _KNOWN):
        item.model_specific_data[PREFIX + name] = getattr(value, name)
    return item


def _item(value: Any, modality: str | None, path: str) -> MultimodalDataItem:
    specific: dict[str, Any] = {}
    if value is None:  # an item that the engine has already
        return _made(modality or "image", specific)
    if not isinstance(value, Mapping):
        raise ModelError(f"expected a MultiModalKwargsItem, got {type(value).__name__}", path=path)
    described = {}
    for key, elem in value.items():
        if not hasattr(elem, "field") or not hasattr(elem, "data"):
            raise ModelError("expected a MultiModalFieldElem", path=f"{path}[{key!r}]")
        specific[key] = elem.data
        described[key] = _field(elem.field, f"{path}[{key!r}].field")
    if {FIELDS, MM_HASH, IS_EMBED, MODALITY} & specific.keys():
        raise ModelError("expected keys that are not this adapter's own", path=path)
    feature, embeddings = feature_of(key for key in specific if _is_feature(specific[key]))
    if modality is None:
        names = " ".join(specific)
        modality = "video" if "video" in names else "audio" if "audio" in names else "image"
    parts = {
        "feature": specific.pop(feature) if feature else None,
        "precomputed_embeddings": specific.pop(embeddings) if embeddings else None,
    }
    specific[FIELDS] = described
    return _made(modality, specific, **parts)


def _is_feature(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_feature(part) for part in value)
    return value is None or is_tensor(value) or isinstance(value, DictionaryTensor)


def _made(modality: str, specific: dict[str, Any], **parts: Any) -> MultimodalDataItem:
    known = Modality.__members__.get(modality.upper())
    if known is None or modality != modality.lower():
        specific[MODALITY] = modality
        known = Modality.IMAGE
    return MultimodalDataItem(modality=known, model_specific_data=specific, **parts)


def _field(field: Any, path: str) -> dict[str, Any]:
    kind = _KINDS.get(type(field).__name__)
    if kind is None or not _is_instance(field):
        raise ModelError(f"expected a field of vLLM, got {type(field).__name__}", path=path)
    parts = {part.name: getattr(field, part.name) for part in dataclasses.fields(field)}
    return {"kind": kind, **{name: _slices(part) for name, part in parts.items()}}


def _slices(value: Any) -> Any:
    if isinstance(value, slice):
        return (value.start, value.stop, value.step)
    if isinstance(value, (list, tuple)):
        return [_slices(part) for part in value]
    return value


def _is_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def forget_neighbours(inputs: MultimodalInputs) -> None:
    """Drop what an item's fields say about the rest of its request.

    The slices of a flat field and the batch size of a shared one are used before the item is
    made. Without them the same picture is the same message in every request.
    """
    for item in inputs.items:
        for field in item.model_specific_data.get(FIELDS, {}).values():
            if "slices" in field:
                field["slices"] = [(None, None, None)]
            if "batch_size" in field:
                field["batch_size"] = 1


def tensor_nbytes(item: Any) -> int:
    """Return how many bytes an item's tensors have, without reading one of them."""
    if getattr(item, "handle", None) is not None:
        return 0
    total = 0
    left = [elem.data for elem in item.values()]
    while left:
        value = left.pop()
        if isinstance(value, (list, tuple)):
            left.extend(value)
        else:
            total += int(getattr(value, "nbytes", 0))
    return total
