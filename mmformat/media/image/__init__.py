"""Image processors that give transformers' bits as codes and a table, family by family."""

from mmformat.media.image.fixed_size import FixedSizeImageProcessor
from mmformat.media.image.llava import LlavaImageProcessor
from mmformat.media.image.llava_next import LlavaNextImageProcessor
from mmformat.media.image.normalization import Normalization
from mmformat.media.image.processed import (
    Encoding,
    FloatDtype,
    ImageLike,
    ImageProcessor,
    ProcessedImage,
)
from mmformat.media.image.qwen_vl import QwenVLImageProcessor
from mmformat.media.image.tiles import TilesImageProcessor

__all__ = [
    "Encoding",
    "FixedSizeImageProcessor",
    "FloatDtype",
    "ImageLike",
    "ImageProcessor",
    "LlavaImageProcessor",
    "LlavaNextImageProcessor",
    "Normalization",
    "ProcessedImage",
    "QwenVLImageProcessor",
    "TilesImageProcessor",
]
