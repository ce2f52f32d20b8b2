"""An opened video: its size, frame count and times, and the frames at given indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from mmformat.errors import LimitError, MaterializeError
from mmformat.media.sources import Fetcher, check_duration, ffmpeg_errors, open_container
from mmformat.model.source import Source

__all__ = ["Video", "open_video"]


Frame = npt.NDArray[np.uint8]


class Video:
    """An opened video, whose frames are decoded once each.

    Parameters
    ----------
    frame_count : int
        Frames that the file shows, counted from its packets; an edit list is applied.
    fps : float or None
        Frames a second: the nominal rate, or the average where the frames do not keep to it; None
        when unknown.
    pts_s : float64 array (frames,), or None
        When each frame is shown, in seconds, ascending; None when unknown.
    height, width : int
        In pixels, as stored: a rotation that a camera noted is not applied.
    read : callable
        ``read(indices)`` yields frames.
    path : str
        Where the video stands; errors name it.

    Notes
    -----
    **Lifetime**: the file is open until :meth:`close`. Frames can be asked for once.

    Examples
    --------
    >>> pixels = np.zeros((8, 4, 6, 3), np.uint8)
    >>> with open_video(Source(pixels)) as video:
    ...     video.frame_count, sum(1 for frame in video.frames([0, 4]))
    (8, 2)
    """

    def __init__(
        self,
        *,
        frame_count: int,
        fps: float | None,
        height: int,
        width: int,
        read: Callable[[Sequence[int]], Iterator[Frame]],
        path: str = "$",
        pts_s: npt.NDArray[np.float64] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self.frame_count = frame_count
        self.fps = fps
        self.pts_s = pts_s
        self.height = height
        self.width = width
        self.path = path
        self._read = read
        self._close = close

    def __repr__(self) -> str:
        return f"Video({self.frame_count} frames of {self.height} x {self.width}, {self.fps} fps)"

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def duration_s(self) -> float | None:
        """The duration, or None when the frame rate is unknown."""
        return self.frame_count / self.fps if self.fps else None

    def frames(self, indices: Sequence[int] | npt.NDArray[Any]) -> Iterator[Frame]:
        """Yield the frames of ascending indices, uint8 (height, width, 3).

        Raises
        ------
        MaterializeError
            When the indices do not ascend, the file is broken, or it ends well before its header
            says. Up to two frames (or one in fifty) that are missing at the end are left out, as
            transformers leaves them out: writers count them differently.

        Notes
        -----
        **Copies**: each wanted frame once, from the decoder. The others are decoded, because the
        wanted ones build on them, and dropped; one frame is held at a time.
        """
        wanted = [int(index) for index in indices]
        if any(index < 0 for index in wanted) or sorted(set(wanted)) != wanted:
            raise MaterializeError("frame indices must ascend", path=self.path)
        given = 0
        for frame in self._read(wanted):
            given += 1
            yield frame
        certain = self.frame_count - _allowed(self.frame_count)
        if given < len(wanted) and (not given or wanted[given] < certain):
            raise MaterializeError(
                f"the file has {self.frame_count:,} frames, but number {wanted[given]:,} cannot be "
                "decoded",
                path=self.path,
                code="video-short",
            )

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        close, self._close = self._close, None
        if close is not None:
            close()


def open_video(source: Source, *, fetcher: Fetcher | None = None, path: str = "$") -> Video:
    """Open a source as a video; no frame is decoded yet.

    Parameters
    ----------
    source : Source
        Of any kind but ``image`` and ``medium``. An array is uint8 (frames, height, width, 3).
    fetcher : callable, optional
        Used for a URL when the source has none of its own.
    path : str
        Where the source stands; errors name it.

    Raises
    ------
    LimitError
        When the video is over ``max_nbytes``, ``max_pixels`` (a frame) or ``max_duration_s``.
    MaterializeError
        When the bytes are no video.
    MissingExtraError
        When PyAV is not installed.
    """
    if source.kind == "array":
        return _video_of_array(source, path)
    with ExitStack() as stack:
        container = stack.enter_context(open_container(source, fetcher=fetcher, path=path))
        with ffmpeg_errors("a video", path):
            if not container.streams.video:
                raise MaterializeError("the file has no video stream", path=path)
            stream = container.streams.video[0]
            rate = stream.average_rate
            fps = float(rate) if rate else None
            height, width = stream.codec_context.height, stream.codec_context.width
            _check_frame(height, width, source, path)
            # The size can change within a stream; FFmpeg enforces this limit itself.
            stream.codec_context.options = {"max_pixels": str(source.max_pixels)}
            if fps:
                check_duration(stream.frames / fps, source, path)
            times = _frame_times(container, stream, path)
            fps = _frame_rate(times, fps, float(stream.time_base or 0))
        if fps:
            check_duration(len(times) / fps, source, path)
        closing = stack.pop_all()
    return Video(
        frame_count=len(times),
        fps=fps,
        pts_s=times,
        height=height,
        width=width,
        read=lambda indices: _decoded(container, stream, indices, path),
        path=path,
        close=closing.close,
    )


def _check_frame(height: int, width: int, source: Source, path: str) -> None:
    if height < 1 or width < 1:
        raise MaterializeError(f"the frames have a size of {height} x {width}", path=path)
    if height * width > source.max_pixels:
        raise LimitError(
            f"expected at most {source.max_pixels:,} pixels a frame, got {width:,} x {height:,}",
            path=path,
            hint="if you trust the sender: Source(..., max_pixels=...)",
        )


def _frame_times(container: Any, stream: Any, path: str) -> npt.NDArray[np.float64]:
    # Count packets: headers miscount, and also count frames that an edit list hides. A packet is
    # a frame in every codec that is read here.
    shown: list[float] = []
    count = 0
    for packet in container.demux(stream):
        if packet.size:
            count += 1
            if not packet.is_discard:
                tick = packet.dts if packet.pts is None else packet.pts
                shown.append(count if tick is None else tick)
    container.seek(0)
    if not shown:
        raise MaterializeError("the video stream has no frames", path=path)
    # FFmpeg applies edit lists to the index of MP4, but not to the count in the header.
    said = len(stream.index_entries) if "mp4" in container.format.name else 0
    said = said or stream.frames
    if count < said - _allowed(said):
        raise MaterializeError(
            f"the header counts {said:,} frames, but the file ends after {count:,}",
            path=path,
            code="video-short",
        )
    return np.sort(np.array(shown, np.float64)) * float(stream.time_base or 0)


def _allowed(count: int) -> int:
    # Writers count differently at the end.
    return max(2, count // 50)


def _frame_rate(
    times: npt.NDArray[np.float64], nominal: float | None, tick_s: float
) -> float | None:
    # The nominal rate if all frames keep to it within the rounding of times, else the average.
    if len(times) < 2 or times[-1] <= times[0]:
        return nominal
    if nominal is not None:
        even = times[0] + np.arange(len(times)) / nominal
        if np.abs(times - even).max() <= tick_s * 1.01:
            return nominal
    return float((len(times) - 1) / (times[-1] - times[0]))


def _decoded(container: Any, stream: Any, wanted: Sequence[int], path: str) -> Iterator[Frame]:
    position = 0
    shape: tuple[int, ...] | None = None
    with ffmpeg_errors("frames that can be decoded", path):
        for index, frame in enumerate(container.decode(stream)):
            if position == len(wanted):
                return
            if index != wanted[position]:
                continue
            position += 1
            pixels = _pixels_of(frame)
            if shape is None:
                shape = pixels.shape
            if pixels.shape != shape:
                raise MaterializeError(
                    f"the frames change size from {shape} to {pixels.shape}", path=path
                )
            yield pixels


def _pixels_of(frame: Any) -> Frame:
    pixels: Frame = frame.to_ndarray(format="rgb24")
    return pixels


def _video_of_array(source: Source, path: str) -> Video:
    frames = np.asarray(source.data)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise MaterializeError(
            f"expected frames of uint8 (frames, height, width, 3), got {frames.dtype} "
            f"{frames.shape}",
            path=path,
        )
    _check_frame(frames.shape[1], frames.shape[2], source, path)

    def read(indices: Sequence[int]) -> Iterator[Frame]:
        return (frames[index] for index in indices if index < len(frames))

    return Video(
        frame_count=frames.shape[0],
        fps=None,
        height=frames.shape[1],
        width=frames.shape[2],
        read=read,
        path=path,
    )
