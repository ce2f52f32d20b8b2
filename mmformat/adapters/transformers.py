"""Any Hugging Face processor's output as MultimodalInputs, an item a medium, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np

from mmformat.errors import ModelError
from mmformat.media.detect import PixelLayout, find_dictionary
from mmformat.model import (
    DictionaryTensor,
    InputFormat,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
)
from mmformat.model.tensors import is_tensor, is_torch

__all__ = ["FEATURES", "to_mmformat", "to_transformers"]

FEATURES: Final[Mapping[str, Modality]] = {
    "pixel_values": Modality.IMAGE,
    "pixel_values_images": Modality.IMAGE,
    "pixel_values_videos": Modality.VIDEO,
    "input_features": Modality.AUDIO,
    "input_values": Modality.AUDIO,
    "audio_values": Modality.AUDIO,
}
"""The names under which transformers' processors return what an encoder reads."""

# What says how many rows of a feature each medium has.
_ROWS_BY_GRID: Final = {Modality.IMAGE: "image_grid_thw", Modality.VIDEO: "video_grid_thw"}
_ROWS_BY_COUNT: Final = {Modality.IMAGE: "num_patches"}

# What else belongs to the media of a modality, one row each.
_COMPANIONS: Final[Mapping[Modality, tuple[str, ...]]] = {
    Modality.IMAGE: (
        "image_grid_thw",
        "image_sizes",
        "num_patches",
        "pixel_attention_mask",
        "spatial_shapes",
        "aspect_ratio_ids",
        "aspect_ratio_mask",
        "num_tiles",
        "num_crops",
        "batch_num_images",
        "image_position_ids",
    ),
    Modality.VIDEO: ("video_grid_thw", "second_per_grid_ts", "video_sizes"),
    Modality.AUDIO: (
        "feature_attention_mask",
        "input_features_mask",
        "padding_mask",
        "audio_sizes",
    ),
}


def to_mmformat(
    batch_feature: Mapping[str, Any],
    *,
    modality: Modality | None = None,
    dictionary: Literal["auto", "never"] = "auto",
    image_processor: Any = None,
) -> MultimodalInputs:
    """Convert a processor's output to inputs: one item a medium, the rest as request data.

    Parameters
    ----------
    batch_feature : BatchFeature, or any mapping of names to tensors
        What a processor, an image processor or a feature extractor returned, with or without
        ``return_tensors``.
    modality : Modality, optional
        What the features are, if not what their names say; ``MULTI_IMAGES`` keeps all images of the
        batch in one item.
    dictionary : {"auto", "never"}
        ``"auto"`` stores pixels as codes and a table when that is exact.
    image_processor : object, optional
        transformers' image processor; its mean, std and patch sizes make the codes the bytes that
        the pixels were. Without it codes are in the order of the values.

    Returns
    -------
    MultimodalInputs
        Batches are split as ``image_grid_thw``, ``video_grid_thw`` or ``num_patches`` say, or
        along the first axis. Token ids and all else are request data. ``materialize`` then gives
        the items their hashes.

    Raises
    ------
    ModelError
        When a count contradicts a feature's rows, or ``dictionary`` is something else.

    Notes
    -----
    **Copies**: none of tensors that stay plain, they are views of the batch; of those that become
    dictionary tensors, the codes. **Cost**: see :func:`mmformat.media.detect.find_dictionary`.

    Examples
    --------
    >>> batch = {"pixel_values": np.zeros((2, 3, 8, 8), np.float32), "input_ids": [[1, 2, 3]]}
    >>> inputs = to_mmformat(batch)
    >>> [item.feature.shape for item in inputs.items], inputs.request_data
    ([(1, 3, 8, 8), (1, 3, 8, 8)], {'input_ids': [[1, 2, 3]]})
    """
    if dictionary not in ("auto", "never"):
        raise ModelError(f"expected 'auto' or 'never', got {dictionary!r}", path="$.dictionary")
    rest = dict(batch_feature)
    items: list[MultimodalDataItem] = []
    for name, named in FEATURES.items():
        if rest.get(name) is None:
            rest.pop(name, None)
            continue
        kind = modality or named
        base = Modality.IMAGE if kind is Modality.MULTI_IMAGES else kind
        companions = {
            each: rest.pop(each) for each in _COMPANIONS.get(base, ()) if rest.get(each) is not None
        }
        feature = rest.pop(name)
        if kind is Modality.MULTI_IMAGES:
            parts, data = [feature], [companions]
        else:
            parts = _split(feature, companions, kind, name)
            data, whole = _split_companions(companions, len(parts))
            rest.update(whole)
        hints = _hints(image_processor) if base is Modality.IMAGE else {}
        for part, specific in zip(parts, data, strict=True):
            value = _encoded(part, hints, image_processor) if dictionary == "auto" else part
            items.append(
                MultimodalDataItem(
                    modality=kind,
                    feature=value,
                    format=InputFormat.PROCESSOR_OUTPUT,
                    model_specific_data=specific,
                )
            )
    return MultimodalInputs(items=items, request_data=rest)


def to_transformers(inputs: MultimodalInputs) -> dict[str, Any]:
    """Return the batch that a transformers model takes: the items' tensors, joined.

    Parameters
    ----------
    inputs : MultimodalInputs
        As :func:`to_mmformat` made them, on this or the other side of a message.

    Returns
    -------
    dict
        ``pixel_values``, ``pixel_values_videos``, ``input_features``, what belongs to them, and the
        request data. Dictionary tensors are expanded.

    Raises
    ------
    ModelError
        When the items of one modality do not fit together.

    Notes
    -----
    **Copies**: the expanded tensors; more than one item of a modality are joined, which copies.

    Examples
    --------
    >>> batch = {"pixel_values": np.zeros((2, 3, 8, 8), np.float32)}
    >>> to_transformers(to_mmformat(batch))["pixel_values"].shape
    (2, 3, 8, 8)
    """
    out: dict[str, Any] = dict(inputs.request_data)
    names = {Modality.IMAGE: "pixel_values", Modality.MULTI_IMAGES: "pixel_values"}
    names |= {Modality.VIDEO: "pixel_values_videos", Modality.AUDIO: "input_features"}
    for modality, name in names.items():
        items = [item for item in inputs.items if item.modality is modality]
        if not items:
            continue
        out[name] = _joined([item.feature for item in items], name)
        keys = dict.fromkeys(key for item in items for key in item.model_specific_data)
        for key in keys:
            values = [item.model_specific_data.get(key) for item in items]
            out[key] = _joined(values, key)
    return out


def _split(feature: Any, companions: Mapping[str, Any], modality: Modality, name: str) -> list[Any]:
    rows = _rows(companions, modality)
    if isinstance(feature, (list, tuple)):
        if not feature or not all(is_tensor(part) for part in feature):
            return [np.asarray(part)[None] for part in feature]
        # A list holds one tensor a medium, without the axis of the batch; tiles are a tensor each.
        tensors = [part[None] for part in feature]
        if rows is None:
            return tensors
        feature = _joined(tensors, name)
    if not is_tensor(feature):
        raise ModelError(f"expected a tensor, got {type(feature).__name__}", path=f"$.{name}")
    if rows is None:
        return [feature[index : index + 1] for index in range(feature.shape[0])]
    if sum(rows) != feature.shape[0]:
        raise ModelError(
            f"expected {sum(rows)} rows for {rows}, got {feature.shape[0]}", path=f"$.{name}"
        )
    starts = np.cumsum([0, *rows]).tolist()
    return [feature[start : start + count] for start, count in zip(starts, rows, strict=False)]


def _rows(companions: Mapping[str, Any], modality: Modality) -> list[int] | None:
    grid = companions.get(_ROWS_BY_GRID.get(modality, ""))
    if grid is not None:
        return [int(count) for count in np.asarray(grid).prod(axis=-1).tolist()]
    counts = companions.get(_ROWS_BY_COUNT.get(modality, ""))
    if counts is not None:
        return [int(count) for count in np.asarray(counts).reshape(-1).tolist()]
    return None


def _split_companions(
    companions: Mapping[str, Any], count: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    each: list[dict[str, Any]] = [{} for _ in range(count)]
    whole: dict[str, Any] = {}
    for name, value in companions.items():
        if not hasattr(value, "__len__") or len(value) != count:
            whole[name] = value
            continue
        for index in range(count):
            each[index][name] = value[index : index + 1]
    return each, whole


def _hints(image_processor: Any) -> dict[str, Any]:
    mean = getattr(image_processor, "image_mean", None)
    std = getattr(image_processor, "image_std", None)
    if mean is None or std is None or not getattr(image_processor, "do_rescale", True):
        return {}
    listed = isinstance(mean, Sequence)
    return {
        "mean": tuple(mean) if listed else mean,
        "std": tuple(std) if listed else std,
        "rescale_factor": getattr(image_processor, "rescale_factor", 1 / 255),
    }


def _encoded(part: Any, hints: Mapping[str, Any], image_processor: Any) -> Any:
    if not is_tensor(part) or (is_torch(part) and part.device.type != "cpu"):
        return part
    found: DictionaryTensor | None = None
    layout = _layout(part, image_processor)
    if layout is not None:
        found = find_dictionary(part, layout=layout, **hints)
    if found is None:
        found = find_dictionary(part, **hints)
    return part if found is None else found


def _layout(part: Any, image_processor: Any) -> PixelLayout | None:
    # Patches of an edge that is not among the usual ones.
    edge = getattr(image_processor, "patch_size", None)
    times = getattr(image_processor, "temporal_patch_size", None)
    if not isinstance(edge, int) or not isinstance(times, int) or part.ndim != 2:
        return None
    if part.shape[1] != 3 * times * edge * edge:
        return None
    view = (int(part.shape[0]), 3, times, edge * edge)
    return PixelLayout(view=view, axis=1, repeat_axis=2)


def _joined(values: Sequence[Any], name: str) -> Any:
    plain: list[Any] = [
        value.expand() if isinstance(value, DictionaryTensor) else value for value in values
    ]
    if len(plain) == 1:
        return plain[0]
    try:
        if all(is_torch(value) for value in plain):
            import torch

            return torch.cat(plain)
        if all(isinstance(value, np.ndarray) for value in plain):
            return np.concatenate(plain)
        if all(isinstance(value, list) for value in plain):
            return [each for value in plain for each in value]
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the tensors cannot be joined: {error}", path=name) from error
    kinds = sorted({type(value).__name__ for value in plain})
    raise ModelError(
        f"values of different kinds cannot be joined: {', '.join(kinds)}", path=f"$.{name}"
    )
