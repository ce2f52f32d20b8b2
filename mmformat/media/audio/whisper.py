"""Whisper's log-mel frames, in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mmformat.errors import MaterializeError
from mmformat.media.audio.samples import Audio
from mmformat.media.outcome import Outcome
from mmformat.model.tensors import numpy_dtype

__all__ = ["WhisperProcessor", "log_mel", "mel_filters"]

MAX_MEL_HZ: Final = 8_000.0
POWER_FLOOR: Final = 1e-10
DYNAMIC_RANGE: Final = 8.0
"""Powers of ten below the loudest that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperProcessor:
    """Turn sound into the ``input_features`` of Whisper, Qwen2-Audio and their kin.

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

    Raises
    ------
    MaterializeError
        For another padding.

    References
    ----------
    transformers 5.23.0, ``WhisperFeatureExtractor``. docs/media-pool.md says how near the two are,
    and why no nearer.

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

    def __post_init__(self) -> None:
        if self.padding not in ("max_length", "do_not_pad"):
            raise MaterializeError(
                f"expected a padding of 'max_length' or 'do_not_pad', got {self.padding!r}",
                path="$.padding",
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any], **overrides: Any) -> WhisperProcessor:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value has no meaning, or asks for dither or normalization, which are not done.

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
                    f"expected no {name}, got {values[name]!r}",
                    path=f"$.{name}",
                    hint="use transformers' own extractor as the processor",
                )
        fields["return_attention_mask"] = bool(values.get("return_attention_mask"))
        return cls(**{**fields, **overrides})

    def __call__(self, audio: Audio) -> Outcome:
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
        features = log_mel(
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
        return Outcome(
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
    """Return the scaled log-mel spectrogram of samples that are followed by silence.

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
