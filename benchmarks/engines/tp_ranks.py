"""Run tensor-parallel ranks of an SGLang version as real processes, joined by gloo."""

from __future__ import annotations

import importlib
import multiprocessing
import shutil
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from mmformat import DictionaryTensor

START_S = 600.0
ANSWER_S = 120.0
PAGE = 4096


class Ranks:
    """Hold the rank processes, and the tokenizer manager in this one."""

    def __init__(self, side: str, tp_size: int, folder: str) -> None:
        import zmq

        self.side = importlib.import_module(f"benchmarks.engines.{side}")
        self.tp_size = tp_size
        self.context = zmq.Context()
        spawn = multiprocessing.get_context("spawn")
        self.answers: Any = spawn.Queue()
        self.processes = [
            spawn.Process(
                target=_rank, args=(side, rank, tp_size, folder, self.answers), daemon=True
            )
            for rank in range(tp_size)
        ]
        for process in self.processes:
            process.start()
        self.manager = self.side.manager(f"ipc://{folder}/tokenizer", tp_size, context=self.context)
        self.collect("ready", timeout_s=START_S)

    def collect(self, rid: str, *, timeout_s: float = ANSWER_S) -> list[dict[str, Any]]:
        """Return every rank's answer to one request, in rank order."""
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < self.tp_size:
            answer = self.answers.get(timeout=timeout_s)
            if "error" in answer:
                raise RuntimeError(f"rank {answer['rank']}: {answer['error']}")
            if answer["rid"] == rid:
                answers[answer["rank"]] = answer
        return [answers[rank] for rank in range(self.tp_size)]

    def control(self, rid: str) -> None:
        """Have every rank do what a control request names, and wait for it."""
        self.side.send_control(self.manager, rid)
        self.collect(rid)

    def ask(self, rid: str, items: list[Any], **fields: Any) -> tuple[dict[str, int], list[Any]]:
        """Send one request; return its nanoseconds from the sending's begin, and the answers."""
        tokenized = self.side.request(rid, items, **fields)
        start_ns = time.monotonic_ns()
        self.side.send(self.manager, tokenized)
        times = {"sent": time.monotonic_ns() - start_ns}
        del tokenized
        answers = self.collect(rid)
        for name in ("ready", "touched"):  # by the last rank
            times[name] = max(answer[f"{name}_ns"] for answer in answers) - start_ns
        return times, answers

    def close(self) -> None:
        self.side.send_control(self.manager, "stop")
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()
        self.manager.send_to_scheduler.close(0)
        self.context.term()


@contextmanager
def running(side: str, *, tp_size: int = 4) -> Iterator[Ranks]:
    """Start the ranks, and end them."""
    folder = tempfile.mkdtemp(prefix="mmformat-engines-")
    try:
        ranks = Ranks(side, tp_size, folder)
        try:
            yield ranks
        finally:
            ranks.close()
    finally:
        shutil.rmtree(folder)


def tensors_of(value: Any) -> Iterator[Any]:
    """Yield every tensor and array of nested lists, tuples and dicts, a dictionary's two too."""
    if isinstance(value, DictionaryTensor):
        yield from (value.codes, value.table)
    elif hasattr(value, "numpy") or isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_of(part)


def as_bytes(tensor: Any) -> Any:
    """Return a tensor's bytes as a flat array, without a copy where it is contiguous."""
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    import torch

    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)


def digest_of(items: list[Any]) -> str:
    """Return a digest of all tensors of the engine's items."""
    digest = blake3()
    for each in items:
        for tensor in tensors_of([each.feature, each.model_specific_data]):
            digest.update(as_bytes(tensor))
    return digest.hexdigest()


def _rank(side_name: str, rank: int, tp_size: int, folder: str, answers: Any) -> None:
    try:
        _serve(side_name, rank, tp_size, folder, answers)
    except BaseException as error:
        import traceback

        answers.put({"rank": rank, "error": traceback.format_exc()})
        raise SystemExit(1) from error


def _serve(side_name: str, rank: int, tp_size: int, folder: str, answers: Any) -> None:
    import torch
    import zmq
    from torch import distributed

    from mmformat.adapters.sglang import install

    torch.set_num_threads(1)
    side = importlib.import_module(f"benchmarks.engines.{side_name}")
    distributed.init_process_group(
        "gloo", init_method=f"file://{Path(folder) / 'gloo'}", rank=rank, world_size=tp_size
    )
    group = types.SimpleNamespace(
        rank=rank,
        rank_in_group=rank,
        first_rank=0,
        ranks=list(range(tp_size)),
        cpu_group=distributed.group.WORLD,
    )
    context = zmq.Context()
    tokenizer, rpc = context.socket(zmq.PULL), context.socket(zmq.PULL)
    if rank == 0:
        tokenizer.connect(f"ipc://{folder}/tokenizer")
    rpc.bind(f"ipc://{folder}/rpc-{rank}")
    scheduler = side.scheduler(rank, tp_size, sockets=(tokenizer, rpc), group=group)
    answers.put({"rank": rank, "rid": "ready"})
    installed = None
    while True:
        if rank == 0:
            tokenizer.poll()  # a server polls without end; here other ranks wait in the broadcast
        for received in side.receive(scheduler):
            rid = received.rid
            if not hasattr(received, "mm_inputs"):
                if rid == "stop":
                    distributed.destroy_process_group()
                    context.destroy(0)
                    return
                if installed is not None:
                    installed.remove()
                    installed = None
                if rid.startswith("install"):
                    name = rid.partition(" ")[2] or None
                    # A dictionary is expanded on the device.
                    installed = install(scheduler, arena=name, rank=rank, expand=False)
                answers.put({"rank": rank, "rid": rid})
                continue
            answers.put({"rank": rank, **_look(side, scheduler, received)})
            # The request ends: its tensors, and with them its slot, go.
            received.mm_inputs = None
        del received


def _look(side: Any, scheduler: Any, received: Any) -> dict[str, Any]:
    made = side.media(scheduler, received)
    ready_ns = time.monotonic_ns()
    touched = 0
    for each in made.mm_items:
        for tensor in tensors_of(each.feature):
            touched += int(as_bytes(tensor)[::PAGE].sum(dtype=np.int64))
    touched_ns = time.monotonic_ns()
    return {
        "rid": received.rid,
        "class": type(made).__name__,
        "ready_ns": ready_ns,
        "touched_ns": touched_ns,
        "digest": digest_of(made.mm_items),
        "hashes": [each.hash for each in made.mm_items],
        "pads": [(each.pad_value, getattr(each, "pad_values", None)) for each in made.mm_items],
        "identities": [getattr(each, "identity", None) for each in made.mm_items],
        "request": {
            name: value
            for name in ("im_token_id", "padded_input_ids")
            if (value := getattr(made, name, None)) is not None
        },
    }
