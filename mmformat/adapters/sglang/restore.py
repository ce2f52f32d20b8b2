"""The model into the engine's objects, of whichever version is installed."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Final

from mmformat._extras import require
from mmformat.adapters.sglang.fields import (
    DATA,
    FIELD,
    OWN,
    REQUEST_ITEMS,
    RESERVED,
    defaults_of,
)
from mmformat.errors import MissingExtraError, ModelError
from mmformat.model import InputFormat, Modality, MultimodalDataItem, MultimodalInputs
from mmformat.model.identity import pad_values_of_hash

__all__ = ["from_mmformat", "schedule_batch"]

_SCHEDULE_BATCH: Final = "sglang.srt.managers.schedule_batch"
_IDENTITY_NBYTES: Final = 32


def from_mmformat(inputs: MultimodalInputs, cls: type[Any] | None = None) -> Any:
    """Return the model's inputs as an object of SGLang.

    Parameters
    ----------
    inputs : MultimodalInputs
        Materialized.
    cls : type, optional
        ``MultimodalInputs`` (when omitted) or ``MultimodalProcessorOutput`` of
        ``sglang.srt.managers.schedule_batch``, its ``MultimodalDataItem`` for inputs of one item,
        or ``dict`` for the form in which 0.5.5 sends a request's media.

    Raises
    ------
    ModelError
        When ``cls`` is none of these, or an item is wanted of inputs that are not one item.
    MissingExtraError
        When SGLang is not installed.

    Notes
    -----
    **Copies**: none; the tensors are the model's. Names that the class has no field for become
    attributes of the request, or entries of ``model_specific_data``. Where ``pad_values`` were
    not stored they are derived from the hash or identity: no content is hashed.
    """
    module = schedule_batch() if cls in (None, dict) else sys.modules[_module_of(cls)]
    items = [_item(item, module) for item in inputs.items]
    if cls is dict:
        return {REQUEST_ITEMS: items, **inputs.request_data}
    target = module.MultimodalInputs if cls is None else cls
    if target is module.MultimodalDataItem:
        if len(items) != 1 or inputs.request_data:
            raise ModelError(f"expected inputs of one item and nothing else, got {inputs!r}")
        return items[0]
    known = defaults_of(target)
    if REQUEST_ITEMS not in known:
        raise ModelError(f"expected a class with the field {REQUEST_ITEMS}, got {target!r}")
    made = target(
        **{REQUEST_ITEMS: items},
        **{key: value for key, value in inputs.request_data.items() if key in known},
    )
    for key, value in inputs.request_data.items():
        if key not in known:
            setattr(made, key, value)
    return made


def schedule_batch() -> ModuleType:
    """Import the module that holds SGLang's multimodal classes.

    Raises
    ------
    MissingExtraError
        When SGLang is not installed.
    """
    try:
        return require(_SCHEDULE_BATCH, extra="sglang")
    except MissingExtraError as error:
        raise MissingExtraError(error.reason, hint="pip install sglang") from error


def _module_of(cls: Any) -> str:
    name = getattr(cls, "__module__", None)
    if name is None or not hasattr(sys.modules.get(name), "MultimodalDataItem"):
        raise ModelError(
            f"expected dict or a class of {_SCHEDULE_BATCH}, got {cls!r}",
            hint="pass MultimodalInputs, MultimodalProcessorOutput or MultimodalDataItem",
        )
    return str(name)


def _item(item: MultimodalDataItem, module: ModuleType) -> Any:
    cls = module.MultimodalDataItem
    known = defaults_of(cls)
    fields: dict[str, Any] = {}
    data: dict[Any, Any] = {}
    for key, value in item.model_specific_data.items():
        name = key if type(key) is str else ""
        if name.startswith(DATA):
            data[name.removeprefix(DATA)] = value
        elif name.startswith(FIELD) and name.removeprefix(FIELD) in known:
            fields[name.removeprefix(FIELD)] = value
        elif name in known and name not in OWN and FIELD + name not in item.model_specific_data:
            fields[name] = value
        else:
            data[key] = value
    fields["modality"] = _modality(item, module, data)
    if "format" in known:
        fields["format"] = module.MultimodalInputFormat[item.format.name]
    elif item.format is not InputFormat.NORMAL:
        data[RESERVED + "format"] = item.format.name
    if item.identity is not None:
        if "identity" in known and _is_digest(item.identity):
            fields["identity"] = bytes.fromhex(item.identity)
        else:
            data[RESERVED + "identity"] = item.identity
    if "pad_values" in known and "pad_values" not in fields:
        fields["pad_values"] = _pad_values(item)
    fields["offsets"] = data.pop(RESERVED + "offsets", item.offsets)
    for name in ("feature", "precomputed_embeddings"):
        fields[name] = _proxied(getattr(item, name), data, f"{name}.attributes")
    return cls(hash=item.hash, pad_value=item.pad_value, model_specific_data=data, **fields)


def _modality(item: MultimodalDataItem, module: ModuleType, data: dict[Any, Any]) -> Any:
    members = module.Modality.__members__
    name = item.modality.name
    if item.modality is Modality.MULTI_IMAGES and name not in members:
        # Dropped after 0.5.9, where several images of one item are IMAGE.
        data[RESERVED + "modality"] = name
        name = Modality.IMAGE.name
    return members[name]


def _is_digest(identity: str) -> bool:
    try:
        return len(bytes.fromhex(identity)) == _IDENTITY_NBYTES and identity == identity.lower()
    except ValueError:
        return False


def _pad_values(item: MultimodalDataItem) -> tuple[int, ...] | None:
    if item.hash is None or item.pad_value is None or not 0 <= item.hash < 2**64:
        return None
    identity = None
    if item.identity is not None and _is_digest(item.identity):
        identity = bytes.fromhex(item.identity)
    for seed in (identity, None):
        values = pad_values_of_hash(item.hash, identity=seed)
        if values[0] == item.pad_value:
            return values
    return None


def _proxied(value: Any, data: dict[Any, Any], key: str) -> Any:
    attributes = data.get(key)
    if not isinstance(attributes, dict) or not isinstance(attributes.get("_metadata"), dict):
        return value
    mm_utils = require("sglang.srt.managers.mm_utils", extra="sglang")
    metadata = data.pop(key)["_metadata"]
    return mm_utils.TransportProxyTensor(
        value,
        name=metadata.get("name"),
        fields=metadata.get("fields"),
        transport_mode=metadata.get("transport_mode", "default"),
    )
