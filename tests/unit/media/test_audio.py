"""Sound is decoded, resampled and turned into log-mel frames as the reference libraries do it."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from transformers import WhisperFeatureExtractor

import mmformat as mm
from mmformat.media import Audio, load_audio, materialize
from mmformat.media.audio import WhisperProcessor, resample

DATA = Path(__file__).parents[2] / "data" / "audio"
SPEECH = DATA / "speech-22050-mono.flac"
CHIME = DATA / "complete-stereo.ogg"
FILES = [SPEECH, CHIME]

ULP = 2.0**-23
"""Of float32 values from 1 to 2; the frames are below 2."""


def _wav(samples: np.ndarray, rate: int, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_samples_are_those_of_another_decoder(path: Path) -> None:
    theirs, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = load_audio(mm.Source(path))
    assert audio.sample_rate_hz == rate
    assert audio.samples.dtype == np.float32
    assert audio.samples.shape == theirs.T.shape
    # FLAC is exact; two Vorbis decoders may round the last bit apart
    bound = 0 if path.suffix == ".flac" else ULP
    assert np.abs(audio.samples - theirs.T).max() <= bound


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_every_sample_format_comes_out_as_floats(subtype: str) -> None:
    samples = np.linspace(-0.9, 0.9, 999).reshape(333, 3)
    data = _wav(samples, 16_000, subtype)
    theirs, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_allclose(load_audio(mm.Source(data)).samples, theirs.T, atol=ULP)


def test_the_sound_of_a_source_of_each_kind() -> None:
    data = SPEECH.read_bytes()
    expected = load_audio(mm.Source(SPEECH)).samples
    for source in (mm.Source(data), mm.Source(io.BytesIO(data))):
        np.testing.assert_array_equal(load_audio(source).samples, expected)
    array = load_audio(mm.Source(expected))
    assert array.sample_rate_hz is None
    assert np.shares_memory(array.samples, expected)


def test_resampling_gives_torchaudios_samples() -> None:
    samples = load_audio(mm.Source(SPEECH)).samples[0, 20_000:21_000]
    with np.load(DATA / "expected-resample.npz") as expected:
        assert len(expected.files) == 6
        for name in expected.files:
            before, after = map(int, name.split("-"))
            made = resample(samples, before, to_hz=after)
            assert made.shape == expected[name].shape
            # 40 products of float32 below 1, summed in another order
            np.testing.assert_allclose(made, expected[name], atol=4 * ULP, err_msg=name)


def test_equal_rates_copy_nothing() -> None:
    samples = np.ones(10, np.float32)
    assert resample(samples, 16_000, to_hz=16_000) is samples


def test_a_rate_without_a_common_factor_takes_little_memory() -> None:
    samples = np.ones(100_000, np.float32)
    tracemalloc.start()
    try:
        resample(samples, 767_999, to_hz=16_000)
        _, peak_nbytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_nbytes < 150 * 2**20


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 2**31])
def test_rates_out_of_bounds_are_refused(rate: int) -> None:
    with pytest.raises(mm.MaterializeError, match="rate"):
        resample(np.ones(10, np.float32), rate, to_hz=16_000)


# ------------------------------------------------------------- against transformers' extractor


def _extractors_values(
    extractor: WhisperFeatureExtractor, samples: np.ndarray, padding: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what transformers makes with torch, what it makes with numpy, and its mask."""
    made = extractor(
        samples,
        sampling_rate=16_000,
        return_tensors="np",
        return_attention_mask=True,
        padding=padding,
    )
    length = 480_000 if padding == "max_length" else min(len(samples), 480_000)
    padded = np.zeros((1, length), np.float32)
    padded[0, : len(samples)] = samples[:length]
    numpys = extractor._np_extract_fbank_features(padded, "cpu")
    return made.input_features, numpys, made.attention_mask


def _sounds() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(5).standard_normal(500_000).astype(np.float32)
    return {
        "speech": load_audio(mm.Source(SPEECH)).mono(sample_rate_hz=16_000),
        "chime": load_audio(mm.Source(CHIME)).mono(sample_rate_hz=16_000),
        "short": noise[:201],
        "odd": noise[:3001],
        "faint": noise[:40_000] * np.float32(1e-4),
        "full": noise[:480_000] * np.float32(0.1),
        "too long": noise * np.float32(0.1),
        "to the last half window": noise[: 480_000 - 199],
        "just short of it": noise[: 480_000 - 201],
        "silence": np.zeros(1000, np.float32),
    }


@pytest.mark.parametrize("name", _sounds())
@pytest.mark.parametrize("padding", ["max_length", "do_not_pad"])
@pytest.mark.parametrize("bands", [80, 128])
def test_the_frames_are_whispers(name: str, padding: Any, bands: int) -> None:
    samples = _sounds()[name]
    torchs, numpys, mask = _extractors_values(
        WhisperFeatureExtractor(feature_size=bands), samples, padding
    )
    values = {"feature_size": bands, "padding": padding, "return_attention_mask": True}
    in_torch = WhisperProcessor(**values)(Audio(samples[None], 16_000))
    assert in_torch.feature.tobytes() == torchs.tobytes()  # bit for bit
    np.testing.assert_array_equal(in_torch.model_specific_data["attention_mask"], mask)
    made = WhisperProcessor(**values, backend="numpy")(Audio(samples[None], 16_000))
    ours = made.feature
    assert ours.dtype == np.float32
    assert ours.shape == torchs.shape
    # Both in float64: what is left is the rounding to float32.
    assert np.abs(ours - numpys).max() <= 2 * ULP
    # Theirs with torch is float32 throughout; we are as far from it as transformers is from itself.
    assert np.abs(ours - torchs).max() <= np.abs(numpys - torchs).max() + 2 * ULP
    assert np.abs(ours - torchs).max() < 2e-4
    np.testing.assert_array_equal(made.model_specific_data["attention_mask"], mask)


@pytest.mark.parametrize(
    "values",
    [
        {"sampling_rate": 24_000},
        {"hop_length": 128},
        {"n_fft": 512, "hop_length": 200},
        {"chunk_length": 5},
        {"feature_size": 64, "chunk_length": 8},
    ],
    ids=str,
)
def test_every_option_follows_whispers_torch_path(values: dict[str, int]) -> None:
    extractor = WhisperFeatureExtractor(**values)
    processor = WhisperProcessor.from_values(extractor.to_dict())
    assert processor.backend == "torch"
    for samples in _sounds().values():
        rate = extractor.sampling_rate
        theirs = extractor(samples, sampling_rate=rate, return_tensors="np").input_features
        assert processor(Audio(samples[None], rate)).feature.tobytes() == theirs.tobytes()


def test_a_file_is_materialized() -> None:
    item = mm.MultimodalDataItem(modality=mm.Modality.AUDIO, feature=mm.Source(CHIME))
    (made,) = materialize(
        mm.MultimodalInputs(items=[item]), WhisperProcessor(dtype="float16")
    ).items
    assert made.feature.shape == (1, 80, 3000)
    assert made.feature.dtype == np.float16
    assert made.model_specific_data == {}


def test_the_sound_of_a_video_is_refused_where_there_is_none() -> None:
    video = DATA.parent / "video" / "coffee-rocket-320x240.mp4"
    with pytest.raises(mm.MaterializeError, match="no audio stream"):
        load_audio(mm.Source(video))
    with pytest.raises(mm.MaterializeError, match="no video stream"):
        from mmformat.media import open_video

        open_video(mm.Source(SPEECH))


def test_too_little_sound_is_refused() -> None:
    with pytest.raises(mm.MaterializeError, match="more than 200 samples"):
        WhisperProcessor(padding="do_not_pad")(Audio(np.zeros((1, 200), np.float32), 16_000))


def test_the_duration_bound_holds_whatever_the_header_says() -> None:
    with pytest.raises(mm.LimitError, match="of media"):
        load_audio(mm.Source(SPEECH, max_duration_s=4))
    # A header that gives no length: an endless WAV, as a stream would be.
    data = bytearray(_wav(np.zeros(32_000), 16_000))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    with pytest.raises(mm.LimitError):
        load_audio(mm.Source(bytes(data), max_duration_s=1))


@pytest.mark.parametrize(
    "array",
    [np.zeros(4, np.int16), np.zeros((2, 2, 2), np.float32), np.zeros(0, np.float32)],
)
def test_arrays_that_are_no_samples_are_refused(array: np.ndarray) -> None:
    with pytest.raises(mm.MaterializeError):
        load_audio(mm.Source(array))


def test_settings_come_from_a_configuration() -> None:
    made = WhisperProcessor.from_values(WhisperFeatureExtractor(feature_size=128).to_dict())
    assert made == WhisperProcessor(feature_size=128)
    for values in ({"hop_length": "160"}, {"dither": 0.1}, {"do_normalize": True}):
        with pytest.raises(mm.MaterializeError):
            WhisperProcessor.from_values(values)
    with pytest.raises(mm.MaterializeError, match="padding"):
        WhisperProcessor(padding="longest")  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100])
def test_an_mp3_of_any_rate_is_read(rate: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(rate, np.float32), rate, format="MP3")
    audio = load_audio(mm.Source(file.getvalue()))
    assert (audio.sample_rate_hz, audio.samples.shape[0]) == (rate, 1)
    assert abs(audio.samples.shape[1] - rate) < 2_400


@pytest.mark.parametrize("shape", [(480, 2), (2, 1), (16_000, 1)])
def test_samples_whose_channels_come_last_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(mm.MaterializeError, match="more channels than samples") as caught:
        load_audio(mm.Source(np.zeros(shape, np.float32)))
    assert caught.value.code == "channel-order"
    assert load_audio(mm.Source(np.zeros(shape, np.float32).T)).samples.shape == shape[::-1]
