"""From a JPEG to the input of a Qwen2-VL vision tower on every rank, way beside way."""

from __future__ import annotations

import importlib
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import torch
from blake3 import blake3
from PIL import Image

from benchmarks.baselines.segment_per_tensor import SegmentPerTensorMethod
from benchmarks.payloads import PHOTOS
from benchmarks.placement.one_device import device_facts
from mmformat.arena import Arena
from mmformat.bench.crew import Crew
from mmformat.bench.measure import Samples, clock_ns, environment, turns
from mmformat.media import materialize
from mmformat.media.image import QwenVLImageProcessor
from mmformat.model import Modality, MultimodalDataItem, MultimodalInputs, Source

__all__ = ["make_tower", "reference_processor", "run_tower"]

_QWEN: Final = "transformers.models.qwen2_vl"
EDGE: Final = 1036
"""Pixels; 5,476 patches, 25.8 MB as float32."""

TOWER_WAYS: Final = (
    "mmformat",
    "mmformat-plain",
    "segment-per-tensor",
    "pickle",
    "transformers-pickle",
)


def make_tower(device: torch.device) -> Any:
    """Return a small vision tower of transformers' own class, the same in every process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what transformers says about itself
        from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
        from transformers.models.qwen2_vl.modeling_qwen2_vl import (
            Qwen2VisionTransformerPretrainedModel,
        )
    torch.manual_seed(0)
    made: Any = Qwen2VLVisionConfig
    config = made(depth=2, embed_dim=128, num_heads=4, hidden_size=256, mlp_ratio=2)
    tower: Any = Qwen2VisionTransformerPretrainedModel(config)
    return tower.to(device).eval()


def reference_processor() -> Callable[[Image.Image], tuple[torch.Tensor, torch.Tensor]]:
    """Return transformers' own processor, on Pillow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module(f"{_QWEN}.image_processing_pil_qwen2_vl")
            found: Any = module.Qwen2VLImageProcessorPil
        except ImportError:
            module = importlib.import_module(f"{_QWEN}.image_processing_qwen2_vl")
            found = module.Qwen2VLImageProcessor
    processor = found(max_pixels=EDGE * EDGE)

    def process(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        made = processor(images=[image], return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]

    return process


def run_tower(*, ranks: int | None = None, rounds: int = 8) -> dict[str, Any]:
    """Measure every way on all devices, and compare the towers' outputs, bit for bit.

    Returns
    -------
    dict
        ``cells`` with ``materialize_ns``, ``deliver_ns`` from there until the last rank holds the
        tower's input on its device, and ``request_ns``, the two together. ``equal`` says whether
        every rank's output was that of transformers' own pipeline.
    """
    world = ranks or torch.cuda.device_count()
    device = torch.device("cuda", 0)
    tower, process = make_tower(device), reference_processor()
    samples = {
        name: {key: Samples("ns") for key in ("materialize_ns", "deliver_ns", "request_ns")}
        for name in TOWER_WAYS
    }
    equal = dict.fromkeys(TOWER_WAYS, True)
    with Arena.create(nbytes=2**28, ranks=world) as arena, Crew() as crew:
        ends = []
        for number in range(world):
            ours, theirs = crew.pipe()
            crew.start(f"rank {number}", _rank, number, arena.name, theirs)
            ends.append(ours)
        for end in ends:
            _answer(end, crew)
        images = list(_jpegs(rounds + 1))
        wanted = [_expected(image, tower, process, device) for image in images]
        producer = _Producer(arena, process)
        for turn in turns(list(TOWER_WAYS), rounds=rounds):
            start_ns = clock_ns()
            made = producer.materialize(turn.name, images[turn.number])
            made_ns = clock_ns()
            frame = producer.offer(turn.name, made)
            for end in ends:
                end.send((turn.name, None))
                end.send_bytes(frame)
            answers = [_answer(end, crew) for end in ends]
            ready_ns = max(each for each, _ in answers)
            producer.settle()
            if turn.is_recorded:
                cell = samples[turn.name]
                cell["materialize_ns"].values.append(made_ns - start_ns)
                cell["deliver_ns"].values.append(ready_ns - made_ns)
                cell["request_ns"].values.append(ready_ns - start_ns)
            equal[turn.name] &= all(each == wanted[turn.number] for _, each in answers)
        for end in ends:
            end.send((None, None))
        for end in ends:
            _answer(end, crew)
    return {
        "scenario": "tower",
        "environment": environment(),
        "devices": device_facts(),
        "ranks": world,
        "image": f"JPEG {EDGE} x {EDGE}",
        "cells": [
            {
                "way": name,
                "equal": equal[name],
                **{key: each.to_json() for key, each in samples[name].items()},
            }
            for name in TOWER_WAYS
        ],
    }


def _jpegs(count: int) -> Iterator[bytes]:
    # Another picture in each round: content that the arena has already is not copied again.
    with Image.open(PHOTOS["retina-1411.jpg"]) as opened:
        image = opened.convert("RGB").resize((EDGE, EDGE), Image.Resampling.LANCZOS)
    for number in range(count):
        file = io.BytesIO()
        image.rotate(360 * number / count).save(file, "JPEG", quality=95)
        yield file.getvalue()


def _expected(data: bytes, tower: Any, process: Any, device: torch.device) -> str:
    with Image.open(io.BytesIO(data)) as opened:
        pixels, grid = process(opened)
    return _digest(tower, pixels.to(device), grid.to(device))


def _digest(tower: Any, pixels: torch.Tensor, grid: torch.Tensor) -> str:
    with torch.no_grad():
        made = tower(pixels, grid_thw=grid)
    output = made if isinstance(made, torch.Tensor) else made.pooler_output
    return blake3(output.float().cpu().numpy().tobytes()).hexdigest()


class _Producer:
    """The producer's part of every way."""

    def __init__(self, arena: Arena, process: Any) -> None:
        ours = QwenVLImageProcessor(max_pixels=EDGE * EDGE)
        self._arena = arena
        self._process = process
        self._processors = {
            "mmformat": partial(ours, encoding="dictionary", dtype="float32"),
            "plain": partial(ours, encoding="plain", dtype="float32"),
        }
        self._segments = SegmentPerTensorMethod()

    def materialize(self, way: str, data: bytes) -> MultimodalInputs:
        """Turn a JPEG into inputs."""
        if way == "transformers-pickle":
            with Image.open(io.BytesIO(data)) as opened:
                pixels, grid = self._process(opened)
            return MultimodalInputs(items=[_item(pixels, grid)])
        item = MultimodalDataItem(modality=Modality.IMAGE, feature=Source(data))
        processor = self._processors["mmformat" if way == "mmformat" else "plain"]
        return materialize(MultimodalInputs(items=[item]), processor)

    def offer(self, way: str, inputs: MultimodalInputs) -> bytes:
        """Return what every rank is sent."""
        if way.startswith("mmformat"):
            return bytes(self._arena.put(inputs, timeout_s=10))
        item: Any = inputs.items[0]
        pixels = torch.as_tensor(item.feature)
        grid = torch.as_tensor(item.model_specific_data["image_grid_thw"])
        if way == "segment-per-tensor":
            plain = MultimodalInputs(items=[_item(pixels, grid)])
            return bytes(self._segments.encode(plain)[0])
        return pickle.dumps((pixels.numpy(), np.asarray(grid)), protocol=5)

    def settle(self) -> None:
        """Give back what the last request used."""
        self._segments.reclaim()
        if not self._arena.wait_released(timeout_s=10):
            raise RuntimeError("expected every rank to release its slot")


def _item(pixels: torch.Tensor, grid: torch.Tensor) -> MultimodalDataItem:
    return MultimodalDataItem(
        modality=Modality.IMAGE, feature=pixels, model_specific_data={"image_grid_thw": grid}
    )


def _answer(end: Connection, crew: Crew) -> Any:
    while not end.poll(0.2):
        crew.check()
    return end.recv()


def _rank(number: int, arena: str, end: Connection) -> None:
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    tower = make_tower(device)
    segments = SegmentPerTensorMethod()
    with Arena.attach(arena, rank=number, device=device) as rank:
        end.send(rank.placement.registered)
        while True:
            way, _ = end.recv()
            if way is None:
                break
            frame = end.recv_bytes()
            pixels: Any
            grid: Any
            if way.startswith("mmformat"):
                item: Any = rank.get(frame).items[0]
                pixels, grid = item.feature, item.model_specific_data["image_grid_thw"]
            elif way == "segment-per-tensor":
                item = segments.decode([frame]).items[0]
                pixels = item.feature.to(device)
                grid = item.model_specific_data["image_grid_thw"].to(device)
            else:
                pixels, grid = (torch.from_numpy(each).to(device) for each in pickle.loads(frame))
            torch.cuda.synchronize(device)
            ready_ns = clock_ns()
            digest = _digest(tower, pixels, grid)
            del pixels, grid, frame
            item = None
            end.send((ready_ns, digest))
    end.send(None)
