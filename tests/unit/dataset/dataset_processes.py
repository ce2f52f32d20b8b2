"""What the tests of collections run in processes of their own."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

import mmformat as mm
from mmformat.model.tensors import tensor_buffer
from tests.support.requests import random_request


def inputs(seed: int, *, nbytes: int = 4096) -> mm.MultimodalInputs:
    """Return one image whose identity says its seed."""
    return random_request(nbytes, seed, identity=f"seed-{seed}")


def digest(item: mm.MultimodalDataItem) -> str:
    """Return what the bytes of an item's feature are known by."""
    return hashlib.sha256(tensor_buffer(item.feature)).hexdigest()


def add_many(folder: str, seeds: list[int]) -> int:
    """Add messages and return how many the dataset has then."""
    dataset = mm.open_dataset(folder)
    for seed in seeds:
        dataset.add(inputs(seed))
    return len(dataset)


def digests(dataset: mm.Dataset) -> list[str]:
    """Return what each message's item is known by, by number."""
    return [digest(each.items[0]) for each in dataset]


def add_and_die(folder: str, step: str) -> None:
    """Kill this process in the midst of an addition."""

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    dataset = mm.open_dataset(folder)
    if step == "log":
        from mmformat.dataset import index as dataset_index

        real = os.write

        def torn(descriptor: int, data: bytes) -> int:
            real(descriptor, data[: len(data) // 2])
            die()
            return 0

        dataset_index.os = type("Torn", (), {**vars(os), "write": staticmethod(torn)})  # type: ignore[assignment]
    elif step == "write":
        os.fsync = die
    elif step == "rename":
        Path.replace = die  # type: ignore[method-assign,assignment]
    else:
        raise ValueError(step)
    dataset.add(inputs(99))
    raise RuntimeError("still alive")


if __name__ == "__main__":
    add_and_die(*sys.argv[1:])
