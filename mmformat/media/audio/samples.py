"""Decode a source to samples: float32, at the rate and with the channels of the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat._extras import require
from mmformat.errors import LimitError, MaterializeError
from mmformat.media.audio.resampling import resample
from mmformat.media.container import check_duration, ffmpeg_errors, open_container
from mmformat.media.fetch import Fetcher
from mmformat.model.source import Source

__all__ = ["Audio", "load_audio"]

MAX_VALUES: Final = 2**29
"""Samples of all channels: 2 GiB of float32, an hour of stereo at 48 kHz and more."""


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Hold decoded sound.

    Parameters
    ----------
    samples : float32 array (channels, samples)
        Full scale is -1 to 1.
    sample_rate_hz : int or None
        None for an array whose maker did not say; a processor then takes it for its own rate.

    Examples
    --------
    >>> Audio(np.zeros((2, 16_000), np.float32), 16_000)
    Audio(2 channels, 16,000 samples, 16000 Hz)
    """

    samples: npt.NDArray[np.float32]
    sample_rate_hz: int | None

    def __repr__(self) -> str:
        channels, count = self.samples.shape
        return f"Audio({channels} channels, {count:,} samples, {self.sample_rate_hz} Hz)"

    def mono(self, *, sample_rate_hz: int) -> npt.NDArray[np.float32]:
        """Return the mean of the channels at a rate, float32 (samples,).

        Raises
        ------
        MaterializeError
            When the rate is out of bounds.

        Notes
        -----
        **Copies**: none of one channel that has the rate.
        """
        samples: npt.NDArray[np.float32] = self.samples[0]
        if len(self.samples) > 1:
            samples = self.samples.mean(axis=0)
        if self.sample_rate_hz is None:
            return samples
        return resample(samples, self.sample_rate_hz, to_hz=sample_rate_hz)


def load_audio(source: Source, *, fetcher: Fetcher | None = None, path: str = "$") -> Audio:
    """Decode the first audio stream of a source.

    Parameters
    ----------
    source : Source
        Of any kind but ``image`` and ``medium``; a video's sound is taken too. An array is floats
        (samples,) or (channels, samples), at the rate of the processor that gets it.
    fetcher : callable, optional
        Used for a URL when the source has none of its own.
    path : str
        Where the source stands; errors name it.

    Raises
    ------
    LimitError
        When the file is over ``max_nbytes`` or the sound over ``max_duration_s``, whatever the
        header says.
    MaterializeError
        When the bytes are no sound.
    MissingExtraError
        When PyAV is not installed.

    Notes
    -----
    **Copies**: none of a float32 array; decoded samples are joined once.

    Examples
    --------
    >>> load_audio(Source(np.zeros(8, np.float32)))
    Audio(1 channels, 8 samples, None Hz)
    """
    if source.kind == "array":
        return _audio_of_array(source.data, path)
    av = require("av", extra="media")
    with open_container(source, fetcher=fetcher, path=path) as container:
        if not container.streams.audio:
            raise MaterializeError("expected an audio stream, got none", path=path)
        stream = container.streams.audio[0]
        rate = int(stream.rate or 0)
        if rate < 1:
            raise MaterializeError(f"expected a sample rate, got {rate} Hz", path=path)
        blocks: list[npt.NDArray[np.float32]] = []
        count = 0
        with ffmpeg_errors("sound that can be decoded", path):
            to_planes = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                for planes in to_planes.resample(frame):
                    block = planes.to_ndarray()
                    count += block.shape[1]
                    check_duration(count / rate, source, path)
                    if count * len(block) > MAX_VALUES:
                        raise LimitError(
                            f"expected at most {MAX_VALUES:,} samples of all channels, got more",
                            path=path,
                        )
                    blocks.append(block)
            samples = np.concatenate(blocks, axis=1) if blocks else np.empty((0, 0), np.float32)
    if not samples.size:
        raise MaterializeError("expected sound, got no sample", path=path)
    return Audio(samples, rate)


def _audio_of_array(data: Any, path: str) -> Audio:
    samples = np.asarray(data)
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or not samples.size:
        raise MaterializeError(
            f"expected floats (samples,) or (channels, samples), got {samples.dtype} "
            f"{samples.shape}",
            path=path,
        )
    return Audio(np.atleast_2d(samples).astype(np.float32, copy=False), None)
