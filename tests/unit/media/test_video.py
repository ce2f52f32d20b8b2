"""Frames are chosen as transformers chooses them, decoded once, and patched to the same bits."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata, read_video_pyav

import mmformat as mm
from mmformat.media import Video, materialize, open_video
from mmformat.media.image import Normalization
from mmformat.media.video_processors import (
    Qwen3VLVideoProcessor,
    QwenVLVideoProcessor,
    sample_frames,
)

DATA = Path(__file__).parents[2] / "data" / "video"
EXPECTED = json.loads((DATA / "expected-qwen2-vl.json").read_text())
EXPECTED_3 = json.loads((DATA / "expected-qwen3-vl.json").read_text())
MP4 = DATA / "coffee-rocket-320x240.mp4"
SMALL = {"min_pixels": 56 * 56, "max_pixels": 40 * 28 * 28}


def _values_of(feature: Any) -> np.ndarray:
    expanded = feature.expand() if isinstance(feature, mm.DictionaryTensor) else feature
    return np.ascontiguousarray(expanded)


def _crops(photo: Path, count: int, height: int, width: int) -> np.ndarray:
    with Image.open(photo) as image:
        pixels = np.asarray(image.convert("RGB"))
    return np.stack([pixels[i : i + height, 2 * i : 2 * i + width] for i in range(count)])


def _video_of(frames: np.ndarray, fps: float | None) -> Video:
    video = open_video(mm.Source(frames))
    video.fps = fps
    return video


# ---------------------------------------------------------------- against transformers' processor


CASES = [
    *((QwenVLVideoProcessor, case) for case in EXPECTED["cases"]),
    *((Qwen3VLVideoProcessor, case) for case in EXPECTED_3["cases"]),
]


@pytest.mark.parametrize(("kind", "case"), CASES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("encoding", ["dictionary", "plain"])
def test_the_bits_are_those_of_transformers(
    kind: type[QwenVLVideoProcessor], case: dict[str, Any], encoding: Any, photos: dict[str, Path]
) -> None:
    settings = {
        name: value
        for name, value in case.items()
        if name not in {"frames", "video_fps", "grid", "shape", "sha256"}
    }
    processor = kind(**{"fps": None, **settings})
    frames = _crops(photos[EXPECTED["photo"]], *case["frames"])
    made = processor(_video_of(frames, case["video_fps"]), encoding=encoding)
    values = _values_of(made.feature)
    assert values.shape == tuple(case["shape"])
    assert made.model_specific_data["video_grid_thw"].tolist() == case["grid"]
    assert hashlib.sha256(values.tobytes()).hexdigest() == case["sha256"]


def _transformers_sample_frames() -> Any:
    # The module imports torchvision, which the tests do without; the method itself does not use it.
    spec = importlib.util.find_spec("transformers.models.qwen2_vl")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / "video_processing_qwen2_vl.py"
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "sample_frames":
            namespace = {"torch": torch, "math": math, "VideoMetadata": VideoMetadata}
            exec(compile(ast.Module([node], []), str(file), "exec"), namespace)
            return namespace["sample_frames"]
    raise AssertionError("transformers has no sample_frames any more")


class _Defaults:
    num_frames = None
    fps = None
    temporal_patch_size = 2
    min_frames = 4
    max_frames = 768


COUNTS = [4, 5, 7, 16, 25, 49, 100, 233, 750, 1234, 3001, 54000, 107892, 215999]


@pytest.mark.parametrize("frame_count", COUNTS)
def test_the_indices_are_those_of_transformers(frame_count: int) -> None:
    theirs = _transformers_sample_frames()
    seen = 0
    for video_fps in (7.0, 23.976, 30000 / 1001, 60.0):
        metadata = VideoMetadata(total_num_frames=frame_count, fps=video_fps)
        for name, value in [
            *(("fps", fps) for fps in (0.3, 1.0, 2.0, 3.7, 24.0)),
            *(("num_frames", count) for count in (4, 6, 9, 62, 128, 538, 682, 767)),
        ]:
            arguments = {name: value}
            try:
                expected = theirs(_Defaults(), metadata, **arguments).numpy()
            except ValueError:
                with pytest.raises(mm.MaterializeError):
                    sample_frames(frame_count, video_fps, **arguments)
                continue
            # Theirs may name the frame after the last one, which its decoder never meets.
            expected = expected[expected < frame_count]
            found = sample_frames(frame_count, video_fps, **arguments)
            np.testing.assert_array_equal(found, expected, err_msg=str((video_fps, arguments)))
            seen += 1
    assert seen > 10


@pytest.mark.parametrize("name", ["coffee-rocket-320x240.mp4", "chelsea-176x144.avi"])
def test_the_frames_are_those_that_transformers_decodes(name: str) -> None:
    indices = [0, 3, 4, 17, 29]
    theirs, metadata = read_video_pyav(str(DATA / name), lambda metadata, **_: indices)
    with open_video(mm.Source(DATA / name)) as video:
        ours = np.stack(list(video.frames(indices)))
        assert video.frame_count == metadata.total_num_frames
        assert video.fps == metadata.fps
        assert (video.height, video.width) == ours.shape[1:3]
    np.testing.assert_array_equal(ours, theirs)


def test_bytes_a_path_and_a_file_give_the_same_frames() -> None:
    data = MP4.read_bytes()
    found = []
    with MP4.open("rb") as file:
        for source in (mm.Source(data), mm.Source(MP4), mm.Source(file)):
            with open_video(source) as video:
                found.append(np.stack(list(video.frames([0, 70, 149]))))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_frames_are_counted_where_the_file_does_not_say() -> None:
    path = DATA / "chelsea-176x144.webm"
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    with open_video(mm.Source(path)) as video:
        assert video.frame_count == 40
        assert len(list(video.frames(range(40)))) == 40


def test_only_the_wanted_frames_are_turned_into_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    made = QwenVLVideoProcessor(fps=2.0, **SMALL)
    converted = []
    from mmformat.media import video as clip

    original = clip._pixels_of
    monkeypatch.setattr(clip, "_pixels_of", lambda frame: converted.append(1) or original(frame))
    with open_video(mm.Source(MP4)) as video:
        made(video)
    assert len(converted) == 10


def test_a_video_is_materialized_and_closed() -> None:
    item = mm.MultimodalDataItem(
        modality=mm.Modality.VIDEO, feature=[mm.Source(MP4), mm.Source(MP4)]
    )
    processor = {mm.Modality.VIDEO: QwenVLVideoProcessor(fps=1.0, **SMALL)}
    (made,) = materialize(mm.MultimodalInputs(items=[item]), processor).items
    assert made.model_specific_data["video_grid_thw"].tolist() == [[2, 10, 14]] * 2
    assert made.model_specific_data["second_per_grid_ts"].shape == (2,)
    assert made.frozen


def test_pillow_differs_from_torch_by_little(photos: dict[str, Path]) -> None:
    frames = _crops(photos["coffee-600x400.jpg"], 8, 240, 320)
    codes = [
        QwenVLVideoProcessor(fps=None, backend=backend, **SMALL)(
            _video_of(frames, None)
        ).feature.codes
        for backend in ("torchvision", "pil")
    ]
    difference = np.abs(codes[0].astype(int) - codes[1])
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.01


# ------------------------------------------------------------------------------------- what fails


def test_a_file_that_ends_before_its_header_says_is_refused() -> None:
    frames = iter(np.zeros((3, 4, 4, 3), np.uint8))
    video = Video(
        frame_count=100, fps=25.0, height=4, width=4, read=lambda wanted: frames, path="$.x"
    )
    with pytest.raises(mm.MaterializeError, match="100 frames") as caught:
        list(video.frames([0, 1, 2, 50]))
    assert (caught.value.code, caught.value.path) == ("video-short", "$.x")


def test_a_miscount_at_the_end_is_left_out() -> None:
    frames = iter(np.zeros((3, 4, 4, 3), np.uint8))
    video = Video(frame_count=100, fps=25.0, height=4, width=4, read=lambda wanted: frames)
    assert len(list(video.frames([0, 1, 2, 98]))) == 3


@pytest.mark.parametrize("indices", [[3, 2], [1, 1], [-1, 2]])
def test_indices_ascend(indices: list[int]) -> None:
    with pytest.raises(mm.MaterializeError, match="must ascend"):
        list(open_video(mm.Source(np.zeros((4, 2, 2, 3), np.uint8))).frames(indices))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 2, 2), np.uint8),
        np.zeros((4, 2, 2, 3), np.float32),
        np.zeros((0, 2, 2, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_frames_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(mm.MaterializeError):
        open_video(mm.Source(frames))


def test_bounds_hold_before_a_frame_is_decoded() -> None:
    with pytest.raises(mm.LimitError, match="320 x 240"):
        open_video(mm.Source(MP4, max_pixels=320 * 240 - 1))
    with pytest.raises(mm.LimitError, match="5 s"):
        open_video(mm.Source(MP4, max_duration_s=4.9))
    with pytest.raises(mm.LimitError, match="bytes of media"):
        open_video(mm.Source(MP4, max_nbytes=1000))


def test_settings_come_from_a_configuration() -> None:
    values = {
        "size": {"shortest_edge": 3136, "longest_edge": 12845056},
        "fps": 1,
        "max_frames": 16,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "temporal_patch_size": 2,
    }
    processor = QwenVLVideoProcessor.from_values(values)
    assert (processor.fps, processor.max_frames, processor.max_pixels) == (1, 16, 12845056)
    assert processor.normalization.mean == (0.5, 0.5, 0.5)
    every = QwenVLVideoProcessor.from_values({"do_sample_frames": False})
    assert (every.fps, every.num_frames) == (None, None)
    with pytest.raises(mm.MaterializeError, match=r"\$\.patch_size"):
        QwenVLVideoProcessor.from_values({"patch_size": "14"})
    with pytest.raises(mm.MaterializeError, match="backend"):
        QwenVLVideoProcessor(backend="cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"video_processor_type": "Qwen3VLVideoProcessor"},
        {"video_processor_type": "LlavaOnevisionVideoProcessor"},
        {"do_resize": False},
        {"size": 5, "patch_size": 0},
    ],
)
def test_another_processors_configuration_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(mm.MaterializeError):
        QwenVLVideoProcessor.from_values(values)


def test_qwen3s_configuration_has_its_own_defaults() -> None:
    made = Qwen3VLVideoProcessor.from_values({"video_processor_type": "Qwen3VLVideoProcessor"})
    assert made == Qwen3VLVideoProcessor()
    assert (made.patch_size, made.fps) == (16, 2.0)
    with pytest.raises(mm.MaterializeError, match="Qwen3"):
        Qwen3VLVideoProcessor.from_values({"video_processor_type": "Qwen2VLVideoProcessor"})
    for frames, settings in ((3, {"num_frames": 4}), (1, {"fps": None})):
        with pytest.raises(mm.MaterializeError) as caught:
            Qwen3VLVideoProcessor(**settings)(
                open_video(mm.Source(np.zeros((frames, 64, 64, 3), np.uint8)))
            )
        assert caught.value.code == "too-few-frames"


@pytest.mark.parametrize("rescale", [1 / 255, 1 / 127.5, None])
@pytest.mark.parametrize("mean", [(0.48145466, 0.4578275, 0.40821073), None])
def test_the_table_is_torchs_arithmetic(
    rescale: float | None, mean: tuple[float, ...] | None
) -> None:
    std = None if mean is None else (0.26862954, 0.26130258, 0.27577711)
    table = Normalization(fused=True, rescale_factor=rescale, mean=mean, std=std).table(3)
    values = torch.arange(256, dtype=torch.uint8)[None].expand(3, 256)
    if mean is None:
        expected = values.float() if rescale is None else values * rescale
    else:
        scale = 1.0 if rescale is None else 1.0 / rescale
        expected = values.float().sub(torch.tensor(mean)[:, None] * scale)
        expected = expected.div(torch.tensor(std)[:, None] * scale)
    np.testing.assert_array_equal(table, expected.numpy())


# ---------------------------------------------------------------------- what a file really shows


def _encoded(
    container: str, count: int, *, pts: list[int] | None = None, time_base: Fraction | None = None
) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream("libx264", rate=24, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.gop_size = count
        if time_base is not None:
            stream.codec_context.time_base = time_base
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), index, np.uint8))
            if pts is not None:
                frame.pts, frame.time_base = pts[index], time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def _shown(data: bytes) -> tuple[Video, list[np.ndarray]]:
    with open_video(mm.Source(data)) as video:
        return video, list(video.frames(range(video.frame_count)))


def test_an_edit_list_hides_frames() -> None:
    source = av.open(io.BytesIO(_encoded("mp4", 120)))
    stream = source.streams.video[0]
    shift = int(Fraction(30, 24) / stream.time_base)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as cut:
        copy = cut.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = copy
                cut.mux(packet)
    video, frames = _shown(out.getvalue())
    assert video.frame_count == len(frames) == 90
    assert abs(int(frames[0].mean()) - 30) <= 2  # the first that is shown, not the first stored
    assert video.fps == 24.0
    np.testing.assert_allclose(np.diff(video.pts_s), 1 / 24, atol=1e-4)


def test_a_header_that_counts_too_few_frames_hides_none() -> None:
    data = bytearray(_encoded("avi", 40))
    at = data.index(b"avih") + 8
    assert int.from_bytes(data[at + 16 : at + 20], "little") == 40
    data[at + 16 : at + 20] = (7).to_bytes(4, "little")
    length_at = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[length_at : length_at + 4], "little") == 40
    data[length_at : length_at + 4] = (7).to_bytes(4, "little")
    video, frames = _shown(bytes(data))
    assert video.frame_count == len(frames) == 40


@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_the_rate_of_frames_at_uneven_times_is_their_average(container: str) -> None:
    pts = [0, 40, 80, 120, 1_120, 2_120, 3_120, 3_160, 3_200, 4_200]
    video, frames = _shown(_encoded(container, 10, pts=pts, time_base=Fraction(1, 1000)))
    assert len(frames) == 10
    np.testing.assert_allclose(video.pts_s - video.pts_s[0], np.array(pts) / 1000, atol=1e-3)
    assert video.fps == pytest.approx(9 / 4.2, rel=1e-3)


@pytest.mark.parametrize("container", ["matroska", "mp4", "avi"])
def test_the_rate_of_frames_at_even_times_is_the_nominal_one(container: str) -> None:
    assert _shown(_encoded(container, 25))[0].fps == 24.0
