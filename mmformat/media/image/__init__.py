"""Image processors that give transformers' bits as codes and a table, family by family."""

from mmformat.media.image.fixed_size import FixedSizeImageProcessor
from mmformat.media.image.normalization import Normalization
from mmformat.media.image.processed import (
    Encoding,
    FloatDtype,
    ImageLike,
    ImageProcessor,
    ProcessedImage,
)
from mmformat.media.image.qwen_vl import QwenVLImageProcessor

__all__ = [
    "Encoding",
    "FixedSizeImageProcessor",
    "FloatDtype",
    "ImageLike",
    "ImageProcessor",
    "Normalization",
    "ProcessedImage",
    "QwenVLImageProcessor",
]
