"""The engine's objects into the model, without losing a field."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from mmformat.adapters.sglang.fields import (
    DATA,
    OWN,
    REQUEST_ITEMS,
    RESERVED,
    defaults_of,
    fields_of,
)
from mmformat.errors import ModelError
from mmformat.model import InputFormat, Modality, MultimodalDataItem, MultimodalInputs

__all__ = ["to_mmformat"]


def to_mmformat(obj: Any) -> MultimodalInputs:
    """Return SGLang's multimodal inputs as the model's.

    Parameters
    ----------
    obj : MultimodalInputs, MultimodalProcessorOutput, dict, MultimodalDataItem, or a list of these
        Of SGLang 0.5.5 to 0.5.23; ``dict`` is the form in which 0.5.5 sends a request's media.

    Returns
    -------
    MultimodalInputs
        Fields that the model's item has no place for stand in ``model_specific_data``, those of
        the request in ``request_data``, each under the engine's name.

    Raises
    ------
    ModelError
        When the object is none of these, or an enum's member has no counterpart.

    Notes
    -----
    **Copies**: none; the tensors are the engine's. Hashes and pad values are kept, not computed.
    Nothing of the engine is imported.

    References
    ----------
    docs/engines.md, "Names".

    Examples
    --------
    >>> media = {"mm_items": [{"modality": "IMAGE", "hash": 7}], "im_token_id": 151655}
    >>> inputs = to_mmformat(media)
    >>> inputs.items[0].hash, inputs.request_data
    (7, {'im_token_id': 151655})
    """
    if isinstance(obj, (list, tuple)):
        return MultimodalInputs(items=_items(obj, "$"))
    fields = dict(obj) if isinstance(obj, dict) else fields_of(obj)
    if REQUEST_ITEMS in fields:
        known = {} if isinstance(obj, dict) else defaults_of(type(obj))
        data = {
            key: _plain(value)
            for key, value in fields.items()
            if key != REQUEST_ITEMS and not _is_default(key, value, known)
        }
        items = _items(fields[REQUEST_ITEMS], f"$.{REQUEST_ITEMS}")
        return MultimodalInputs(items=items, request_data=data)
    if "modality" in fields:
        return MultimodalInputs(items=[_item(obj, "$")])
    raise ModelError(f"expected SGLang's multimodal inputs, got {type(obj).__name__}", path="$")


def _items(values: Any, path: str) -> list[MultimodalDataItem]:
    if not isinstance(values, Iterable):
        raise ModelError(f"expected a list of items, got {type(values).__name__}", path=path)
    return [_item(value, f"{path}[{index}]") for index, value in enumerate(values)]


def _item(value: Any, path: str) -> MultimodalDataItem:
    fields = dict(value) if isinstance(value, dict) else fields_of(value)
    if "modality" not in fields:
        raise ModelError(f"expected a MultimodalDataItem, got {type(value).__name__}", path=path)
    known = {} if isinstance(value, dict) else defaults_of(type(value))
    data = dict(fields.get("model_specific_data") or {})
    # What an engine's class could not hold when the item was made from the model.
    modality = data.pop(RESERVED + "modality", fields["modality"])
    form = data.pop(RESERVED + "format", fields.get("format", InputFormat.NORMAL.name))
    identity = data.pop(RESERVED + "identity", fields.get("identity"))
    specific: dict[Any, Any] = {}
    for key, part in fields.items():
        if key not in OWN and not _is_default(key, part, known):
            specific[key] = _plain(part)
    if fields.get("pad_value") is not None and fields.get("pad_values", ()) is None:
        specific["pad_values"] = None  # said, so that they are not derived on the way back
    specific |= {_escaped(key, fields): _plain(part) for key, part in data.items()}
    offsets = fields.get("offsets")
    if not _are_ranges(offsets):
        specific[RESERVED + "offsets"] = _plain(offsets)
        offsets = None
    feature = _tensor("feature", fields, specific)
    return MultimodalDataItem(
        modality=_member(Modality, modality, f"{path}.modality"),
        format=_member(InputFormat, form, f"{path}.format"),
        feature=feature,
        precomputed_embeddings=_tensor("precomputed_embeddings", fields, specific),
        offsets=None if offsets is None else list(offsets),
        model_specific_data=specific,
        hash=fields.get("hash"),
        pad_value=fields.get("pad_value"),
        identity=identity.hex() if isinstance(identity, bytes) else identity,
    )


def _is_default(name: str, value: Any, known: dict[str, Any]) -> bool:
    if name not in known:
        return False
    default = known[name]
    return value is default or (type(value) in (list, dict) and not value and value == default)


def _escaped(key: Any, fields: dict[str, Any]) -> Any:
    if type(key) is str and (key in fields or key.startswith(RESERVED)):
        return DATA + key
    return key


def _are_ranges(value: Any) -> bool:
    return value is None or (
        type(value) is list
        and all(
            type(pair) is tuple and len(pair) == 2 and all(type(part) is int for part in pair)
            for pair in value
        )
    )


def _member(kind: Any, value: Any, path: str) -> Any:
    name = value if isinstance(value, str) else getattr(value, "name", None)
    try:
        # By name: the values of these enums moved between the engine's versions.
        return kind[str(name)]
    except KeyError as error:
        names = ", ".join(member.name for member in kind)
        raise ModelError(f"expected one of {names}, got {value!r}", path=path) from error


def _tensor(name: str, fields: dict[str, Any], specific: dict[Any, Any]) -> Any:
    value = _plain(fields.get(name))
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor) or type(value) is torch.Tensor:
        return value
    # TransportProxyTensor: a tensor with a few attributes.
    attributes = {key: _plain(part) for key, part in vars(value).items()}
    if attributes:
        specific[f"{name}.attributes"] = attributes
    return value.as_subclass(torch.Tensor)


def _plain(value: Any) -> Any:
    """Return containers that equal the engine's and that a message carries."""
    kind = type(value)
    if kind is dict:
        return {key: _plain(part) for key, part in value.items()}
    if kind is list:
        return [_plain(part) for part in value]
    # torch.Size equals the tuple of its extents.
    if kind is tuple or (kind.__name__ == "Size" and isinstance(value, tuple)):
        return tuple(_plain(part) for part in value)
    return value
