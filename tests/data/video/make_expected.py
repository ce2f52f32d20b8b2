"""Write expected-qwen2-vl.json and expected-qwen3-vl.json with transformers' own video processor, which needs torchvision.

The frames are crops of a photograph, so that no decoder or resizing of ours is in them. torchvision is not among the
tests' packages: its wheel for CUDA does not load beside torch for the CPU unless its operators are declared, as here.
"""
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402
import transformers  # noqa: E402
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor  # noqa: E402
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402

HERE = Path(__file__).parent
PHOTO = "coffee-600x400.jpg"


def crops(count, height, width):
    pixels = np.asarray(Image.open(HERE.parents[2] / "benchmarks" / "photos" / PHOTO).convert("RGB"))
    return np.stack([pixels[i : i + height, 2 * i : 2 * i + width] for i in range(count)])


CASES = [
    {"frames": [60, 240, 320], "video_fps": 24.0, "fps": 2.0},
    {"frames": [60, 240, 320], "video_fps": 30000 / 1001, "fps": 5.0, "max_pixels": 31360, "min_pixels": 3136},
    {"frames": [60, 321, 213], "video_fps": 25.0, "num_frames": 11, "min_pixels": 3136},
    {"frames": [61, 144, 176], "video_fps": 25.0, "min_pixels": 3136},
    {"frames": [60, 144, 176], "video_fps": 25.0, "fps": 10.0, "max_frames": 6, "min_pixels": 3136},
    {"frames": [60, 144, 176], "video_fps": 7.0, "fps": 1.0, "temporal_patch_size": 4},
    {"frames": [30, 144, 176], "video_fps": 25.0, "min_pixels": 3136, "temporal_patch_size": 4},
    {"frames": [30, 150, 170], "video_fps": 25.0, "patch_size": 16, "min_pixels": 3136},
    {"frames": [60, 300, 420], "video_fps": 24.0, "fps": 6.0, "min_pixels": 3136, "cap_pixels_per_frame": True,
     "max_video_tokens": 400},
]
QWEN3 = [
    {"frames": [60, 240, 320], "video_fps": 24.0, "fps": 2.0},
    {"frames": [60, 240, 320], "video_fps": 30000 / 1001, "fps": 5.0, "max_pixels": 200_000, "min_pixels": 4096},
    {"frames": [60, 321, 213], "video_fps": 25.0, "num_frames": 11},
    {"frames": [61, 20, 176], "video_fps": 25.0, "fps": 4.0, "min_pixels": 4096},
    {"frames": [60, 144, 176], "video_fps": 25.0, "fps": 10.0, "max_frames": 7, "min_pixels": 4096},
    {"frames": [60, 144, 176], "video_fps": 7.0, "fps": 1.0, "temporal_patch_size": 4},
    {"frames": [60, 300, 420], "video_fps": 24.0, "fps": 6.0, "min_pixels": 4096, "cap_pixels_per_frame": True,
     "max_video_tokens": 20},
]


def write(name, make, cases, shortest, longest):
    for case in cases:
        size = {"shortest_edge": case.get("min_pixels", shortest), "longest_edge": case.get("max_pixels", longest)}
        fields = ("max_frames", "temporal_patch_size", "patch_size", "max_video_tokens")
        named = {k: case[k] for k in fields if k in case}
        processor = make(size=size, cap_pixels_per_frame=case.get("cap_pixels_per_frame", False), **named)
        if "max_video_tokens" in case:
            processor.max_video_tokens = case["max_video_tokens"]
        frames = crops(*case["frames"])
        metadata = VideoMetadata(total_num_frames=len(frames), fps=case["video_fps"])
        sampling = {k: case[k] for k in ("fps", "num_frames") if k in case}
        indices = processor.sample_frames(metadata, **sampling) if sampling else np.arange(len(frames))
        made = processor(videos=[frames[indices]], do_sample_frames=False, return_tensors="pt", device="cpu")
        values = np.ascontiguousarray(made["pixel_values_videos"].numpy())
        case["grid"] = made["video_grid_thw"].tolist()
        case["shape"] = list(values.shape)
        case["sha256"] = hashlib.sha256(values.tobytes()).hexdigest()
    versions = {each.__name__: each.__version__ for each in (transformers, torch, torchvision)}
    (HERE / name).write_text(json.dumps({"photo": PHOTO, **versions, "cases": cases}, indent=1) + "\n")


write("expected-qwen2-vl.json", Qwen2VLVideoProcessor, CASES, 128 * 28 * 28, 28 * 28 * 768)
write("expected-qwen3-vl.json", Qwen3VLVideoProcessor, QWEN3, 128 * 32 * 32, 32 * 32 * 768)
