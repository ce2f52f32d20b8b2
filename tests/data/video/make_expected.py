"""Write expected-qwen2-vl.json with transformers' own video processor, which needs torchvision.

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
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402

HERE = Path(__file__).parent
PHOTO = "coffee-600x400.jpg"


def crops(count, height, width):
    pixels = np.asarray(Image.open(HERE.parents[2] / "mmformat" / "bench" / "photos" / PHOTO).convert("RGB"))
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
for case in CASES:
    size = {"shortest_edge": case.get("min_pixels", 128 * 28 * 28), "longest_edge": case.get("max_pixels", 28 * 28 * 768)}
    named = {k: case[k] for k in ("max_frames", "temporal_patch_size", "patch_size", "max_video_tokens") if k in case}
    processor = Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=case.get("cap_pixels_per_frame", False), **named)
    processor.max_video_tokens = case.get("max_video_tokens", 128_000)
    frames = crops(*case["frames"])
    metadata = VideoMetadata(total_num_frames=len(frames), fps=case["video_fps"])
    sampling = {k: case[k] for k in ("fps", "num_frames") if k in case}
    indices = processor.sample_frames(metadata, **sampling) if sampling else np.arange(len(frames))
    made = processor(videos=[frames[indices]], do_sample_frames=False, return_tensors="pt", device="cpu")
    values = np.ascontiguousarray(made["pixel_values_videos"].numpy())
    case["grid"] = made["video_grid_thw"].tolist()
    case["shape"] = list(values.shape)
    case["sha256"] = hashlib.sha256(values.tobytes()).hexdigest()
versions = {"transformers": transformers.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__}
(HERE / "expected-qwen2-vl.json").write_text(json.dumps({"photo": PHOTO, **versions, "cases": CASES}, indent=1) + "\n")
