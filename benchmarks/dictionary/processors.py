"""CPU of JPEG -> message of codes, beside transformers' PIL processor alone on decoded pixels."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image

import mmformat as mm
from benchmarks.dictionary.subjects import NAMES, QWEN, cpu_ms, jpeg
from mmformat.media.image.qwen_vl import write_patches
from mmformat.media.processors import processor_from_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SIZES = {"1024x1024": (1024, 1024), "4K": (3840, 2160)}


def run(rounds: int) -> list[dict[str, Any]]:
    """Return a row for each processor and size."""
    makes = {
        "Qwen2-VL": (
            Qwen2VLImageProcessorPil(**QWEN),
            processor_from_config({"image_processor_type": "Qwen2VLImageProcessor", **QWEN}),
        ),
        "CLIP": (
            CLIPImageProcessorPil(),
            processor_from_config({"image_processor_type": "CLIPImageProcessor"}),
        ),
    }
    rows = []
    for kind, (theirs, ours) in makes.items():
        for size, (width, height) in SIZES.items():
            file = jpeg(NAMES[0], width, height)
            loaded = Image.open(io.BytesIO(file))
            loaded.load()
            expected = np.asarray(theirs(loaded, return_tensors="np")["pixel_values"])
            if ours(loaded).feature.expand().tobytes() != expected.tobytes():
                raise SystemExit(f"{kind} {size}: other bits than transformers'")
            message = _message(ours(loaded))
            resized = loaded.resize((width // 28 * 28, height // 28 * 28), Image.Resampling.BICUBIC)
            samples = cpu_ms(
                {
                    "materialize+encode": lambda f=file, p=ours: _message(p(_open(f))),
                    "their processor": lambda i=loaded, p=theirs: p(i, return_tensors="np"),
                    "JPEG": lambda f=file: _open(f).load(),
                    "resize": lambda i=loaded, s=resized.size: i.resize(
                        s, Image.Resampling.BICUBIC
                    ),
                    "patches": lambda i=resized: _patches(i),
                },
                rounds if size != "4K" else max(3, rounds // 2),
            )
            mine, peer = samples["materialize+encode"].median, samples["their processor"].median
            text = (
                f"{kind:8} {size:9} JPEG -> message {mine:6.1f} ms CPU, transformers' processor "
                f"alone {peer:6.1f}: {mine / peer:.2f}; message 1/{expected.nbytes / message:.2f}"
            )
            parts = {name: each.to_json() for name, each in samples.items()}
            rows.append({"text": text, "samples": parts, "message_nbytes": message})
    return rows


def _open(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def _patches(image: Image.Image) -> None:
    count = image.height // 14 * (image.width // 14)
    write_patches(image, np.empty((count, 3, 14, 14), np.uint8), merge_size=2)


def _message(processed: Any) -> int:
    item = mm.MultimodalDataItem(
        modality=mm.Modality.IMAGE,
        feature=processed.feature,
        model_specific_data=processed.model_specific_data,
    )
    return mm.encode(mm.MultimodalInputs(items=[item])).nbytes
