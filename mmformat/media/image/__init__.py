"""Image processors that give transformers' bits as codes and a table, family by family."""

from mmformat._extras import require

require("PIL.Image", extra="media")  # the error names the extra when Pillow is missing

from mmformat.media.image.fixed_size import (  # noqa: E402
    FixedSizeImageProcessor,
    LlavaImageProcessor,
    PixtralImageProcessor,
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
from mmformat.media.image.qwen_vl import (  # noqa: E402
    GlmVImageProcessor,
    QwenVLImageProcessor,
)
from mmformat.media.image.tiles import (  # noqa: E402
    Gemma3ImageProcessor,
    LlavaNextImageProcessor,
    LlavaOnevisionImageProcessor,
    TilesImageProcessor,
)

__all__ = [
    "Backend",
    "CodesLayout",
    "Encoding",
    "FixedSizeImageProcessor",
    "FloatDtype",
    "Gemma3ImageProcessor",
    "GlmVImageProcessor",
    "ImageLike",
    "ImagePlan",
    "ImageProcessor",
    "LlavaImageProcessor",
    "LlavaNextImageProcessor",
    "LlavaOnevisionImageProcessor",
    "Normalization",
    "PixelProcessor",
    "PixtralImageProcessor",
    "ProcessedImage",
    "QwenVLImageProcessor",
    "SixteenBit",
    "TilesImageProcessor",
]
