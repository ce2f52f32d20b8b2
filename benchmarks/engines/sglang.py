"""Time a request's media through SGLang's own functions, as shipped and with the adapter.

    make engines-bench, or in the environment of one version:
    python -m benchmarks.engines.sglang --side sglang_0_5_23 --out FOLDER

One process sends with the engine's TokenizerManager; four others receive, broadcast with gloo and
make their MultimodalInputs with the engine's Scheduler. The clock runs from the call of
``_send_one_request`` until the last rank has its inputs ("ready"), and until it has read a byte of
every page ("touched"). Ways take turns in one run; every tensor is compared in every turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import mmformat as mm
from benchmarks.engines import report
from benchmarks.engines.tp_ranks import Ranks, digest_of, running
from mmformat.adapters.sglang import install
from mmformat.measure import clock_ns, turns, without_collection

CASES = {"image 25.8 MB": ("IMAGE", (5476, 1176)), "video 200 MB": ("VIDEO", (42500, 1176))}
THERE = "mmformat, content already there"
MEMCPY = "control: one memcpy into touched memory"


def one_turn(ranks: Ranks, arena: mm.Arena, case: tuple[str, torch.Tensor], way: str, rid: str):
    modality, feature = case
    if way == MEMCPY:
        target = feature.clone()
        start_ns = clock_ns()
        target.copy_(feature)
        return {"touched": clock_ns() - start_ns}
    if way != THERE:
        feature[0, 0] += 1.0  # other content, so that nothing is found
    media = feature.clone()  # the engine may keep or change what it is given
    item = ranks.side.item(
        modality, media, hash_known="hash known" in way, image_grid_thw=torch.tensor([[1, 74, 74]])
    )
    expected = digest_of([item])
    installed = None
    ranks.control(f"install {arena.name}" if way.startswith("mmformat") else "remove")
    if way.startswith("mmformat"):
        installed = install(ranks.manager, arena=arena)
    try:
        with without_collection():
            times, answers = ranks.ask(rid, [item], im_token_id=151655)
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


def measure(side: str, *, cases: list[str], rounds: int, tp_size: int) -> report.Samples:
    samples: report.Samples = {}
    with running(side, tp_size=tp_size) as ranks:
        for name in cases:
            modality, shape = CASES[name]
            feature = torch.randn(shape, generator=torch.Generator().manual_seed(1))
            ways = [*ranks.side.WAYS, THERE, MEMCPY]
            found: dict[str, dict[str, list[int]]] = {way: {} for way in ways}
            with mm.Arena.create(nbytes=4 * feature.nbytes + 2**22, readers=tp_size) as arena:
                kept = feature.clone()
                for turn in turns(ways, rounds=rounds, warmup=1):
                    source = kept if turn.name == THERE else feature
                    rid = f"{name}-{turn.name}-{turn.number}"
                    times = one_turn(ranks, arena, (modality, source), turn.name, rid)
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
    parser.add_argument("--tp", type=int, default=4)
    parser.add_argument("--case", action="append", choices=list(CASES))
    arguments = parser.parse_args()
    chosen: Any = arguments.case or list(CASES)
    samples = measure(arguments.side, cases=chosen, rounds=arguments.rounds, tp_size=arguments.tp)
    if arguments.out:
        report.write(
            arguments.out / f"{arguments.side}.json",
            what=f"{arguments.side}: send to ready on {arguments.tp} ranks",
            samples=samples,
            tp_size=arguments.tp,
        )


if __name__ == "__main__":
    main()
