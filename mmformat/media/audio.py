"""Sound: decoded, resampled to a model's rate, and turned into Whisper's log-mel frames."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mmformat._extras import require
from mmformat.errors import LimitError, MaterializeError
from mmformat.media.processor_output import ProcessorOutput
from mmformat.media.sources import Fetcher, check_duration, ffmpeg_errors, open_container
from mmformat.model.source import Source
from mmformat.model.tensors import numpy_dtype

__all__ = [
    "Audio",
    "WhisperProcessor",
    "load_audio",
    "log_mel",
    "mel_filters",
    "resample",
]


ZERO_CROSSINGS: Final = 6
ROLLOFF: Final = 0.99
MIN_RATE_HZ: Final = 1_000
MAX_RATE_HZ: Final = 768_000
_CHUNK_ELEMENTS: Final = 2**21
"""Of each array that is made on the way."""

Samples = npt.NDArray[np.float32]


def resample(samples: Samples, from_hz: int, *, to_hz: int) -> Samples:
    """Return the samples at another rate.

    Parameters
    ----------
    samples : float32 array (samples,)
        One channel.
    from_hz, to_hz : int
        Rates, 1,000 to 768,000.

    Returns
    -------
    float32 array (ceil(samples * to_hz / from_hz),)

    Raises
    ------
    MaterializeError
        When a rate is out of bounds.

    Notes
    -----
    **Copies**: none when the rates are equal. **Cost**: the filter holds only the taps that are not
    zero, so that a rate which shares no factor with the other stays below 150 MB (the reference's
    own table would take gigabytes).

    References
    ----------
    torchaudio 2.11, ``functional.resample`` with its defaults (sinc_interp_hann, 6 zero crossings,
    rolloff 0.99); the same weights, summed in another order.

    Examples
    --------
    >>> resample(np.ones(441, np.float32), 44_100, to_hz=16_000).shape
    (160,)
    """
    for rate in (from_hz, to_hz):
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise MaterializeError(
                f"expected a rate of {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz, got {rate:,} Hz"
            )
    if from_hz == to_hz:
        return samples
    divisor = math.gcd(from_hz, to_hz)
    before, after = from_hz // divisor, to_hz // divisor
    weights, offsets, width = _filter(before, after)
    taps = weights.shape[1]
    padded = np.pad(samples, (width, width + taps + before))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    out = np.empty(-(-len(samples) * after // before), np.float32)
    chunk = max(1, _CHUNK_ELEMENTS // taps)
    for start in range(0, len(out), chunk):
        number = np.arange(start, min(start + chunk, len(out)))
        phase = number % after
        first = number // after * before + offsets[phase] + width
        np.einsum("ij,ij->i", windows[first], weights[phase], out=out[start : start + chunk])
    return out


def _filter(before: int, after: int) -> tuple[Samples, npt.NDArray[np.int64], int]:
    # The output i of a period stands at i * before / after; its taps begin `width` samples earlier.
    base = min(before, after) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * before / base)
    phases = np.arange(after)
    offsets = phases * before // after - width
    weights = np.empty((after, 2 * width + 2), np.float32)
    chunk = max(1, _CHUNK_ELEMENTS // weights.shape[1])
    for start in range(0, after, chunk):
        part = slice(start, start + chunk)
        index = offsets[part, None] + np.arange(weights.shape[1])
        # The phase is rounded to float32, as in the reference, before it meets the float64 index.
        shift = -phases[part].astype(np.float32) / np.float32(after)
        t = (shift[:, None].astype(np.float64) + index / before) * base
        t = t.clip(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        window = np.cos(t * math.pi / ZERO_CROSSINGS / 2) ** 2
        weights[part] = np.sinc(t) * window * (base / before)
    return weights, offsets, width


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
        """Return the mean of the channels, resampled to a rate, float32 (samples,).

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
        (samples,) or (channels, samples), at the rate of the processor that gets it. An array with
        more channels than samples is refused, because it is probably the transpose.
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
            raise MaterializeError("the file has no audio stream", path=path)
        stream = container.streams.audio[0]
        rate = int(stream.rate or 0)
        if rate < 1:
            raise MaterializeError(f"the audio stream has a sample rate of {rate} Hz", path=path)
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
                            f"the sound has more than {MAX_VALUES:,} samples in all channels",
                            path=path,
                        )
                    blocks.append(block)
            samples = np.concatenate(blocks, axis=1) if blocks else np.empty((0, 0), np.float32)
    if not samples.size:
        raise MaterializeError("the audio stream has no samples", path=path)
    return Audio(samples, rate)


def _audio_of_array(data: Any, path: str) -> Audio:
    samples = np.asarray(data)
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or not samples.size:
        raise MaterializeError(
            f"expected floats (samples,) or (channels, samples), got {samples.dtype} "
            f"{samples.shape}",
            path=path,
        )
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise MaterializeError(
            f"samples must have shape (channels, samples), but {samples.shape} would have more "
            "channels than samples",
            path=path,
            hint="if the channels come last: samples.T",
            code="channel-order",
        )
    return Audio(np.atleast_2d(samples).astype(np.float32, copy=False), None)


MAX_MEL_HZ: Final = 8_000.0
POWER_FLOOR: Final = 1e-10
DYNAMIC_RANGE: Final = 8.0
"""Powers of ten below the loudest that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperProcessor:
    """Turn sound into the ``input_features`` of Whisper, Qwen2-Audio and related models.

    Parameters
    ----------
    feature_size : int
        Mel bands: 80, or 128 since large-v3.
    sampling_rate : int
        In Hz; sound of another rate is resampled.
    hop_length, n_fft : int
        Samples between frames, and in a window.
    chunk_length : int
        Seconds that longer sound is cut to and, with ``padding="max_length"``, shorter filled to.
    padding : {"max_length", "do_not_pad"}
        Whether silence is added.
    return_attention_mask : bool
        Also return which frames hold sound.
    dtype : {"float32", "float16", "bfloat16"}
        Of the frames.
    backend : {"auto", "torch", "numpy"}
        Which of transformers' two paths is followed. ``"auto"`` is torch where it is installed, as
        in transformers, and is replaced by it.

    Raises
    ------
    MaterializeError
        For another padding or backend.

    Notes
    -----
    The torch path is equal to transformers' bit for bit, with the same torch and the same number of
    threads. The numpy path computes in float64, and differs from transformers' by at most one
    rounding to float32; the two paths differ by up to 5.7e-5.

    References
    ----------
    transformers 5.23.0, ``WhisperFeatureExtractor``.

    Examples
    --------
    >>> made = WhisperProcessor()(Audio(np.zeros((1, 16_000), np.float32), 16_000))
    >>> made.feature.shape
    (1, 80, 3000)
    """

    feature_size: int = 80
    sampling_rate: int = 16_000
    hop_length: int = 160
    n_fft: int = 400
    chunk_length: int = 30
    padding: Literal["max_length", "do_not_pad"] = "max_length"
    return_attention_mask: bool = False
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    backend: Literal["auto", "torch", "numpy"] = "auto"

    def __post_init__(self) -> None:
        if self.padding not in ("max_length", "do_not_pad"):
            raise MaterializeError(
                f"expected a padding of 'max_length' or 'do_not_pad', got {self.padding!r}",
                path="$.padding",
            )
        if self.backend not in ("auto", "torch", "numpy"):
            raise MaterializeError(
                f"backend must be 'auto', 'torch' or 'numpy', got {self.backend!r}",
                path="$.backend",
            )
        if self.backend == "auto":
            found = importlib.util.find_spec("torch") is not None
            object.__setattr__(self, "backend", "torch" if found else "numpy")

    @classmethod
    def from_values(cls, values: Mapping[str, Any], **overrides: Any) -> WhisperProcessor:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value is invalid, or asks for dither or normalization, which are not done.

        Examples
        --------
        >>> WhisperProcessor.from_values({"feature_size": 128}).feature_size
        128
        """
        fields: dict[str, Any] = {}
        names = ("feature_size", "sampling_rate", "hop_length", "n_fft", "chunk_length")
        for name in names:
            value = values.get(name)
            if value is None:
                continue
            if type(value) is not int or value < 1:
                raise MaterializeError(f"expected a positive int, got {value!r}", path=f"$.{name}")
            fields[name] = value
        for name in ("dither", "do_normalize", "padding_value"):
            if values.get(name):
                raise MaterializeError(
                    f"{name} is not supported, got {values[name]!r}",
                    path=f"$.{name}",
                    hint="use transformers' own extractor as the processor",
                )
        fields["return_attention_mask"] = bool(values.get("return_attention_mask"))
        return cls(**{**fields, **overrides})

    def __call__(self, audio: Audio) -> ProcessorOutput:
        """Return ``input_features`` (1, bands, frames) and, if asked for, ``attention_mask``.

        Raises
        ------
        MaterializeError
            When the rate of the sound is out of bounds, or there is too little of it.
        """
        samples = audio.mono(sample_rate_hz=self.sampling_rate)
        bound = self.chunk_length * self.sampling_rate
        samples = samples[:bound]
        length = bound if self.padding == "max_length" else len(samples)
        compute = _torch_log_mel if self.backend == "torch" else log_mel
        features = compute(
            samples,
            length,
            bands=self.feature_size,
            rate_hz=self.sampling_rate,
            hop_length=self.hop_length,
            n_fft=self.n_fft,
        )
        data: dict[str, Any] = {}
        if self.return_attention_mask:
            mask = np.arange(features.shape[1]) * self.hop_length < len(samples)
            data["attention_mask"] = mask.astype(np.int32)[None]
        return ProcessorOutput(
            feature=features.astype(numpy_dtype(self.dtype), copy=False)[None],
            model_specific_data=data,
        )


def log_mel(
    samples: npt.NDArray[np.float32],
    length: int,
    *,
    bands: int,
    rate_hz: int,
    hop_length: int,
    n_fft: int,
) -> npt.NDArray[np.float32]:
    """Return the scaled log-mel spectrogram of samples padded with silence.

    Parameters
    ----------
    samples : float32 array (samples,)
        At ``rate_hz``.
    length : int
        Samples with the silence.

    Returns
    -------
    float32 array (bands, length // hop_length)

    Raises
    ------
    MaterializeError
        When there are too few samples to mirror half a window.

    Notes
    -----
    **Cost**: frames of nothing but silence are not transformed. The Fourier transform is in
    float64.
    """
    half = n_fft // 2
    if length <= half:
        raise MaterializeError(f"expected more than {half} samples, got {length}")
    frames = length // hop_length
    # Frames whose window meets a sample. The mirrored end holds one only if the sound reaches to
    # half a window before the end, and then every frame is among them.
    heard = min(frames, (len(samples) + half) // hop_length + 1)
    padded = np.zeros(length, np.float64)
    padded[: len(samples)] = samples
    padded = np.pad(padded, half, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length][:heard]
    hann = np.hanning(n_fft + 1)[:-1]
    power = np.abs(np.fft.rfft(windows * hann)) ** 2
    mel = np.maximum(power @ mel_filters(bands, rate_hz, n_fft), POWER_FLOOR)
    out = np.full((bands, frames), np.log10(POWER_FLOOR))
    out[:, :heard] = np.log10(mel).T
    np.maximum(out, out.max() - DYNAMIC_RANGE, out=out)
    scaled: npt.NDArray[np.float32] = ((out + 4.0) / 4.0).astype(np.float32)
    return scaled


def _torch_log_mel(
    samples: npt.NDArray[np.float32],
    length: int,
    *,
    bands: int,
    rate_hz: int,
    hop_length: int,
    n_fft: int,
) -> npt.NDArray[np.float32]:
    """Return what :func:`log_mel` does, operation by operation as transformers does in torch."""
    torch = require("torch", extra="torch")
    if length <= n_fft // 2:
        raise MaterializeError(f"expected more than {n_fft // 2} samples, got {length}")
    padded = np.zeros((1, length), np.float32)
    padded[0, : len(samples)] = samples
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(
        torch.from_numpy(padded), n_fft, hop_length, window=window, return_complex=True
    )
    power = (spectrum[..., :-1].abs() ** 2).contiguous()
    filters = torch.tensor(mel_filters(bands, rate_hz, n_fft)).to(torch.float32)
    mel = (filters.T @ power).clamp_(min=POWER_FLOOR).log10_()
    mel = torch.maximum(mel, mel.max() - DYNAMIC_RANGE)
    scaled: npt.NDArray[np.float32] = mel.add_(4.0).div_(4.0)[0].numpy()
    return scaled


@lru_cache(maxsize=8)
def mel_filters(bands: int, rate_hz: int, n_fft: int) -> npt.NDArray[np.float64]:
    """Return the weights of Slaney's mel bands, float64 (n_fft // 2 + 1, bands).

    References
    ----------
    transformers 5.23.0, ``audio_utils.mel_filter_bank`` with ``norm`` and ``mel_scale`` "slaney".
    """
    edges = _hertz_of_mel(np.linspace(0.0, _mel_of_hertz(MAX_MEL_HZ), bands + 2))
    bins = np.linspace(0, rate_hz // 2, n_fft // 2 + 1)
    widths = np.diff(edges)
    slopes = edges[None, :] - bins[:, None]
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: npt.NDArray[np.float64] = triangles * (2.0 / (edges[2:] - edges[:-2]))
    filters.flags.writeable = False
    return filters


# Slaney's scale is linear up to 1,000 Hz, which is 15 mel, and logarithmic above.
_LOG_STEP: Final = 27.0 / np.log(6.4)


def _mel_of_hertz(hertz: float) -> float:
    return float(15.0 + np.log(hertz / 1000.0) * _LOG_STEP) if hertz >= 1000.0 else 3 * hertz / 200


def _hertz_of_mel(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = 200.0 * mel / 3.0
    return np.where(mel >= 15.0, 1000.0 * np.exp((mel - 15.0) / _LOG_STEP), linear)
