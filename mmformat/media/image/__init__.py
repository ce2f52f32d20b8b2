"""Image processors that give transformers' bits as codes and a table, family by family."""

from mmformat._extras import require

require("PIL.Image", extra="media")  # the error names the extra when Pillow is missing

from mmformat.media.image.fixed_size import (  # noqa: E402
    FixedSizeImageProcessor,
    LlavaImageProcessor,
)
from mmformat.media.image.normalization import Normalization  # noqa: E402
from mmformat.media.image.pixels import (  # noqa: E402
    Backend,
    Encoding,
    FloatDtype,
    ImageLike,
    SixteenBit,
)
from mmformat.media.image.processor import (  # noqa: E402
    CodesLayout,
    ImagePlan,
    ImageProcessor,
    PixelProcessor,
    ProcessedImage,
)
from mmformat.media.image.qwen_vl import QwenVLImageProcessor  # noqa: E402
from mmformat.media.image.tiles import (  # noqa: E402
    LlavaNextImageProcessor,
    TilesImageProcessor,
)

__all__ = [
    "Backend",
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
    "SixteenBit",
    "TilesImageProcessor",
]
