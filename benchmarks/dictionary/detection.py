"""Finding a dictionary in a finished tensor, and turning embeddings away, beside a copy of it."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image

from benchmarks.dictionary.subjects import NAMES, QWEN, jpeg
from mmformat.measure import Case, interleaved
from mmformat.media.detect import find_dictionary
from mmformat.media.processors import processor_from_config

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
EMBEDDINGS = ((5476, 1176), (1225, 3584), (2048, 1536))


def run(rounds: int) -> list[dict[str, Any]]:
    """Return a row for each tensor."""
    torch.set_num_threads(1)
    image = Image.open(io.BytesIO(jpeg(NAMES[0], 1024, 1024)))
    subjects: dict[str, Any] = {}
    square = {"height": 1024, "width": 1024}
    for kind, values in (
        ("Qwen2VL", QWEN),
        ("CLIP", {"size": square, "do_center_crop": False}),
    ):
        ours = processor_from_config({"image_processor_type": f"{kind}ImageProcessor", **values})
        for dtype in ("float32", "bfloat16", "float16"):
            pixels = ours(image, encoding="plain", dtype=dtype).feature
            subjects[f"{kind} pixels"] = [*subjects.get(f"{kind} pixels", []), pixels]
    generator = torch.Generator().manual_seed(0)
    for shape in EMBEDDINGS:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            values = torch.randn(shape, generator=generator).to(dtype)
            subjects.setdefault("Gaussian embeddings", []).append(values)
    rows = []
    for name, tensors in subjects.items():
        for tensor in tensors:
            rows.append(_row(name, tensor, rounds))
    return rows


def _row(name: str, tensor: Any, rounds: int) -> dict[str, Any]:
    raw = torch.as_tensor(tensor).reshape(-1).view(torch.uint8)
    target = torch.empty_like(raw)
    found = find_dictionary(tensor)
    if found is not None and not torch.equal(
        torch.as_tensor(found.expand()).reshape(-1).view(torch.uint8), raw
    ):
        raise SystemExit(f"{name}: other bits")
    samples = interleaved(
        [
            Case(name="find", run=lambda: find_dictionary(tensor)),
            Case(name="hinted", run=lambda: find_dictionary(tensor, mean=CLIP_MEAN, std=CLIP_STD)),
            Case(name="memcpy", run=lambda: target.copy_(raw)),
        ],
        rounds=rounds,
        repeats=3,
    )
    find, hinted, copy = (samples[case].median for case in ("find", "hinted", "memcpy"))
    kind = f"{name:20} {tuple(tensor.shape)!s:18} {str(tensor.dtype).removeprefix('torch.'):9}"
    if found is None:
        text = f"{kind} turned away in {find / 1e3:5.1f} us, {100 * find / copy:4.1f} % of a memcpy"
    else:
        text = (
            f"{kind} {raw.nbytes / find:5.2f} GB/s, hinted {raw.nbytes / hinted:5.2f}, "
            f"memcpy {raw.nbytes / copy:5.1f}"
        )
    return {"text": text, "samples": {key: each.to_json() for key, each in samples.items()}}
