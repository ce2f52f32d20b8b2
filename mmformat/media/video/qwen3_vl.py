"""The video side of Qwen3-VL: other frames, and one budget of pixels for all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from mmformat.errors import MaterializeError
from mmformat.media.image import Normalization
from mmformat.media.image.settings import STANDARD_MEAN, STANDARD_STD
from mmformat.media.video.clip import Video
from mmformat.media.video.qwen_vl import FusedNormalization, QwenVLVideoProcessor

__all__ = ["Qwen3VLVideoProcessor"]

MAX_ASPECT_RATIO: Final = 200
UNKNOWN_FPS: Final = 24.0
"""What transformers takes for the frames a second of a video that does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3VLVideoProcessor(QwenVLVideoProcessor):
    """Cut a video into the patches of Qwen3-VL.

    Parameters
    ----------
    min_pixels, max_pixels : int
        Bounds on the pixels of all frames together, in whole temporal patches.
    max_video_tokens : int
        With ``cap_pixels_per_frame``, the tokens that one frame may take.
    num_frames, fps, min_frames, max_frames, patch_size, temporal_patch_size, merge_size
        As for :class:`QwenVLVideoProcessor`, with Qwen3-VL's values. Frames are evenly spaced from
        the first to the last.
    cap_pixels_per_frame, normalization, resample, backend
        As there.

    Raises
    ------
    MaterializeError
        For another backend.

    References
    ----------
    transformers 5.23.0, ``Qwen3VLVideoProcessor`` on the CPU: bit for bit, given the same frames.

    Examples
    --------
    >>> from mmformat.media import open_video
    >>> from mmformat.model import Source
    >>> processor = Qwen3VLVideoProcessor(num_frames=4, min_pixels=64 * 64, backend="pillow")
    >>> processed = processor(open_video(Source(np.zeros((9, 64, 96, 3), np.uint8))))
    >>> processed.feature.shape, processed.model_specific_data["video_grid_thw"].tolist()
    ((48, 1536), [[2, 4, 6]])
    """

    min_pixels: int = 128 * 32 * 32
    max_pixels: int = 768 * 32 * 32
    patch_size: int = 16
    max_video_tokens: int = 768
    normalization: Normalization = field(
        default_factory=lambda: FusedNormalization(mean=STANDARD_MEAN, std=STANDARD_STD)
    )

    def _indices_of(self, video: Video) -> npt.NDArray[np.int64]:
        count = video.frame_count
        if count < 1:
            raise MaterializeError(f"expected a video with frames, got {count}")
        if self.num_frames is not None:
            wanted = self.num_frames
        elif self.fps is not None:
            wanted = int(count / (video.fps or UNKNOWN_FPS) * self.fps)
            wanted = min(max(wanted, self.min_frames), self.max_frames, count)
        else:
            wanted = count
        if wanted > count:
            raise MaterializeError(
                f"expected a video of {wanted:,} frames or more, got {count:,}",
                hint="ask for fewer frames",
                code="too-few-frames",
            )
        return np.linspace(0, count - 1, wanted).round().astype(np.int64)

    def _size_of(self, video: Video, frames: int) -> tuple[int, int]:
        factor = self.patch_size * self.merge_size
        max_pixels = self.max_pixels
        if self.cap_pixels_per_frame:
            bound = self.max_video_tokens * factor * factor
            share = max(min(bound, max_pixels // frames), int(self.min_pixels * 1.05))
            max_pixels = share * frames
        return _smart_resize_video(
            frames,
            video.height,
            video.width,
            temporal_factor=self.temporal_patch_size,
            factor=factor,
            min_pixels=self.min_pixels,
            max_pixels=max_pixels,
        )


def _smart_resize_video(
    frames: int,
    height: int,
    width: int,
    *,
    temporal_factor: int,
    factor: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    # transformers 5.23.0, models.qwen3_vl.video_processing_qwen3_vl.smart_resize
    if frames < temporal_factor:
        raise MaterializeError(
            f"expected {temporal_factor} frames or more, got {frames}", code="too-few-frames"
        )
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise MaterializeError(
            f"expected an aspect ratio of at most {MAX_ASPECT_RATIO}, got {height} x {width}",
            path="$.size",
        )
    to_height = round(height / factor) * factor
    to_width = round(width / factor) * factor
    spans = round(frames / temporal_factor) * temporal_factor
    if spans * to_height * to_width > max_pixels:
        beta = math.sqrt((frames * height * width) / max_pixels)
        to_height = max(factor, math.floor(height / beta / factor) * factor)
        to_width = max(factor, math.floor(width / beta / factor) * factor)
    elif spans * to_height * to_width < min_pixels:
        beta = math.sqrt(min_pixels / (frames * height * width))
        to_height = math.ceil(height * beta / factor) * factor
        to_width = math.ceil(width * beta / factor) * factor
    return to_height, to_width
