"""Choose the image processor that a preprocessor_config.json names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mmformat.errors import MaterializeError
from mmformat.media.image import (
    Backend,
    Encoding,
    FixedSizeImageProcessor,
    FloatDtype,
    Gemma3ImageProcessor,
    GlmVImageProcessor,
    ImageProcessor,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    LlavaOnevisionImageProcessor,
    PixtralImageProcessor,
    QwenVLImageProcessor,
    SixteenBit,
    TilesImageProcessor,
)
from mmformat.media.image.normalization import BACKEND_KEY, DTYPE_KEY, ENCODING_KEY, SIXTEEN_BIT_KEY
from mmformat.media.sources import reason_of

__all__ = ["KNOWN_PROCESSORS", "processor_from_config"]

_QWEN = QwenVLImageProcessor.from_values

KNOWN_PROCESSORS: Final[Mapping[str, Callable[[Mapping[str, Any]], ImageProcessor]]] = {
    "Qwen2VLImageProcessor": _QWEN,
    "Qwen2_5_VLImageProcessor": _QWEN,
    "Qwen3VLImageProcessor": _QWEN,
    "Glm4vImageProcessor": GlmVImageProcessor.from_values,
    "Glm46VImageProcessor": GlmVImageProcessor.from_values,
    "CLIPImageProcessor": FixedSizeImageProcessor.clip,
    "SiglipImageProcessor": FixedSizeImageProcessor.siglip,
    "LlavaImageProcessor": LlavaImageProcessor.from_values,
    "LlavaNextImageProcessor": LlavaNextImageProcessor.from_values,
    "LlavaOnevisionImageProcessor": LlavaOnevisionImageProcessor.from_values,
    "PixtralImageProcessor": PixtralImageProcessor.from_values,
    "Gemma3ImageProcessor": Gemma3ImageProcessor.from_values,
    "GotOcr2ImageProcessor": TilesImageProcessor.from_values,
    "InternVLImageProcessor": TilesImageProcessor.from_values,
}
"""What makes a processor, by ``image_processor_type`` without its suffix Fast or Pil."""


def processor_from_config(
    config: Mapping[str, Any] | str | os.PathLike[str],
    *,
    encoding: Encoding = "dictionary",
    dtype: FloatDtype = "float32",
    backend: Backend = "auto",
    sixteen_bit: SixteenBit = "clip",
    **overrides: Any,
) -> ImageProcessor:
    """Return the image processor of a Hugging Face configuration.

    Parameters
    ----------
    config : mapping, or path
        The values, or a ``preprocessor_config.json`` or ``processor_config.json``, or the folder
        that holds one.
    encoding : {"dictionary", "plain"}
        What the processor returns when a call does not say.
    dtype : {"float32", "bfloat16", "float16"}
        The element type when a call does not say.
    backend : {"auto", "torchvision", "pil"}
        Whose pixels: those of transformers' torchvision or PIL backend. ``"auto"`` is what
        transformers chooses for the named class in this installation.
    sixteen_bit : {"clip", "scale"}
        How 16-bit grey images become 8-bit: everything above 255 white, as in transformers, or
        scaled.
    **overrides
        Values that replace those of the configuration, as ``max_pixels=1280 * 28 * 28``.

    Returns
    -------
    ImageProcessor
        Bit for bit equal to transformers 5.23.0's processor of that name and backend.

    Raises
    ------
    MaterializeError
        When the file cannot be read, names no processor that is known here, or holds a value
        without a meaning.

    Examples
    --------
    >>> processor = processor_from_config({"image_processor_type": "Qwen2VLImageProcessorFast"})
    >>> processor.patch_size
    14
    """
    values = dict(config) if isinstance(config, Mapping) else _read(Path(config))
    nested = values.get("image_processor")
    if isinstance(nested, Mapping):
        values = dict(nested)
    values.update(overrides)
    named = values.get("image_processor_type") or values.get("feature_extractor_type")
    if backend == "auto" and str(named).endswith("Pil"):
        backend = "pil"
    values.update(
        {
            ENCODING_KEY: encoding,
            DTYPE_KEY: dtype,
            BACKEND_KEY: backend,
            SIXTEEN_BIT_KEY: sixteen_bit,
        }
    )
    make = KNOWN_PROCESSORS.get(_base_name(str(named)))
    if make is None:
        raise MaterializeError(
            f"expected one of {', '.join(sorted(KNOWN_PROCESSORS))}, got {named!r}",
            path="$.image_processor_type",
            hint="use transformers' own processor with mmformat.adapters.transformers",
            code="unknown-processor",
        )
    return make(values)


def _base_name(name: str) -> str:
    # Old configurations name CLIP's processor a feature extractor.
    name = name.removesuffix("Fast").removesuffix("Pil")
    return name.replace("FeatureExtractor", "ImageProcessor")


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        names = ("preprocessor_config.json", "processor_config.json")
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise MaterializeError(f"expected one of {names} in {path}, got none")
        path = found[0]
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaterializeError(
            f"expected a JSON file, got: {reason_of(error)}", path=str(path)
        ) from error
    if not isinstance(values, dict):
        raise MaterializeError(f"expected an object, got {type(values).__name__}", path=str(path))
    return values
