"""The expansion of codes alone, against the device's own copy of as many bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.placement.one_device import device_facts
from benchmarks.placement.requests import REQUESTS
from mmformat.bench.measure import Samples, environment
from mmformat.cuda import expand_on_device
from mmformat.model import DictionaryTensor

__all__ = ["run_expansion"]


def run_expansion(*, device: str = "cuda:0", rounds: int = 20) -> dict[str, Any]:
    """Time both kernels by CUDA events, for float32 and bfloat16, 25.8 and 200 MB of float32.

    Returns
    -------
    dict
        ``cells`` with ``ns`` and ``written_nbytes`` and ``read_nbytes``; ``copy`` reads and writes
        as many bytes as the expansion writes.
    """
    target = torch.device(device)
    torch.cuda.set_device(target)
    cells = []
    for name in ("25.8 MB", "200 MB"):
        for dtype in ("float32", "bfloat16"):
            made: Any = REQUESTS[name].make(dtype, seed=3).items[0].feature
            placed = DictionaryTensor(
                made.codes.to(target),
                made.table.to(target),
                axis=made.axis,
                repeat_axis=made.repeat_axis,
                repeat=made.repeat,
                shape=made.shape,
            )
            room = expand_on_device(placed, kernel="torch")
            other = torch.empty_like(room)
            runs: dict[str, Callable[[], object]] = {
                "triton": partial(expand_on_device, placed, kernel="triton"),
                "torch": partial(expand_on_device, placed, kernel="torch"),
                "copy": partial(other.copy_, room),
            }
            for kernel, run in runs.items():
                cells.append(
                    {
                        "request": name,
                        "dtype": dtype,
                        "kernel": kernel,
                        "written_nbytes": room.nbytes,
                        "read_nbytes": room.nbytes if kernel == "copy" else placed.codes.nbytes,
                        "ns": _timed(run, rounds).to_json(),
                    }
                )
    return {
        "scenario": "expansion",
        "environment": environment(),
        "devices": device_facts(),
        "cells": cells,
    }


def _timed(run: Callable[[], object], rounds: int) -> Samples:
    cuda: Any = torch.cuda
    samples = Samples("ns")
    for number in range(-3, rounds):
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        # Ten at once: the host's launches are hidden behind the device's work.
        cuda._sleep(1_000_000)
        start.record()
        for _ in range(10):
            run()
        end.record()
        end.synchronize()
        if number >= 0:
            samples.values.append(float(start.elapsed_time(end)) * 1e5)
    return samples
