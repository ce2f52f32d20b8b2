"""Hugging Face processors: their output as MultimodalInputs and back, and faster ones in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mmformat.errors import MMFormatError, ModelError
from mmformat.media.detect import PixelLayout, find_dictionary
from mmformat.model import (
    DictionaryTensor,
    InputFormat,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
)
from mmformat.model.tensors import is_tensor, is_torch

if TYPE_CHECKING:
    from mmformat.media.image import Encoding, FloatDtype

__all__ = ["FEATURES", "drop_in", "install", "to_mmformat", "to_transformers", "uninstall"]

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


# ---------------------------------------------------------------- in place of their processors

_METHOD: Final = "_preprocess_image_like_inputs"
_ORIGINAL: Final = "_mmformat_original"
_IGNORED: Final = frozenset({"return_tensors", "disable_grouping", "default_to_square", "pad_size"})


def drop_in(
    processor: Any,
    *,
    encoding: Encoding = "plain",
    dtype: FloatDtype = "float32",
) -> Any:
    """Return a transformers image processor that computes with this library.

    Parameters
    ----------
    processor : transformers image processor, or a processor that has one
        Of a class in :data:`mmformat.media.processors.KNOWN_PROCESSORS`, with either backend. A
        processor with an ``image_processor`` gets the new one in its place, and is returned.
    encoding : {"plain", "dictionary"}
        Whether ``pixel_values`` are a tensor, or a :class:`mmformat.DictionaryTensor`.
    dtype : {"float32", "bfloat16", "float16"}
        The element type of the pixels.

    Returns
    -------
    transformers image processor
        An instance of a subclass of the processor's class, with the same configuration, arguments
        and results, bit for bit; it saves itself under the name of the original class. Images that
        are no ``PIL.Image``, other devices and unknown options are left to the original code.

    Raises
    ------
    ModelError
        When the class is not known here.

    Examples
    --------
    >>> from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    >>> from PIL import Image
    >>> processor = drop_in(CLIPImageProcessorPil())
    >>> processor(Image.new("RGB", (300, 200)), return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 3, 224, 224])
    """
    inner = getattr(processor, "image_processor", None)
    if inner is not None:
        processor.image_processor = drop_in(inner, encoding=encoding, dtype=dtype)
        return processor
    original = type(processor)
    _check_known(original)
    faster = _faster(getattr(original, _METHOD), {"encoding": encoding, "dtype": dtype})
    # The name and module of the original, under which it is saved.
    kind = type(
        original.__name__, (original,), {_METHOD: faster, "__module__": original.__module__}
    )
    made: Any = object.__new__(kind)
    made.__dict__.update(processor.__dict__)
    return made


def install(*classes: type, dtype: FloatDtype = "float32") -> None:
    """Let every instance of transformers' image processor classes compute with this library.

    Parameters
    ----------
    *classes : type
        Classes in :data:`mmformat.media.processors.KNOWN_PROCESSORS`, of either backend; whatever
        ``AutoImageProcessor`` returns of them is faster from then on, with the same results.
    dtype : {"float32", "bfloat16", "float16"}
        The element type of the pixels.

    Raises
    ------
    ModelError
        When a class is not known here; then no class is changed.

    Examples
    --------
    >>> from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    >>> install(CLIPImageProcessorPil)
    >>> uninstall(CLIPImageProcessorPil)
    """
    for each in classes:
        _check_known(each)
    for each in classes:
        uninstall(each)
        original = getattr(each, _METHOD)
        setattr(each, _METHOD, _faster(original, {"encoding": "plain", "dtype": dtype}))


def uninstall(*classes: type) -> None:
    """Undo :func:`install`; a class that was not changed is left alone."""
    for each in classes:
        if hasattr(each.__dict__.get(_METHOD), _ORIGINAL):
            delattr(each, _METHOD)


def _check_known(kind: type) -> None:
    from mmformat.media.processors import KNOWN_PROCESSORS

    name = kind.__name__.removesuffix("Pil")
    if name not in KNOWN_PROCESSORS or not hasattr(kind, _METHOD):
        raise ModelError(
            f"expected an image processor of {', '.join(sorted(KNOWN_PROCESSORS))}, got "
            f"{kind.__name__}",
            path="$.processor",
        )


def _faster(original: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    def preprocess(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        images = self._prepare_images_structure(images)
        ours = None if args else _processor_of(self, kwargs, options)
        if ours is None or not all(isinstance(image, _pillow()) for image in images):
            return original(self, images, *args, **kwargs)
        try:
            made = [ours(image) for image in images]
        except MMFormatError:
            return original(self, images, *args, **kwargs)  # raises as it always did
        if kwargs.get("do_pad") and len({each.feature.shape[2:] for each in made}) > 1:
            return original(self, images, *args, **kwargs)  # images padded to one size
        return _batch(self, made, kwargs)

    setattr(preprocess, _ORIGINAL, original)
    return preprocess


def _pillow() -> type:
    from PIL import Image

    return Image.Image


def _processor_of(theirs: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    from mmformat.media.processors import KNOWN_PROCESSORS, processor_from_config

    if kwargs.get("device") not in (None, "cpu") or kwargs.get("input_data_format") is not None:
        return None
    if str(kwargs.get("data_format") or "channels_first").rpartition(".")[2].lower() not in (
        "channels_first",
        "first",
    ):
        return None
    name = type(theirs).__name__.removesuffix("Pil")
    pads = name in ("LlavaImageProcessor", "LlavaNextImageProcessor", "PixtralImageProcessor")
    if name not in KNOWN_PROCESSORS or (kwargs.get("do_pad") and not pads):
        return None
    values: dict[str, Any] = {"image_processor_type": name}
    for key, value in kwargs.items():
        if key in _IGNORED or value is None:
            continue
        values[key] = dict(value) if hasattr(value, "shortest_edge") else value
    for key in ("size", "crop_size"):
        if key in values:
            values[key] = {edge: n for edge, n in dict(values[key]).items() if n is not None}
    try:
        return processor_from_config(values, backend=theirs.backend, **options)
    except MMFormatError:
        return None


def _batch(theirs: Any, made: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    from transformers.image_processing_base import BatchFeature

    features = [each.feature for each in made]
    names = dict.fromkeys(name for each in made for name in each.model_specific_data)
    tensor_type = kwargs.get("return_tensors")
    data: dict[str, Any] = {
        name: np.concatenate([each.model_specific_data[name] for each in made]) for name in names
    }
    is_tiled = len(features[0].shape) == 5
    if is_tiled and kwargs.get("do_pad") and len({each.shape[1] for each in features}) > 1:
        features = _padded(features)
    if isinstance(features[0], DictionaryTensor):
        pixels: Any = _joined_dictionaries(features)
        batch = BatchFeature(data=_listed(theirs, data, tensor_type), tensor_type=tensor_type)
        batch["pixel_values"] = pixels
        return batch
    if tensor_type is None and "image_grid_thw" not in data:
        tiles = "num_patches" in data or "num_crops" in data
        pixels = [_like(theirs, one) for each in features for one in (each if tiles else each[:1])]
    elif len({each.shape[1:] for each in features}) > 1:
        pixels = [_like(theirs, each[0]) for each in features]  # transformers says what is wrong
    else:
        pixels = _joined([_like(theirs, each) for each in features], "pixel_values")
    listed = _listed(theirs, data, tensor_type)
    return BatchFeature(data={"pixel_values": pixels, **listed}, tensor_type=tensor_type)


def _like(theirs: Any, value: Any) -> Any:
    if theirs.backend == "pil" or is_torch(value):
        return value
    import torch

    return torch.from_numpy(value)


def _listed(theirs: Any, data: Mapping[str, Any], tensor_type: Any) -> dict[str, Any]:
    if tensor_type is not None:
        return dict(data)
    return {
        name: _like(theirs, value) if name == "image_grid_thw" else value.tolist()
        for name, value in data.items()
    }


def _padded(features: Sequence[Any]) -> list[Any]:
    most = max(each.shape[1] for each in features)
    found = []
    for each in features:
        plain: Any = each.expand() if isinstance(each, DictionaryTensor) else each
        shape = (1, most - plain.shape[1], *plain.shape[2:])
        if is_torch(plain):
            import torch

            missing: Any = torch.zeros(shape, dtype=plain.dtype)
        else:
            missing = np.zeros(shape, plain.dtype)
        found.append(_joined_along(plain, missing))
    return found


def _joined_along(left: Any, right: Any) -> Any:
    if is_torch(left):
        import torch

        return torch.cat([left, right], dim=1)
    return np.concatenate([left, right], axis=1)


def _joined_dictionaries(features: Sequence[DictionaryTensor]) -> Any:
    first = features[0]
    if len(features) == 1:
        return first
    if len({each.codes.shape[1:] for each in features}) > 1:
        return list(features)
    rows = sum(each.shape[0] for each in features)
    return DictionaryTensor(
        np.concatenate([each.codes for each in features]),
        first.table,
        axis=first.axis,
        repeat_axis=first.repeat_axis,
        repeat=first.repeat,
        shape=(rows, *first.shape[1:]),
    )
