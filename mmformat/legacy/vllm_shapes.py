"""vLLM's multimodal classes, as the model's items and inputs."""

from __future__ import annotations

from typing import Any, Final

from mmformat.errors import DecodeError
from mmformat.legacy.nodes import Instance, Marked
from mmformat.legacy.plain import Values
from mmformat.model.item import Modality, MultimodalDataItem, MultimodalInputs

__all__ = ["FEATURE", "ITEM", "VLLM", "is_vllm"]

_INPUTS: Final = "vllm.multimodal.inputs."
FEATURE: Final = _INPUTS + "MultiModalFeatureSpec"
ITEM: Final = _INPUTS + "MultiModalKwargsItem"
_ITEMS: Final = _INPUTS + "MultiModalKwargsItems"
_KWARGS: Final = _INPUTS + "MultiModalKwargs"
_ELEM: Final = _INPUTS + "MultiModalFieldElem"
_RANGE: Final = _INPUTS + "PlaceholderRange"
_FIELDS: Final = {
    _INPUTS + "MultiModalBatchedField": "batched",
    _INPUTS + "MultiModalFlatField": "flat",
    _INPUTS + "MultiModalSharedField": "shared",
}
_MODALITIES: Final = {
    "image": Modality.IMAGE,
    "video": Modality.VIDEO,
    "audio": Modality.AUDIO,
}
_FEATURES: Final = (
    "pixel_values", "pixel_values_videos", "pixel_values_flat", "pixel_values_flat_video",
    "input_features", "input_audio_features", "audio_features",
)  # fmt: skip
_EMBEDDINGS: Final = ("image_embeds", "video_embeds", "audio_embeds")


def is_vllm(value: Any) -> bool:
    """Say whether a value is one of vLLM's classes that hold media."""
    return isinstance(value, Instance) and value.cls in (FEATURE, ITEM, _ITEMS, _KWARGS, _RANGE)


class VLLM:
    """Map vLLM's inert classes to the model."""

    __slots__ = ("values",)

    def __init__(self, values: Values) -> None:
        self.values = values

    def inputs(self, value: Instance, path: str) -> MultimodalInputs:
        """Map MultiModalKwargs, MultiModalKwargsItem(s), or a MultiModalFeatureSpec."""
        fields = value.state
        if value.cls == FEATURE:
            return MultimodalInputs(items=[self.feature(value, path)])
        if value.cls == _RANGE:
            return MultimodalInputs(request_data={"value": self._range(value, path)})
        if value.cls == ITEM:
            return MultimodalInputs(items=[self._item(value, None, path)])
        grouped = fields.get("_items_by_modality") if value.cls == _KWARGS else fields.get("data")
        if not grouped:
            return MultimodalInputs(request_data=self._dict(fields.get("data"), path))
        items = []
        for modality, members in self._dict_of(grouped, path).items():
            if not isinstance(members, list | tuple):
                raise DecodeError("expected a list of items", path=f"{path}[{modality!r}]")
            for index, member in enumerate(members):
                where = f"{path}[{modality!r}][{index}]"
                items.append(self._item(member, modality, where))
        return MultimodalInputs(items=items)

    def feature(self, value: Any, path: str) -> MultimodalDataItem:
        """Map a MultiModalFeatureSpec: an item with its place and its hashes."""
        if not isinstance(value, Instance) or value.cls != FEATURE:
            raise DecodeError("expected a MultiModalFeatureSpec", path=path)
        fields = value.state
        item = self._item(fields.get("data"), fields.get("modality"), f"{path}.data")
        identifier, mm_hash = fields.get("identifier"), fields.get("mm_hash")
        item.identity = identifier if isinstance(identifier, str) else None
        if "mm_hash" in fields and mm_hash != identifier:
            item.model_specific_data["mm_hash"] = self.values.of(mm_hash, f"{path}.mm_hash")
        position = fields.get("mm_position")
        if position is not None:
            place = self._range(position, f"{path}.mm_position")
            start, length = place["offset"], place["length"]
            # vLLM's ranges are half-open; SGLang's, and ours, name the last token.
            item.offsets = [(start, start + length - 1)]
            if place["is_embed"] is not None:
                item.model_specific_data["is_embed"] = place["is_embed"]
        return item

    def _range(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Instance) or value.cls != _RANGE:
            raise DecodeError("expected a PlaceholderRange", path=path)
        offset, length = value.state.get("offset"), value.state.get("length")
        if type(offset) is not int or type(length) is not int:
            raise DecodeError("expected ints", path=path)
        embed = self.values.of(value.state.get("is_embed"), f"{path}.is_embed")
        return {"offset": offset, "length": length, "is_embed": embed}

    def _item(self, value: Any, modality: Any, path: str) -> MultimodalDataItem:
        specific: dict[str, Any] = {}
        described: dict[str, Any] = {}
        if value is None:
            self.values.report.add(path, "assumed", "None: an item that was cached elsewhere")
        else:
            if not isinstance(value, Instance) or value.cls != ITEM:
                raise DecodeError("expected a MultiModalKwargsItem", path=path)
            for key, elem in self._dict_of(value.state.get("data"), path).items():
                if not isinstance(elem, Instance) or elem.cls != _ELEM:
                    raise DecodeError("expected a MultiModalFieldElem", path=f"{path}[{key!r}]")
                modality = elem.state.get("modality", modality)
                specific[key] = self.values.of(elem.state.get("data"), f"{path}[{key!r}].data")
                described[key] = self._field(elem.state.get("field"), f"{path}[{key!r}].field")
        feature = next((key for key in _FEATURES if key in specific), None)
        embeds = next((key for key in _EMBEDDINGS if key in specific), None)
        item = MultimodalDataItem(
            modality=self._modality(modality, specific, path),
            feature=specific.pop(feature) if feature else None,
            precomputed_embeddings=specific.pop(embeds) if embeds and not feature else None,
            model_specific_data=specific,
        )
        if value is not None:
            # What an adapter needs to build the vLLM item again.
            item.model_specific_data["vllm_fields"] = described
        return item

    def _modality(self, value: Any, specific: dict[str, Any], path: str) -> Modality:
        if value is None and specific:
            # A lone item of a version whose fields do not say it.
            names = " ".join(specific)
            value = "video" if "video" in names else "audio" if "audio" in names else "image"
            self.values.report.add(path, "assumed", f"modality {value}, by the names of the fields")
        found = _MODALITIES.get(value if isinstance(value, str) else "")
        if found is None:
            if not isinstance(value, str):
                raise DecodeError("expected the name of a modality", path=path)
            # Kept, so that nothing is lost; the model has no member for it.
            specific["vllm_modality"] = value
            self.values.report.add(path, "assumed", f"modality {ascii(value)[:40]} -> IMAGE")
            return Modality.IMAGE
        return found

    def _field(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Instance) or value.cls not in _FIELDS:
            raise DecodeError("expected a field of vLLM", path=path)
        made = {key: self._slices(part, path) for key, part in value.state.items()}
        return {"kind": _FIELDS[value.cls], **made}

    def _slices(self, value: Any, path: str) -> Any:
        if isinstance(value, Marked) and value.kind == "slice":
            return tuple(value.value)
        if isinstance(value, list | tuple):
            return [self._slices(part, path) for part in value]
        return self.values.of(value, path)

    def _dict(self, value: Any, path: str) -> dict[str, Any]:
        return {
            key: self.values.of(part, f"{path}[{key!r}]")
            for key, part in self._dict_of(value, path).items()
        }

    def _dict_of(self, value: Any, path: str) -> dict[Any, Any]:
        if isinstance(value, Marked):
            value = value.value
        if not isinstance(value, dict):
            raise DecodeError(f"expected a dict, got {type(value).__name__}", path=path)
        return value
