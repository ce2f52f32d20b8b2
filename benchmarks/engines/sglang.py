"""Time a request's media through SGLang's own functions, as shipped and with the adapter.

    make engines-bench, or in the environment of one version:
    python -m benchmarks.engines.sglang --side sglang_0_5_23 --out FOLDER

One process sends with the engine's TokenizerManager; four others receive, broadcast with gloo and
make their MultimodalInputs with the engine's Scheduler. The clock runs from the call of
``_send_one_request`` until the last rank has its inputs ("ready"), and until it has read a byte of
every page ("touched"). With a dictionary a rank has codes and table, which its device expands.
"Hash known" is a hash that was there before the clock started, as a router, a processing cache or
SGLANG_MM_SKIP_COMPUTE_HASH gives it. Ways take turns in one run; every tensor is compared in every
turn.
"""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import Any

import torch

import mmformat as mm
from benchmarks.engines import report
from benchmarks.engines.payloads import CASES, Pictures
from benchmarks.engines.tp_ranks import Ranks, digest_of, running
from mmformat.adapters.sglang import install
from mmformat.bench.measure import clock_ns, turns, without_collection

DEFAULT = ("image bf16 0.6 MB", "image bf16 12.9 MB", "image f32 25.8 MB", "8 images f32 206 MB")
DICTIONARY = ("mmformat, dictionary", "mmformat, dictionary, hash known")
LARGE_NBYTES = 50_000_000
THERE = "mmformat, content already there"
MEMCPY = "control: one memcpy into touched memory"


def one_turn(
    ranks: Ranks, arena: mm.Arena, pictures: Pictures, way: str, rid: str
) -> dict[str, int]:
    if way == MEMCPY:
        targets = [tensor.clone() for tensor in pictures.plain]
        start_ns = clock_ns()
        for target, tensor in zip(targets, pictures.plain, strict=True):
            target.copy_(tensor)
        return {"touched": clock_ns() - start_ns}
    if way != THERE:
        pictures.renew()
    items = items_of(ranks, pictures, way)
    expected = digest_of(items)
    installed = None
    ranks.control(f"install {arena.name}" if way.startswith("mmformat") else "remove")
    if way.startswith("mmformat"):
        installed = install(ranks.manager, arena=arena)
    try:
        with without_collection():
            times, answers = ranks.ask(rid, items, im_token_id=151655)
    finally:
        if installed is not None:
            installed.remove()
    first = answers[0]
    for answer in answers:
        if answer["digest"] != expected:
            raise RuntimeError(f"{way}: rank {answer['rank']} got other bytes")
        if (answer["hashes"], answer["pads"]) != (first["hashes"], first["pads"]):
            raise RuntimeError(f"{way}: rank {answer['rank']} got other hashes")
    return times


def items_of(ranks: Ranks, pictures: Pictures, way: str) -> list[Any]:
    """Return the engine's items; the engine may keep or change the tensors it is given."""
    values: list[Any] = [tensor.clone() for tensor in pictures.plain]
    if way in DICTIONARY:
        values = pictures.dictionaries()
    modality = "VIDEO" if pictures.case.name.startswith("video") else "IMAGE"
    items = []
    for value in values:
        item = ranks.side.item(modality, value, image_grid_thw=torch.tensor([[1, 74, 74]]))
        if "hash known" in way:
            item.hash = secrets.randbits(62)
            item.set_pad_value()
        items.append(item)
    return items


def measure(
    side: str, *, cases: list[str], rounds: int, large_rounds: int, tp_size: int
) -> report.Samples:
    samples: report.Samples = {}
    with running(side, tp_size=tp_size) as ranks:
        for name in cases:
            fresh, kept = Pictures(CASES[name]), Pictures(CASES[name])
            ways = [*ranks.side.WAYS, *DICTIONARY, THERE, MEMCPY]
            many = large_rounds if CASES[name].nbytes > LARGE_NBYTES else rounds
            found: dict[str, dict[str, list[int]]] = {way: {} for way in ways}
            room = 4 * CASES[name].nbytes + 2**22
            with mm.Arena.create(nbytes=room, ranks=tp_size) as arena:
                for turn in turns(ways, rounds=many, warmup=2):
                    pictures = kept if turn.name == THERE else fresh
                    rid = f"{name}-{turn.name}-{turn.number}"
                    times = one_turn(ranks, arena, pictures, turn.name, rid)
                    if turn.is_recorded:
                        for quantity, value in times.items():
                            found[turn.name].setdefault(quantity, []).append(value)
                ranks.control("remove")
                if not arena.wait_released(timeout_s=5.0):
                    raise RuntimeError(f"slots are still held: {arena.stats()}")
            samples[name] = found
            report.show({name: found}, ("sent", "ready", "touched"))
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", required=True, choices=["sglang_0_5_5", "sglang_0_5_23"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--large-rounds", type=int, default=7, help="of payloads over 50 MB")
    parser.add_argument("--tp", type=int, default=4)
    parser.add_argument("--case", action="append", choices=list(CASES))
    arguments = parser.parse_args()
    samples = measure(
        arguments.side,
        cases=arguments.case or list(DEFAULT),
        rounds=arguments.rounds,
        large_rounds=arguments.large_rounds,
        tp_size=arguments.tp,
    )
    if arguments.out:
        report.write(
            arguments.out / f"{arguments.side}.json",
            what=f"{arguments.side}: send to ready on {arguments.tp} ranks",
            samples=samples,
            tp_size=arguments.tp,
        )


if __name__ == "__main__":
    main()
