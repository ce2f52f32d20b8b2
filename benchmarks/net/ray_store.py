"""Four actors of one Ray node touch a 25.8 MB item: our message beside Ray's own way.

``python -m benchmarks.net.ray_store [--repeats 15] [--output FILE]``, where Ray is installed. Ray's
own way is a dict of torch tensors with ``RAY_ENABLE_ZERO_COPY_TORCH_TENSORS=1``: views that all
actors share, writes too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import mmformat as mm

ROWS, COLUMNS = 5484, 1176  # 25.8 MB of float32


class Actor:
    """Read an item, touch each of its pages, and say when that was done."""

    def touch(self, value: Any) -> float:
        if isinstance(value, mm.MultimodalInputs):
            feature = value.items[0].feature
            value = {"feature": getattr(feature, "codes", feature)}
        feature = value["feature"]
        array = feature if isinstance(feature, np.ndarray) else feature.numpy()
        int(array.reshape(-1).view(np.uint8)[::4096].sum())
        return time.monotonic()


def payloads() -> dict[str, Any]:
    """Return the same image for each arm."""
    import torch

    chance = np.random.default_rng(0)
    codes = chance.integers(0, 256, (ROWS // 2, 2, 3, 196), dtype=np.uint8)
    codes = codes.reshape(ROWS, 3, 196)
    table = chance.random((3, 256), dtype=np.float32)
    dictionary = mm.DictionaryTensor(codes=codes, table=table, axis=1)
    plain = torch.from_numpy(chance.random((ROWS, COLUMNS), dtype=np.float32))

    def inputs(feature: Any) -> mm.MultimodalInputs:
        item = mm.MultimodalDataItem(modality="IMAGE", feature=feature)
        return mm.MultimodalInputs(items=[item])

    return {"ray": {"feature": plain}, "ours": inputs(plain), "codes": inputs(dictionary)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    os.environ |= {"RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1", "RAY_AUTH_MODE": "disabled"}
    import ray

    from mmformat.adapters.ray import register

    def setup() -> None:
        register(expand=False)

    ray.init(
        num_cpus=4,
        object_store_memory=2 * 10**9,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": setup},
    )
    register(expand=False)
    actors = [ray.remote(Actor).options(num_cpus=0.5).remote() for _ in range(4)]
    arms = payloads()
    took: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(arguments.repeats + 3):
        for name, value in arms.items():
            started_s = time.monotonic()
            reference = ray.put(value)
            last_s = max(ray.get([actor.touch.remote(reference) for actor in actors]))
            del reference
            if number >= 3:
                took[name].append(last_s - started_s)
    ray.shutdown()
    medians = {name: statistics.median(values) for name, values in took.items()}
    found = {
        "seconds": medians,
        "ours_of_ray": medians["ours"] / medians["ray"],
        "codes_of_ray": medians["codes"] / medians["ray"],
        "samples": took,
    }
    print(json.dumps({key: value for key, value in found.items() if key != "samples"}, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
