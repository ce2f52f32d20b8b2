"""The video processors of the Qwen-VL family: frames sampled, resized and cut into patches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image import Encoding, FloatDtype, Normalization, ProcessedImage
from mmformat.media.image.normalization import (
    CLIP_MEAN,
    CLIP_STD,
    STANDARD_MEAN,
    STANDARD_STD,
    Settings,
)
from mmformat.media.image.pixels import (
    BACKENDS,
    Backend,
    PillowPixels,
    Pixels,
    TorchPixels,
    smart_resize,
    smart_resize_video,
)
from mmformat.media.image.processor import CodesLayout, ImagePlan
from mmformat.media.video import Video

__all__ = [
    "Qwen3VLVideoProcessor",
    "QwenVLVideoProcessor",
    "sample_frames",
]


def sample_frames(
    frame_count: int,
    video_fps: float | None,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    temporal_patch_size: int = 2,
    min_frames: int = 4,
    max_frames: int = 768,
) -> npt.NDArray[np.int64]:
    """Return the indices of the frames that Qwen2-VL's video processor takes.

    Parameters
    ----------
    frame_count : int
        Frames in the video.
    video_fps : float or None
        Frames a second of the video; wanted for ``fps`` alone.
    num_frames : int, optional
        How many frames, evenly spaced; rounded to a multiple of ``temporal_patch_size``, to even.
    fps : float, optional
        How many frames a second instead; bounded by ``min_frames`` and ``max_frames``.

    Returns
    -------
    int64 array (frames,)
        Ascending and below ``frame_count``; all frames when neither number is given.

    Raises
    ------
    MaterializeError
        When both or neither of the rules can be applied, or there are too few frames.

    References
    ----------
    transformers 5.23.0, ``Qwen2VLVideoProcessor.sample_frames``, whose ``torch.arange`` is followed
    to the bit: float32 values, made by eights from a float32 base, the last 15 or fewer one by
    one. Where it gives one index too many (that of the frame after the last), none is given.

    Examples
    --------
    >>> sample_frames(100, 25.0, fps=2.0).tolist()
    [0, 12, 25, 37, 50, 62, 75, 87]
    >>> sample_frames(100, None, num_frames=5).tolist()
    [0, 25, 50, 75]
    """
    if frame_count < 1:
        raise MaterializeError(f"the video has {frame_count} frames")
    if fps is not None and num_frames is not None:
        raise MaterializeError(f"num_frames and fps exclude each other, got {num_frames} and {fps}")
    if num_frames is not None:
        wanted = round(num_frames / temporal_patch_size) * temporal_patch_size
    elif fps is not None:
        wanted = _frames_at(
            fps, frame_count, video_fps,
            factor=temporal_patch_size, min_frames=min_frames, max_frames=max_frames,
        )  # fmt: skip
    else:
        return np.arange(frame_count)
    if not 1 <= wanted <= frame_count:
        raise MaterializeError(
            f"expected a video of {max(wanted, temporal_patch_size):,} frames or more, "
            f"got {frame_count:,}",
            hint="ask for fewer frames",
            code="too-few-frames",
        )
    return _evenly_spaced(frame_count, wanted)


def _frames_at(
    fps: float,
    frame_count: int,
    video_fps: float | None,
    *,
    factor: int,
    min_frames: int,
    max_frames: int,
) -> int:
    if not video_fps or not math.isfinite(video_fps) or video_fps < 0:
        raise MaterializeError(
            f"the frame rate of the video is unknown ({video_fps})",
            hint="give num_frames instead of fps",
        )
    bound = math.floor(min(max_frames, frame_count) / factor) * factor
    wanted = frame_count / video_fps * fps
    wanted = min(max(wanted, min_frames), bound, frame_count)
    return math.floor(wanted / factor) * factor


def _evenly_spaced(frame_count: int, wanted: int) -> npt.NDArray[np.int64]:
    step = frame_count / wanted
    steps = np.arange(math.ceil(frame_count / step))
    base = (steps // 8 * 8 * step).astype(np.float32).astype(np.float64)
    by_eights = base + steps % 8 * step
    values = np.where(steps < len(steps) // 16 * 16, by_eights, steps * step)
    indices = values.astype(np.float32).astype(np.int64)
    return indices[indices < frame_count]


MIN_PIXELS: Final = 128 * 28 * 28
MAX_PIXELS: Final = 768 * 28 * 28


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenVLVideoProcessor:
    """Cut a video into the patches of Qwen2-VL and Qwen2.5-VL.

    Parameters
    ----------
    num_frames : int, optional
        How many frames are taken, evenly spaced.
    fps : float, optional, default 2.0
        How many frames a second instead; None with ``num_frames`` None takes all frames.
    min_frames, max_frames : int
        Bounds on the number of frames for ``fps``.
    min_pixels, max_pixels : int
        Bounds on the pixels of a frame after resizing.
    patch_size, temporal_patch_size, merge_size : int
        Edge of a patch, frames in a patch, and patches merged along each edge.
    cap_pixels_per_frame : bool
        Bound the pixels of a frame by its share of ``max_video_tokens`` too, as qwen-vl-utils does.
    max_video_tokens : int
        The budget of which a video may take nine tenths.
    normalization : Normalization
        How bytes become floats; computed as the torchvision backend does.
    backend : {"auto", "torchvision", "pil"}
        Where frames are resized. ``"torchvision"``, which ``"auto"`` stands for, gives the pixels
        of transformers, whose video processors have no other backend; ``"pil"`` needs no torch, and
        differs by 1 or 2 in under 1 % of the bytes.

    Raises
    ------
    MaterializeError
        For another backend.

    References
    ----------
    transformers 5.23.0, ``Qwen2VLVideoProcessor`` on the CPU: bit for bit, given the same frames.

    Examples
    --------
    >>> from mmformat.media import open_video
    >>> from mmformat.model import Source
    >>> processor = QwenVLVideoProcessor(num_frames=4, min_pixels=56 * 56, backend="pil")
    >>> processed = processor(open_video(Source(np.zeros((9, 56, 84, 3), np.uint8))))
    >>> processed.feature.shape, processed.model_specific_data["video_grid_thw"].tolist()
    ((48, 1176), [[2, 4, 6]])
    """

    num_frames: int | None = None
    fps: float | None = 2.0
    min_frames: int = 4
    max_frames: int = 768
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    cap_pixels_per_frame: bool = False
    max_video_tokens: int = 128_000
    normalization: Normalization = field(
        default_factory=lambda: Normalization(fused=True, mean=CLIP_MEAN, std=CLIP_STD)
    )
    resample: int = Image.Resampling.BICUBIC
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise MaterializeError(
                f"backend must be 'auto', 'torchvision' or 'pil', got {self.backend!r}",
                path="$.backend",
            )
        if self.backend == "auto":
            object.__setattr__(self, "backend", "torchvision")
        object.__setattr__(self, "normalization", replace(self.normalization, fused=True))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Return the processor of a ``video_preprocessor_config.json``'s values.

        Parameters
        ----------
        values : mapping
            As parsed from JSON. ``do_sample_frames`` false takes all frames.
        **overrides
            Fields of this class that replace what the values say.

        Raises
        ------
        MaterializeError
            When a value is invalid, or the configuration is another processor's.

        Examples
        --------
        >>> QwenVLVideoProcessor.from_values({"size": {"longest_edge": 12845056}}, fps=1.0).fps
        1.0
        """
        settings = Settings(values)
        _check_type(cls.__name__, values)
        base = cls()
        size = settings.mapping("size")
        found = settings.normalization(
            mean=cast("tuple[float, ...]", base.normalization.mean),
            std=cast("tuple[float, ...]", base.normalization.std),
        )
        num_frames = settings.integer("num_frames", 0) or None
        fields: dict[str, Any] = {
            "num_frames": num_frames,
            "fps": None if num_frames else settings.get("fps") or base.fps,
            "min_pixels": settings.integer(
                "min_pixels", size.get("shortest_edge", base.min_pixels)
            ),
            "max_pixels": settings.integer("max_pixels", size.get("longest_edge", base.max_pixels)),
            "cap_pixels_per_frame": settings.flag("cap_pixels_per_frame", False),
            "resample": settings.resample(base.resample),
            "normalization": found,
        }
        for name in _INTEGERS:
            fields[name] = settings.integer(name, getattr(base, name))
        if not settings.flag("do_sample_frames", True):
            fields.update(num_frames=None, fps=None)
        return cls(**{**fields, **overrides})

    def __call__(
        self, video: Video, *, encoding: Encoding = "dictionary", dtype: FloatDtype = "float32"
    ) -> ProcessedImage:
        """Return ``pixel_values_videos`` (patches, values), and the data that go with it.

        Returns
        -------
        ProcessedImage
            ``video_grid_thw`` int64 (1, 3) and, when the video says its frames a second,
            ``second_per_grid_ts`` float64 (1,) are in ``model_specific_data``.

        Raises
        ------
        MaterializeError
            When the video is too short, too narrow or broken.

        Notes
        -----
        **Cost**: beside the bytes of the patches, one decoded frame is held at a time.
        """
        indices = self._indices_of(video)
        height, width = self._size_of(video, len(indices))
        codes = self._codes(video, indices, height=height, width=width)
        steps, count, channels = codes.shape[:3]
        flat = codes.reshape(steps * count, *codes.shape[2:])
        shape = (steps * count, channels * self.temporal_patch_size * self.patch_size**2)
        plan = ImagePlan.of(
            CodesLayout(codes=flat.shape, axis=1, shape=shape),
            self.normalization,
            encoding=encoding,
            dtype=dtype,
        )
        grid = [steps, height // self.patch_size, width // self.patch_size]
        data: dict[str, Any] = {"video_grid_thw": np.array([grid], dtype=np.int64)}
        if video.fps:
            sampled_fps = len(indices) / video.frame_count * video.fps
            data["second_per_grid_ts"] = np.array([self.temporal_patch_size / sampled_fps])
        return ProcessedImage(plan.finish(flat), data)

    def _indices_of(self, video: Video) -> npt.NDArray[np.int64]:
        return sample_frames(
            video.frame_count,
            video.fps,
            num_frames=self.num_frames,
            fps=None if self.num_frames is not None else self.fps,
            temporal_patch_size=self.temporal_patch_size,
            min_frames=self.min_frames,
            max_frames=self.max_frames,
        )

    def _size_of(self, video: Video, frames: int) -> tuple[int, int]:
        factor = self.patch_size * self.merge_size
        max_pixels = self.max_pixels
        if self.cap_pixels_per_frame:
            total = int(self.max_video_tokens * factor * factor * 0.9)
            share = total * self.temporal_patch_size // frames
            max_pixels = max(min(max_pixels, share), int(self.min_pixels * 1.05))
        return smart_resize(
            video.height,
            video.width,
            factor=factor,
            min_pixels=self.min_pixels,
            max_pixels=max_pixels,
        )

    def _codes(
        self,
        video: Video,
        indices: npt.NDArray[np.int64],
        *,
        height: int,
        width: int,
    ) -> npt.NDArray[np.uint8]:
        span, merge, patch = self.temporal_patch_size, self.merge_size, self.patch_size
        steps = -(-len(indices) // span)
        rows, columns = height // patch // merge, width // patch // merge
        out = np.empty((steps, rows, columns, merge, merge, 3, span, patch, patch), np.uint8)
        taken = 0
        for frame in video.frames(indices):
            pixels: Pixels
            if self.backend == "pil":
                pixels = PillowPixels(Image.fromarray(frame))
            else:
                pixels = TorchPixels.of(frame)
            pixels = pixels.resize(height, width, resample=self.resample)
            place = out[taken // span, ..., taken % span, :, :]
            pixels.write_patches(place, merge_size=merge, strip=height * width)
            taken += 1
        steps = -(-taken // span)
        for missing in range(taken, steps * span):  # as transformers: the last frame again
            out[steps - 1, ..., missing % span, :, :] = out[
                steps - 1, ..., (taken - 1) % span, :, :
            ]
        count = height * width // patch**2
        return out[:steps].reshape(steps, count, 3, span, patch, patch)


_INTEGERS = (
    "min_frames",
    "max_frames",
    "patch_size",
    "temporal_patch_size",
    "merge_size",
    "max_video_tokens",
)
_TYPES: Final = {"QwenVLVideoProcessor": ("Qwen2",), "Qwen3VLVideoProcessor": ("Qwen3",)}
"""What the type in a configuration begins with; before Qwen2.5 it was the image processor's."""


def _check_type(name: str, values: Mapping[str, Any]) -> None:
    named = values.get("video_processor_type") or values.get("image_processor_type")
    if named is not None and not str(named).startswith(_TYPES[name]):
        raise MaterializeError(
            f"expected a configuration of {' or '.join(_TYPES[name])}, got {named!r}",
            path="$.video_processor_type",
            hint=f"classes here: {', '.join(_TYPES)}",
            code="unknown-processor",
        )
    if values.get("do_resize") is False:
        raise MaterializeError("do_resize must be true for videos", path="$.do_resize")


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
    >>> processor = Qwen3VLVideoProcessor(num_frames=4, min_pixels=64 * 64, backend="pil")
    >>> processed = processor(open_video(Source(np.zeros((9, 64, 96, 3), np.uint8))))
    >>> processed.feature.shape, processed.model_specific_data["video_grid_thw"].tolist()
    ((48, 1536), [[2, 4, 6]])
    """

    min_pixels: int = 128 * 32 * 32
    max_pixels: int = 768 * 32 * 32
    patch_size: int = 16
    max_video_tokens: int = 768
    normalization: Normalization = field(
        default_factory=lambda: Normalization(fused=True, mean=STANDARD_MEAN, std=STANDARD_STD)
    )

    def _indices_of(self, video: Video) -> npt.NDArray[np.int64]:
        count = video.frame_count
        if count < 1:
            raise MaterializeError(f"the video has {count} frames")
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
        return smart_resize_video(
            frames,
            video.height,
            video.width,
            temporal_factor=self.temporal_patch_size,
            factor=factor,
            min_pixels=self.min_pixels,
            max_pixels=max_pixels,
        )
