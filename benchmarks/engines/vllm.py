"""Time a request's media through vLLM's own encoder, decoder and queues, and with the adapter.

    benchmarks/engines/run.sh bench --out FOLDER, or in vLLM's environment:
    python -m benchmarks.engines.vllm --out FOLDER

*One hop*: the process that has the tensors sends them to four workers. *Whole way*: an API server
encodes an EngineCoreRequest and sends it over ZeroMQ; the engine core decodes it and enqueues its
features on vLLM's MessageQueue; four workers dequeue them. The clock runs from before encoding
until the last worker has its tensors ("ready") and has read a byte of every page of them
("touched"). With a dictionary a worker has codes and table, which its device expands. Ways take
turns in one run; what each worker got is compared by hash in every turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import mmformat as mm
from benchmarks.engines import report, vllm_roles
from benchmarks.engines.payloads import CASES, Pictures, digest_of
from benchmarks.engines.vllm_roles import Largest
from benchmarks.engines.vllm_ways import WAYS, Way
from mmformat.bench.measure import clock_ns, turns, without_collection
from tests.integration.engines.real import module

DEFAULT = (
    "image bf16 0.6 MB",
    "image uint8 6.4 MB",
    "image bf16 12.9 MB",
    "image f32 25.8 MB",
    "8 images bf16 103 MB",
    "8 images f32 206 MB",
)
MEMCPY = "control: one memcpy into touched memory"
LARGE_NBYTES = 50_000_000


class Server:
    """Hold the engine and worker processes, and what the API server encodes with."""

    def __init__(self, tp_size: int, folder: str, arena: mm.Arena, *, largest: Largest) -> None:
        import zmq

        from mmformat.adapters.vllm import mm_encoder

        serial = module("vllm.v1.serial_utils")
        serial.PIN_MEMORY = False
        self.tp_size = tp_size
        self.arena = arena
        self.encoders = {
            "vllm": serial.MsgpackEncoder(),
            "ours": mm_encoder(arena=arena, trusts_hashes=True),
        }
        spawn = multiprocessing.get_context("spawn")
        self.answers: Any = spawn.Queue()
        self.orders = [spawn.Queue() for _ in range(tp_size)]
        os.environ["VLLM_OBJECT_STORAGE_SHM_BUFFER_NAME"] = f"bench-{os.getpid()}"
        caches = module("vllm.multimodal.cache.shm")
        self.cache = caches.ShmObjectStoreSenderCache(vllm_roles.cache_settings(tp_size))
        ring = self.cache._shm_cache.ring_buffer
        vllm_roles.touch_blocks(ring.shared_memory.buf, vllm_roles.CACHE_GIB * 2**30, 1, 2**30)
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.bind(f"ipc://{folder}/engine")
        self.sockets = [self.context.socket(zmq.PUSH) for _ in range(tp_size)]
        for rank, socket in enumerate(self.sockets):
            socket.bind(f"ipc://{folder}/worker-{rank}")
        lock = spawn.Lock()
        engine = (vllm_roles.route, "engine", self.answers, tp_size, folder, self.orders, largest)
        workers = [
            (
                vllm_roles.work,
                f"worker {rank}",
                self.answers,
                vllm_roles.Post(rank, tp_size, folder, arena.name),
                self.orders[rank],
                lock,
            )
            for rank in range(tp_size)
        ]
        # The hop's own queues first: the engine's follow in the same orders.
        self.queues = vllm_roles.queues_for(tp_size, largest=largest, kinds=("queue", "arena"))
        for order in self.orders:
            order.put({kind: queue.export_handle() for kind, queue in self.queues.items()})
        self.processes = [
            spawn.Process(target=vllm_roles.guarded, args=arguments, daemon=True)
            for arguments in (*workers, engine)
        ]
        self.processes[-1].start()
        # vLLM waits for its readers in the order in which they subscribe.
        for process in self.processes[:-1]:
            process.start()
        for queue in self.queues.values():
            queue.wait_until_ready()
        self.collect("ready", of=tp_size + 1, timeout_s=vllm_roles.START_S)

    def collect(
        self, rid: str, *, of: int | None = None, timeout_s: float = vllm_roles.ANSWER_S
    ) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < (of or self.tp_size):
            answer = self.answers.get(timeout=timeout_s)
            if "error" in answer:
                raise RuntimeError(f"{answer['who']}: {answer['error']}")
            if answer["rid"] == rid:
                answers[answer["rank"]] = answer
        return list(answers.values())

    def ask(self, way: Way, rid: str, items: list[Any]) -> tuple[dict[str, int], list[Any]]:
        for orders in self.orders:
            orders.put(way.key)
        self.collect("listening")
        start_ns = clock_ns()
        sent_ns = (self._hop if way.part == "one hop" else self._send)(way, rid, items)
        answers = self.collect(f"{rid}-0")
        times = {"sent": sent_ns - start_ns}
        for name in ("ready", "touched"):
            times[name] = max(answer[f"{name}_ns"] for answer in answers) - start_ns
        return times, answers

    def _hop(self, way: Way, rid: str, items: list[Any]) -> int:
        from mmformat.adapters.vllm import shared_item

        features = features_of(rid, items)
        if way.channel == "zmq":
            frames = self.encoders["vllm"].encode(features)
            for socket in self.sockets:
                socket.send_multipart(frames, copy=False)
            return clock_ns()
        if way.side == "ours":
            for feature in features:
                encoded = self.encoders["ours"]
                feature.data = shared_item(encoded.handle_of(feature.data, feature.identifier))
        self.queues[way.channel].enqueue(features)
        return clock_ns()

    def _send(self, way: Way, rid: str, items: list[Any]) -> int:
        if way.cache:
            hashes = [f"{rid}-{index}" for index in range(len(items))]
            items = [
                self.cache.get_and_update_item((item, []), mm_hash)[0]
                for item, mm_hash in zip(items, hashes, strict=True)
            ]
        frames = self.encoders[way.side].encode(request_of(rid, items))
        self.socket.send_multipart([way.key.encode(), *frames], copy=False)
        return clock_ns()

    def close(self) -> None:
        self.socket.send_multipart([b"stop"])
        for orders in self.orders:
            orders.put("stop")
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()
        for socket in (self.socket, *self.sockets):
            socket.close(0)
        self.context.term()
        self.cache.close()


@contextmanager
def running(tp_size: int, arena: mm.Arena, *, largest: Largest) -> Iterator[Server]:
    folder = tempfile.mkdtemp(prefix="mmformat-engines-")
    try:
        server = Server(tp_size, folder, arena, largest=largest)
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder)


def item_of(tensor: Any) -> Any:
    """Return a MultiModalKwargsItem with one image."""
    inputs = module("vllm.multimodal.inputs")
    rows = tensor.shape[0]
    return inputs.MultiModalKwargsItem(
        {
            "pixel_values": inputs.MultiModalFieldElem(
                data=tensor, field=inputs.MultiModalFlatField(slices=[slice(0, rows)], dim=0)
            ),
            "image_grid_thw": inputs.MultiModalFieldElem(
                data=torch.tensor([1, 74, 74]), field=inputs.MultiModalBatchedField()
            ),
        }
    )


def features_of(rid: str, items: list[Any]) -> list[Any]:
    """Return the MultiModalFeatureSpec of each item; the first is named as the request."""
    inputs = module("vllm.multimodal.inputs")
    return [
        inputs.MultiModalFeatureSpec(
            data=item,
            modality="image",
            identifier=f"{rid}-{index}",
            mm_position=inputs.PlaceholderRange(offset=index * 1369, length=1369),
            mm_hash=f"{rid}-{index}",
        )
        for index, item in enumerate(items)
    ]


def request_of(rid: str, items: list[Any]) -> Any:
    return module("vllm.v1.engine").EngineCoreRequest(
        request_id=rid,
        prompt_token_ids=[1],
        mm_features=features_of(rid, items),
        sampling_params=None,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def one_turn(server: Server, way: Way, fresh: Pictures, kept: Pictures, rid: str) -> dict[str, int]:
    pictures = kept if way.there else fresh
    if way.there:
        rid = f"{kept.case.name}-kept"
    else:
        fresh.renew()
    values = pictures.plain if way.payload == "plain" else pictures.dictionaries()
    items = [item_of(value) for value in values]
    with without_collection():
        times, answers = server.ask(way, rid, items)
    expected = digest_of(values)
    if any(answer["digest"] != expected for answer in answers):
        raise RuntimeError(f"{way.key}: a worker got other bytes")
    return times


def measure(
    cases: list[str], *, rounds: int, large_rounds: int, tp_size: int, ways: list[str]
) -> report.Samples:
    samples: report.Samples = {}
    chosen = [CASES[name] for name in cases]
    largest = Largest(
        max(case.nbytes for case in chosen) + 2**20,
        max(case.nbytes // case.images for case in chosen),
    )
    with (
        mm.Arena.create(nbytes=2**30, ranks=tp_size) as arena,
        running(tp_size, arena, largest=largest) as server,
    ):
        for name in cases:
            fresh, kept = Pictures(CASES[name]), Pictures(CASES[name])
            found: dict[str, dict[str, list[int]]] = {key: {} for key in (*ways, MEMCPY)}
            many = large_rounds if CASES[name].nbytes > LARGE_NBYTES else rounds
            for turn in turns([*ways, MEMCPY], rounds=many, warmup=2):
                if turn.name == MEMCPY:
                    times = {"touched": memcpy_ns(fresh)}
                else:
                    rid = f"{name}-{turn.number}-{turn.name}"
                    times = one_turn(server, WAYS[turn.name], fresh, kept, rid)
                if turn.is_recorded:
                    for quantity, value in times.items():
                        found[turn.name].setdefault(quantity, []).append(value)
            samples[name] = found
            report.show({name: found}, ("sent", "ready", "touched"))
        if not arena.wait_released(timeout_s=5.0):
            raise RuntimeError(f"slots are still held: {arena.stats()}")
    return samples


def memcpy_ns(pictures: Pictures) -> int:
    targets = [tensor.clone() for tensor in pictures.plain]
    start_ns = clock_ns()
    for target, tensor in zip(targets, pictures.plain, strict=True):
        target.copy_(tensor)
    return clock_ns() - start_ns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--large-rounds", type=int, default=7, help="of payloads over 50 MB")
    parser.add_argument("--tp", type=int, default=4)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--way", action="append", choices=list(WAYS))
    arguments = parser.parse_args()
    samples = measure(
        arguments.case or list(DEFAULT),
        rounds=arguments.rounds,
        large_rounds=arguments.large_rounds,
        tp_size=arguments.tp,
        ways=arguments.way or list(WAYS),
    )
    if arguments.out:
        report.write(
            arguments.out / "vllm_0_33.json",
            what=f"vLLM 0.33: until the last of {arguments.tp} workers is ready",
            samples=samples,
            tp_size=arguments.tp,
        )


if __name__ == "__main__":
    main()
