"""A request of images, video and sound goes through worker processes into one message, once."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from transformers import WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import mmformat as mm
from mmformat.codec import decode, encode
from mmformat.media import load_audio, materialize, open_video
from mmformat.media.audio import WhisperProcessor
from mmformat.media.pool import MaterializePool
from mmformat.media.processors import processor_from_config
from mmformat.media.video_processors import QwenVLVideoProcessor
from tests.support.requests import request_of

DATA = Path(__file__).parents[1] / "data"
VIDEO = DATA / "video" / "coffee-rocket-320x240.mp4"
SPEECH = DATA / "audio" / "speech-22050-mono.flac"

PROCESSORS = {
    mm.Modality.IMAGE: processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"}),
    mm.Modality.VIDEO: QwenVLVideoProcessor(fps=1.0),
    mm.Modality.AUDIO: WhisperProcessor(),
}

pytestmark = pytest.mark.timeout(180)


def test_what_a_rank_decodes_is_what_transformers_makes(photos: dict[str, Path]) -> None:
    given = mm.MultimodalInputs(
        items=[
            mm.MultimodalDataItem(
                modality=mm.Modality.IMAGE,
                feature=mm.Source(photos["coffee-600x400.jpg"].read_bytes()),
                offsets=[(3, 300)],
            ),
            mm.MultimodalDataItem(modality=mm.Modality.VIDEO, feature=mm.Source(VIDEO)),
            mm.MultimodalDataItem(modality=mm.Modality.AUDIO, feature=mm.Source(SPEECH)),
        ],
        request_data={"im_token_id": 151655},
    )
    with pytest.raises(mm.EncodeError):
        encode(given)
    with MaterializePool(2, "process", processor=PROCESSORS) as pool:
        materialized = pool.submit(given).result()
    assert materialize(materialized).items[0] is materialized.items[0]
    received = decode(bytes(encode(materialized)))
    image, video, audio = received.items

    with Image.open(photos["coffee-600x400.jpg"]) as opened:
        theirs = Qwen2VLImageProcessorPil()(images=opened, return_tensors="np")
    np.testing.assert_array_equal(
        np.asarray(image.feature).view(np.uint32), theirs["pixel_values"].view(np.uint32)
    )
    np.testing.assert_array_equal(
        image.model_specific_data["image_grid_thw"], theirs["image_grid_thw"]
    )
    with open_video(mm.Source(VIDEO)) as opened_video:
        alone = PROCESSORS[mm.Modality.VIDEO](opened_video, encoding="plain")
    np.testing.assert_array_equal(
        np.asarray(video.feature).view(np.uint32), np.asarray(alone.feature).view(np.uint32)
    )
    samples = load_audio(mm.Source(SPEECH)).mono(sample_rate_hz=16_000)
    frames = WhisperFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="np")
    np.testing.assert_allclose(audio.feature, frames["input_features"], atol=2e-4)

    for sent, got in zip(materialized.items, received.items, strict=True):
        assert (sent.hash, sent.identity, sent.pad_value) == (got.hash, got.identity, got.pad_value)
    assert image.offsets == [(3, 300)]
    assert received.request_data == {"im_token_id": 151655}


def test_every_request_is_answered_while_workers_are_killed(photos: dict[str, Path]) -> None:
    names = ["astronaut-face-224.png", "gravel-224-gray.png", "flower-rgba.png"]
    expected = {
        name: materialize(request_of(mm.Source(photos[name])), PROCESSORS).items[0].identity
        for name in names
    }
    before = {child.pid for child in psutil.Process().children()}
    stop = threading.Event()
    choose = random.Random(5)
    killed = 0

    def kill_now_and_then() -> None:
        nonlocal killed
        while not stop.wait(0.4):
            workers = [c.pid for c in psutil.Process().children() if c.pid not in before]
            if workers:
                os.kill(choose.choice(workers), signal.SIGKILL)
                killed += 1

    with MaterializePool(2, "process", processor=PROCESSORS) as pool:
        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            asked = names * 20
            results = list(
                pool.map((request_of(mm.Source(photos[name])) for name in asked), errors="return")
            )
        finally:
            stop.set()
            killer.join()
        restarts = pool.restarts
        last = list(pool.map(request_of(mm.Source(photos[name])) for name in names))
    assert len(results) == len(asked)
    for name, result in zip(asked, results, strict=True):
        if isinstance(result, mm.MMFormatError):
            # killed twice in a row: said so, and nobody else's affair
            assert result.code == "worker-died"
        else:
            assert result.items[0].identity == expected[name]
    assert killed == 0 or restarts > 0
    assert [each.items[0].identity for each in last] == [expected[name] for name in names]
    assert {child.pid for child in psutil.Process().children()} <= before
