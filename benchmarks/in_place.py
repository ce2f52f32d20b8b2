"""From JPEG to handle in two steps and in place; a conversation as requests and as items.

Run ``python -m benchmarks.in_place [--rounds N]``: one process, one reader. Every handle is read
and compared with what ``mm.materialize`` gives.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import mmformat as mm
from mmformat.bench.measure import Case, interleaved
from mmformat.media.processors import processor_from_config
from mmformat.testing.equality import assert_inputs_equal

PHOTO = Path(mm.__file__).parent / "bench" / "photos" / "hubble-1000x872.jpg"
SIZES = {"1024x1024": (1024, 1024), "4K": (3840, 2160)}
COMES_OUT = (("dictionary", "float32"), ("plain", "float32"), ("plain", "bfloat16"))
TURN = 5
"""Images of the request whose last one is new."""


def jpeg(width: int, height: int) -> bytes:
    """Return the photograph in this size."""
    file = io.BytesIO()
    Image.open(PHOTO).convert("RGB").resize((width, height)).save(file, "JPEG", quality=90)
    return file.getvalue()


def row(
    name: str, cases: dict[str, Callable[[], Any]], check: Callable[[Any], None], rounds: int
) -> dict[str, Any]:
    """Time the cases, check what each returned, and return a row of the result."""
    timed = interleaved(
        [Case(name=key, run=run, after=check) for key, run in cases.items()], rounds=rounds
    )
    return {
        "name": name,
        "load": os.getloadavg()[0],
        "ms": {
            key: {
                "median": round(each.median / 1e6, 3),
                "iqr": round(each.iqr / 1e6, 3),
                "n": each.n,
            }
            for key, each in timed.items()
        },
    }


def one_image(size: str, encoding: Any, dtype: Any, rounds: int) -> dict[str, Any]:
    """Materialize one JPEG of this size into an arena of which nothing is cached."""
    processor = processor_from_config(
        {"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 2**24},
        encoding=encoding,
        dtype=dtype,
    )
    item = mm.MultimodalDataItem(modality="IMAGE", feature=mm.Source(jpeg(*SIZES[size])))
    inputs = mm.MultimodalInputs(items=[item])
    expected = mm.materialize(inputs, processor)
    with (
        mm.Arena.create(nbytes=2**29, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as rank,
    ):

        def check(handle: Any) -> None:
            assert_inputs_equal(rank.get(handle), expected)
            forget(arena)

        return row(
            f"{size} {encoding} {dtype}",
            {
                "materialize, put": lambda: arena.put(mm.materialize(inputs, processor)),
                "in place": lambda: arena.materialize(inputs, processor)[0],
            },
            check,
            rounds,
        )


def forget(arena: mm.Arena) -> None:
    """Give up what is cached, so that the next round finds nothing."""
    if arena.stats().slots_granted:
        raise RuntimeError("a round left a slot granted")
    arena._transport.reserve(arena.stats().nbytes).abandon()


def conversation(rows: int, rounds: int) -> dict[str, Any]:
    """Put a request of which all images but the last are in the arena."""
    numbers = np.random.default_rng(0)

    def new() -> mm.MultimodalDataItem:
        feature = numbers.standard_normal((rows, 1176), np.float32)
        item = mm.MultimodalDataItem(modality="IMAGE", feature=feature, offsets=[(1, 2)])
        return mm.materialize(mm.MultimodalInputs(items=[item])).items[0]

    with (
        mm.Arena.create(nbytes=2**30, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as rank,
    ):
        old = [new() for _ in range(TURN - 1)]
        state: dict[str, mm.MultimodalInputs] = {}

        def prepare() -> None:
            state["turn"] = mm.MultimodalInputs(items=[*old, new()])
            rank.release(arena.put(mm.MultimodalInputs(items=old), reuse="items"))

        def check(handle: Any) -> None:
            assert_inputs_equal(rank.get(handle), state["turn"])
            forget(arena)
            prepare()

        prepare()
        made = row(
            f"turn of {TURN} images of {rows * 1176 * 4:,} bytes, one new",
            {
                "reuse=request": lambda: arena.put(state["turn"]),
                "reuse=items": lambda: arena.put(state["turn"], reuse="items"),
            },
            check,
            rounds,
        )
        handles = {key: arena.put(state["turn"], reuse=key) for key in ("request", "items")}
        kept = [rank.get(handle) for handle in handles.values()]
        reads = row(
            f"get of the same ({TURN} images)",
            {key: lambda handle=handle: rank.get(handle) for key, handle in handles.items()},
            lambda inputs: None,
            10 * rounds,
        )
        del kept
    return {**made, "get": reads["ms"]}


def main() -> None:
    """Print a row a line, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for size in SIZES:
        for encoding, dtype in COMES_OUT:
            print(json.dumps(one_image(size, encoding, dtype, rounds)), flush=True)
    for rows in (136, 696, 5476):
        print(json.dumps(conversation(rows, rounds)), flush=True)


if __name__ == "__main__":
    main()
