"""Inputs with a tensor of every kind that goes its own way to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmformat as mm
from mmformat.bench.payloads import tensors_of


def make_inputs(*, rows: int, seed: int = 0, with_dictionary: bool = True) -> mm.MultimodalInputs:
    """Return plain, dictionary, odd-sized, inline, empty and numpy tensors."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(rows, 1176, generator=generator)
    codes = mm.DictionaryTensor(
        torch.randint(0, 256, (rows, 3, 14, 14), dtype=torch.uint8, generator=generator),
        torch.randn(3, 256, generator=generator),
        axis=1,
        repeat_axis=2,
        repeat=2,
        shape=(rows, 1176),
    )
    short = mm.DictionaryTensor(
        torch.randint(0, 7, (5, 11), dtype=torch.uint8, generator=generator),
        torch.randn(1, 7, generator=generator).to(torch.bfloat16),
    )
    item = mm.MultimodalDataItem(
        modality="IMAGE",
        feature=patches,
        offsets=[(3, 12)],
        model_specific_data={
            "image_grid_thw": torch.tensor([[1, 10, rows // 10]]),
            "inline": torch.tensor([1, 2, 3], dtype=torch.int16),
            "scalar": torch.tensor(2.5),
            "empty": torch.empty(0, 4),
            "numpy": np.arange(77, dtype=np.int64),
            "flags": torch.arange(33) % 3 == 0,
        },
    )
    request: dict[str, Any] = {
        "m": torch.randn(7, 13, generator=generator).to(torch.bfloat16),
        "f8": torch.randn(99, generator=generator).to(torch.float8_e4m3fn),
    }
    if with_dictionary:
        request |= {"codes": codes, "short": short}
    return mm.MultimodalInputs(items=[item], request_data=request)


def sources(message: mm.EncodedMessage, folder: Path) -> dict[str, Any]:
    """Return the same message as everything that decode takes."""
    path = folder / "message.arrows"
    message.save(path)
    return {
        "message": message,
        "bytes": bytes(message),
        "frames": [bytes(frame) for frame in message.frames],
        "path": path,
    }


def assert_same(found: mm.MultimodalInputs, expected: mm.MultimodalInputs, *, device: str) -> None:
    """Compare every tensor bit for bit, and where it lies."""
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=True))
    assert pairs
    for one, other in pairs:
        wanted = torch.from_numpy(other.copy()) if isinstance(other, np.ndarray) else other
        assert str(one.device) == device
        assert one.dtype == wanted.dtype
        assert one.shape == wanted.shape
        bits = wanted.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(one.contiguous().reshape(-1).view(torch.uint8).cpu(), bits)
    assert found.items[0].offsets == expected.items[0].offsets
