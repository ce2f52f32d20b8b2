"""Image processors that give transformers' bits as codes and a table, family by family."""

from mmformat._extras import require

require("PIL.Image", extra="media")  # an error that names the extra, instead of Pillow's absence

from mmformat.media.image.fixed_size import FixedSizeImageProcessor  # noqa: E402
from mmformat.media.image.llava import LlavaImageProcessor  # noqa: E402
from mmformat.media.image.llava_next import LlavaNextImageProcessor  # noqa: E402
from mmformat.media.image.normalization import Normalization  # noqa: E402
from mmformat.media.image.pixel_processor import PixelProcessor  # noqa: E402
from mmformat.media.image.plan import CodesLayout, ImagePlan  # noqa: E402
from mmformat.media.image.processed import (  # noqa: E402
    Encoding,
    FloatDtype,
    ImageLike,
    ImageProcessor,
    ProcessedImage,
)
from mmformat.media.image.qwen_vl import QwenVLImageProcessor  # noqa: E402
from mmformat.media.image.tiles import TilesImageProcessor  # noqa: E402

__all__ = [
    "CodesLayout",
    "Encoding",
    "FixedSizeImageProcessor",
    "FloatDtype",
    "ImageLike",
    "ImagePlan",
    "ImageProcessor",
    "LlavaImageProcessor",
    "LlavaNextImageProcessor",
    "Normalization",
    "PixelProcessor",
    "ProcessedImage",
    "QwenVLImageProcessor",
    "TilesImageProcessor",
]
