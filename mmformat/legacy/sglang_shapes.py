"""SGLang's classes of 0.4.0 to 0.5.23 as the model's items and inputs, enums by version."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from mmformat.errors import DecodeError, ModelError
from mmformat.legacy.constructors import ArrayNode
from mmformat.legacy.nodes import Enum, Instance, Marked, Tensor
from mmformat.legacy.plain import Values
from mmformat.model.item import InputFormat, Modality, MultimodalDataItem, MultimodalInputs

__all__ = [
    "INPUTS",
    "ITEM",
    "REQUESTS",
    "Members",
    "SGLang",
    "is_request_dict",
]

_SCHEDULE: Final = "sglang.srt.managers.schedule_batch."
_NEWER: Final = "sglang.srt.multimodal.modality."
_FOUR: Final = {1: Modality.IMAGE, 2: Modality.MULTI_IMAGES, 3: Modality.VIDEO, 4: Modality.AUDIO}
_THREE: Final = {1: Modality.IMAGE, 2: Modality.VIDEO, 3: Modality.AUDIO}
_FORMATS: Final = {
    1: InputFormat.NORMAL,
    2: InputFormat.PROCESSOR_OUTPUT,
    3: InputFormat.PRECOMPUTED_EMBEDDING,
}
_TEXTS: Final = {
    "image": Modality.IMAGE,
    "multi-images": Modality.MULTI_IMAGES,
    "multi_images": Modality.MULTI_IMAGES,
    "video": Modality.VIDEO,
    "audio": Modality.AUDIO,
}


class Members:
    """Say what a stored enum value means, by its class path and by what else the file shows.

    ``sglang.srt.managers.schedule_batch.Modality`` had four members until 0.5.9 and has had three
    from 0.5.10 on, without moving; it moved to ``sglang.srt.multimodal.modality`` later. So the
    path does not tell 2 (several images, or a video) and 3 (video, or audio) apart. The other
    classes of the file do, except in a dict or a list of items of 0.5.6 to 0.5.19.

    Parameters
    ----------
    instances : iterable of Instance
        All instances of the file.
    enums : iterable of Enum
        All enum members of the file.
    sglang_version : str, optional
        The version that wrote the file, where it does not say so itself.

    Raises
    ------
    ModelError
        When the version is no version.
    DecodeError
        When the classes of the file are of versions that cannot have met.
    """

    def __init__(
        self,
        instances: Iterable[Instance],
        enums: Iterable[Enum],
        *,
        sglang_version: str | None = None,
    ) -> None:
        votes = {vote for instance in instances if (vote := _vote(instance))}
        if any(e.cls == f"{_SCHEDULE}Modality" and e.value == 4 for e in enums):
            votes.add(4)
        if len(votes) > 1:
            raise DecodeError("expected the classes of one SGLang, got those of two", path="$")
        self.count = votes.pop() if votes else 0
        if sglang_version is not None and not self.count:
            self.count = 3 if _release(sglang_version) >= (0, 5, 10) else 4

    @property
    def writer(self) -> str | None:
        """The versions that the classes fit, or None."""
        return {4: "sglang 0.4.5 to 0.5.9", 3: "sglang 0.5.10 or later"}.get(self.count)

    def modality(self, value: Any, path: str) -> Modality:
        """Return what a stored member of Modality means.

        Raises
        ------
        DecodeError
            For another class, an unknown value, or one that means two things.
        """
        if isinstance(value, str):
            return self.text(value, path)
        if not isinstance(value, Enum):
            raise DecodeError(f"expected a Modality, got {type(value).__name__}", path=path)
        if value.cls == f"{_NEWER}Modality":
            table = _THREE
        elif value.cls == f"{_SCHEDULE}Modality":
            table = _THREE if self.count == 3 else _FOUR
            if not self.count and value.value in (2, 3):
                raise DecodeError(
                    f"expected a Modality with one meaning, got {value.value}: "
                    f"{_FOUR[value.value]} until SGLang 0.5.9, {_THREE[value.value]} from 0.5.10",
                    path=path,
                    hint="say which wrote it: convert(..., sglang_version='0.5.9')",
                    code="ambiguous-modality",
                )
        else:
            raise DecodeError(f"expected a Modality, got {value.cls}", path=path)
        if value.value not in table:
            raise DecodeError(f"expected a Modality, got the value {value.value!r}", path=path)
        return table[value.value]

    def format(self, value: Any, path: str) -> InputFormat:
        """Return what a stored member of MultimodalInputFormat means; None is normal.

        Raises
        ------
        DecodeError
            For another class or an unknown value.
        """
        if value is None:
            return InputFormat.NORMAL
        names = (f"{_NEWER}MultimodalInputFormat", f"{_SCHEDULE}MultimodalInputFormat")
        if not isinstance(value, Enum) or value.cls not in names or value.value not in _FORMATS:
            raise DecodeError("expected a MultimodalInputFormat", path=path)
        return _FORMATS[value.value]

    def text(self, value: Any, path: str) -> Modality:
        """Return the modality that a text names.

        Raises
        ------
        DecodeError
            For any other value.
        """
        found = _TEXTS.get(value.lower()) if isinstance(value, str) else None
        if found is None:
            raise DecodeError(f"expected a modality, got {ascii(value)[:40]}", path=path)
        return found


def _vote(instance: Instance) -> int:
    """Return 3 or 4 for an instance that only one of the two enums can have met, else 0."""
    fields = instance.state
    if instance.cls == f"{_SCHEDULE}MultimodalProcessorOutput":
        return 3
    if instance.cls == f"{_SCHEDULE}MultimodalInputs":
        return 3 if "mrope_position_delta_repeated_cache" in fields else 4
    if instance.cls == f"{_SCHEDULE}MultimodalDataItem":
        if "keep_device_embedding" in fields:
            return 3
        if "format" not in fields:
            return 4
    return 0


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        raise ModelError(f"expected a version as 0.5.9, got {version!r}", path="$.sglang_version")
    return tuple(int(part) for part in found.groups())


_IO: Final = "sglang.srt.managers.io_struct."
ITEM: Final = _SCHEDULE + "MultimodalDataItem"
_IMAGES: Final = _SCHEDULE + "ImageInputs"
INPUTS: Final = frozenset(
    {_SCHEDULE + "MultimodalInputs", _SCHEDULE + "MultimodalProcessorOutput", _IMAGES}
)
REQUESTS: Final = frozenset({_IO + "TokenizedGenerateReqInput", _IO + "TokenizedEmbeddingReqInput"})
BATCHES: Final = frozenset({name.replace(_IO, _IO + "Batch") for name in REQUESTS})

_OWN: Final = ("modality", "feature", "precomputed_embeddings", "offsets", "format", "hash",
               "pad_value", "identity", "model_specific_data")  # fmt: skip
# Names of 0.4.x; the first that is there and not None becomes the field.
_OLDER: Final = {
    "feature": ("pixel_values", "audio_features", "input_features"),
    "offsets": ("image_offsets", "audio_offsets"),
    "precomputed_embeddings": ("precomputed_features",),
}
# Defaults of 0.5.23's class that say nothing.
_SILENT: Final[dict[str, Any]] = {"keep_device_embedding": False, "pad_values": None}
_REQUEST_FIELDS: Final = ("rid", "input_text", "input_ids", "token_type_ids")
_IMAGE_FIELDS: Final = (
    "pixel_values", "image_hashes", "image_sizes", "image_offsets", "pad_values", "modalities",
    "aspect_ratio_ids", "aspect_ratio_mask", "image_grid_thws", "tgt_sizes", "images_emb_mask",
    "image_emb_mask", "second_per_grid_ts", "image_spatial_crop",
)  # fmt: skip


def is_request_dict(value: Any) -> bool:
    """Say whether a dict has SGLang's dict form."""
    if not isinstance(value, dict):
        return False
    # 0.4.0 to 0.4.4 sent ImageInputs' fields; no processor's output has a list of image hashes.
    return isinstance(value.get("mm_items"), list | tuple) or (
        "pixel_values" in value and "image_hashes" in value
    )


class SGLang:
    """Map SGLang's inert classes to the model."""

    __slots__ = ("members", "values")

    def __init__(self, values: Values, members: Members) -> None:
        self.values = values
        self.members = members

    def request(self, value: Instance, path: str) -> MultimodalInputs:
        """Map a tokenized request: its media and what belongs to them; the rest is dropped."""
        fields = value.state
        name = next((n for n in ("mm_inputs", "image_inputs") if fields.get(n) is not None), None)
        if name is None:
            inputs = MultimodalInputs()
        else:
            inputs = self.inputs(fields[name], f"{path}.{name}")
        kept = {}
        for key, part in fields.items():
            if key in _REQUEST_FIELDS:
                kept[key] = self.values.of(part, f"{path}.{key}")
            elif key not in ("mm_inputs", "image_inputs"):
                self.values.report.add(f"{path}.{key}", "dropped", _brief(part))
        inputs.request_data["request"] = kept
        return inputs

    def inputs(self, value: Any, path: str) -> MultimodalInputs:
        """Map MultimodalInputs, MultimodalProcessorOutput, ImageInputs, or their dict form."""
        if isinstance(value, Marked) and isinstance(value.value, dict):
            value = value.value
        if isinstance(value, Instance):
            if value.cls == _IMAGES:
                return self._images(value.state, path, "{}.{}")
            if value.cls in INPUTS:
                return self._inputs(value.state, path, "{}.{}")
        if isinstance(value, dict):
            if "mm_items" in value:
                return self._inputs(value, path, "{}[{!r}]")
            if "pixel_values" in value:
                return self._images(value, path, "{}[{!r}]")
        raise DecodeError(f"expected SGLang's multimodal inputs, got {_brief(value)}", path=path)

    def _inputs(self, fields: dict[str, Any], path: str, join: str) -> MultimodalInputs:
        where = join.format(path, "mm_items")
        items = fields.get("mm_items")
        if not isinstance(items, list | tuple):
            raise DecodeError(f"expected a list of items, got {_brief(items)}", path=where)
        made = [self.item(item, f"{where}[{i}]") for i, item in enumerate(items)]
        data = {
            key: self.values.of(part, join.format(path, key))
            for key, part in fields.items()
            if key != "mm_items"
        }
        return MultimodalInputs(items=made, request_data=data)

    def item(self, value: Any, path: str) -> MultimodalDataItem:
        """Map one MultimodalDataItem."""
        if not isinstance(value, Instance) or value.cls != ITEM:
            raise DecodeError(f"expected a MultimodalDataItem, got {_brief(value)}", path=path)
        fields = dict(value.state)
        for name, older in _OLDER.items():
            if name in fields:
                continue
            found = next((old for old in older if fields.get(old) is not None), None)
            if found is not None:
                fields[name] = fields.pop(found)
                self.values.report.add(f"{path}.{found}", "changed", f"field {found} -> {name}")
        return self._item(fields, path)

    def _item(self, fields: dict[str, Any], path: str) -> MultimodalDataItem:
        of = self.values.of
        specific = of(fields.get("model_specific_data") or {}, f"{path}.model_specific_data")
        if not isinstance(specific, dict):
            raise DecodeError("expected a dict", path=f"{path}.model_specific_data")
        extra: dict[str, Any] = {}
        for key, part in fields.items():
            if key not in _OWN and part is not None and part is not _SILENT.get(key):
                extra[key] = of(part, f"{path}.{key}")
        for key in ("feature", "precomputed_embeddings"):
            attributes = _attributes(fields.get(key))
            if attributes:
                extra[f"{key}.attributes"] = of(attributes, f"{path}.{key}")
        if extra:
            # A name that the model's own data has stays the model's.
            specific = {**{_free(key, specific): part for key, part in extra.items()}, **specific}
        offsets = of(fields.get("offsets"), f"{path}.offsets")
        if not _are_ranges(offsets):
            specific = {**specific, "sglang.offsets": offsets}
            offsets = None
        identity = of(fields.get("identity"), f"{path}.identity")
        if isinstance(identity, bytes):
            identity = identity.hex()
            self.values.report.add(f"{path}.identity", "changed", "bytes -> hexadecimal text")
        return MultimodalDataItem(
            modality=self.members.modality(fields.get("modality"), f"{path}.modality"),
            feature=of(fields.get("feature"), f"{path}.feature"),
            precomputed_embeddings=of(
                fields.get("precomputed_embeddings"), f"{path}.precomputed_embeddings"
            ),
            offsets=offsets,
            format=self.members.format(fields.get("format"), f"{path}.format"),
            model_specific_data=specific,
            hash=_integer(of(fields.get("hash"), f"{path}.hash"), f"{path}.hash"),
            pad_value=_integer(of(fields.get("pad_value"), f"{path}.pad_value"), path),
            identity=identity,
        )

    def _images(self, fields: dict[str, Any], path: str, join: str) -> MultimodalInputs:
        """Map 0.4.0 to 0.4.4, where all images of a request are one set of fields."""
        of = self.values.of
        own = {
            key: of(fields[key], join.format(path, key))
            for key in _IMAGE_FIELDS
            if fields.get(key) is not None
        }
        modalities = own.get("modalities") or ["image"]
        feature = own.pop("pixel_values", None)
        offsets = own.get("image_offsets")
        pairs = offsets is not None and _are_ranges(offsets)
        if pairs:
            del own["image_offsets"]
        hashes = own.get("image_hashes")
        one = hashes[0] if isinstance(hashes, list) and len(hashes) == 1 else hashes
        item = MultimodalDataItem(
            modality=self.members.text(modalities[0], join.format(path, "modalities")),
            feature=feature,
            offsets=offsets if pairs else None,
            format=InputFormat.NORMAL,
            model_specific_data=own,
            hash=one if type(one) is int else None,
        )
        self.values.report.add(path, "changed", "ImageInputs -> one item of all its images")
        rest = {
            key: of(part, join.format(path, key))
            for key, part in fields.items()
            if key not in _IMAGE_FIELDS
        }
        return MultimodalInputs(items=[item], request_data=rest)


def _attributes(value: Any) -> dict[str, Any] | None:
    # Taken, so that the tensor does not report them as dropped.
    if isinstance(value, ArrayNode):
        value = value.tensor
    if not isinstance(value, Tensor):
        return None
    found, value.attributes = value.attributes, None
    return found


def _are_ranges(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(
            type(pair) is tuple and len(pair) == 2 and all(type(end) is int for end in pair)
            for pair in value
        )
    )


def _free(key: str, taken: dict[str, Any]) -> str:
    return key if key not in taken else f"mm_item.{key}"


def _integer(value: Any, path: str) -> int | None:
    if value is None or type(value) is int:
        return value
    raise DecodeError(f"expected an int or None, got {type(value).__name__}", path=path)


def _brief(value: Any) -> str:
    if isinstance(value, Instance):
        return value.cls
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return type(value).__name__
