"""The model into vLLM's objects."""

from __future__ import annotations

from typing import Any, Final

from mmformat._extras import require
from mmformat.adapters.vllm.names import (
    FIELDS,
    IS_EMBED,
    MM_HASH,
    MODALITIES,
    MODALITY,
    PREFIX,
    feature_of,
)
from mmformat.errors import MissingExtraError, ModelError
from mmformat.model import MultimodalDataItem, MultimodalInputs

__all__ = ["from_mmformat", "inputs_module"]

_INPUTS: Final = "vllm.multimodal.inputs"
_SLICE_PARTS: Final = 3


def from_mmformat(inputs: MultimodalInputs, cls: type[Any] | None = None) -> Any:
    """Return the model's inputs as objects of vLLM.

    Parameters
    ----------
    inputs : MultimodalInputs
        As :func:`to_mmformat` or :func:`mmformat.convert` makes them of vLLM's.
    cls : type, optional
        ``MultiModalKwargsItems`` (when omitted), ``MultiModalKwargsItem`` for inputs of one item,
        or ``MultiModalFeatureSpec``, of which a list is returned.

    Raises
    ------
    ModelError
        When ``cls`` is none of these, one item is wanted of more, or an item does not say how
        vLLM is to batch its keys.
    MissingExtraError
        When vLLM is not installed.

    Notes
    -----
    **Copies**: none; the tensors are the model's.
    """
    module = inputs_module()
    name = "MultiModalKwargsItems" if cls is None else cls.__name__
    if name == "MultiModalFeatureSpec":
        return [_feature(item, module, f"$.items[{i}]") for i, item in enumerate(inputs.items)]
    if name == "MultiModalKwargsItem":
        if len(inputs.items) != 1:
            raise ModelError(f"expected inputs of one item, got {len(inputs.items)}", path="$")
        return _item(inputs.items[0], module, "$.items[0]")
    if name != "MultiModalKwargsItems":
        raise ModelError(f"expected a class of {_INPUTS} that holds items, got {cls!r}")
    grouped: dict[str, list[Any]] = {
        modality: [] for modality in inputs.request_data.get(MODALITIES, ())
    }
    for index, item in enumerate(inputs.items):
        parts = grouped.setdefault(_modality(item), [])
        parts.append(_item(item, module, f"$.items[{index}]"))
    return module.MultiModalKwargsItems(grouped)


def inputs_module() -> Any:
    """Import the module that holds vLLM's multimodal classes.

    Raises
    ------
    MissingExtraError
        When vLLM is not installed.
    """
    try:
        return require(_INPUTS, extra="vllm")
    except MissingExtraError as error:
        raise MissingExtraError(error.reason, hint="pip install vllm") from error


def _modality(item: MultimodalDataItem) -> str:
    return str(item.model_specific_data.get(MODALITY, item.modality.name.lower()))


def _feature(item: MultimodalDataItem, module: Any, path: str) -> Any:
    if item.identity is None or not item.offsets or len(item.offsets) != 1:
        raise ModelError("expected an item with an identity and one token range", path=path)
    data = item.model_specific_data
    (first, last), embed = item.offsets[0], data.get(IS_EMBED)
    extra = {
        name.removeprefix(PREFIX): value for name, value in data.items() if name.startswith(PREFIX)
    }
    return module.MultiModalFeatureSpec(
        data=_item(item, module, path),
        modality=_modality(item),
        identifier=item.identity,
        mm_position=module.PlaceholderRange(offset=first, length=last - first + 1, is_embed=embed),
        mm_hash=data.get(MM_HASH, item.identity),
        **extra,
    )


def _item(item: MultimodalDataItem, module: Any, path: str) -> Any:
    data = item.model_specific_data
    described = data.get(FIELDS)
    if described is None:
        if item.feature is None and item.precomputed_embeddings is None:
            return None  # an item that the engine has already
        raise ModelError(
            "expected an item that came from vLLM, got one that does not say how it is batched",
            path=path,
            hint=f"set model_specific_data[{FIELDS!r}]",
        )
    feature, embeddings = feature_of(key for key in described if key not in data)
    elems = {}
    for key, field in described.items():
        if key == feature:
            value = item.feature
        elif key == embeddings:
            value = item.precomputed_embeddings
        elif key in data:
            value = data[key]
        else:
            raise ModelError(f"expected a value of the key {key!r}", path=path)
        elems[key] = module.MultiModalFieldElem(data=value, field=_field(field, module, path))
    return module.MultiModalKwargsItem(elems)


def _field(described: dict[str, Any], module: Any, path: str) -> Any:
    parts = dict(described)
    kind = parts.pop("kind", None)
    if kind not in ("batched", "flat", "shared"):
        raise ModelError(f"expected batched, flat or shared, got {kind!r}", path=path)
    if "slices" in parts:
        parts["slices"] = _slices(parts["slices"])
    cls = getattr(module, f"MultiModal{kind.capitalize()}Field")
    return cls(**parts)


def _slices(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == _SLICE_PARTS:
        return slice(*value)
    return [_slices(part) for part in value]
