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
        Frames, as the file says.
    fps : float or None
        Frames a second, averaged; None when the file does not say.
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
        close: Callable[[], None] | None = None,
    ) -> None:
        self.frame_count = frame_count
        self.fps = fps
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
        allowed = max(2, self.frame_count // 50)
        if given < len(wanted) and (not given or wanted[given] < self.frame_count - allowed):
            raise MaterializeError(
                f"expected {self.frame_count:,} frames, as the file says, got fewer than "
                f"{wanted[given] + 1:,}",
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
            count = int(stream.frames) or _count_packets(container, stream)
        if fps:
            check_duration(count / fps, source, path)
        closing = stack.pop_all()
    return Video(
        frame_count=count,
        fps=fps,
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


def _count_packets(container: Any, stream: Any) -> int:
    # Matroska does not say; a packet is a frame in every codec that it carries here.
    count = sum(1 for packet in container.demux(stream) if packet.size)
    container.seek(0)
    return count


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
