"""Which frames of a video are taken: a number of them, or so many a second."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mmformat.errors import MaterializeError

__all__ = ["sample_frames"]


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
        raise MaterializeError(f"expected a video with frames, got {frame_count}")
    if fps is not None and num_frames is not None:
        raise MaterializeError(f"expected num_frames or fps, got {num_frames} and {fps}")
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
            f"expected a video that says its frames a second, got {video_fps}",
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
