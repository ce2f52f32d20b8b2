"""Time a request's media through vLLM's own encoder, decoder and queue, and with the adapter.

    make engines-bench, or in vLLM's environment:
    python -m benchmarks.engines.vllm --out FOLDER

An API server encodes an EngineCoreRequest and sends it over ZeroMQ; the engine process decodes it
and enqueues its features on vLLM's MessageQueue; four workers dequeue them. The clock runs from
before encoding until the last worker has a torch tensor ("ready") and has read a byte of every
page of it ("touched"). Ways take turns in one run; every tensor is compared in every turn.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import mmformat as mm
from benchmarks.engines import report
from mmformat.measure import clock_ns, turns, without_collection
from tests.integration.engines.real import module

CASES = {
    "image uint8 6.4 MB": ((5476, 1176), torch.uint8),
    "image bf16 12.9 MB": ((5476, 1176), torch.bfloat16),
    "image f32 25.8 MB": ((5476, 1176), torch.float32),
    "video f32 200 MB": ((42500, 1176), torch.float32),
}
SHIPPED = "as shipped"
TENSOR_ARENA = "as shipped, shm tensor arena"
FRAMES = "mmformat frames, vLLM's queue"
HANDLE = "mmformat arena"
MEMCPY = "control: one memcpy into touched memory"
WAYS = (SHIPPED, TENSOR_ARENA, FRAMES, HANDLE)
PAGE = 4096
START_S = 600.0
ANSWER_S = 120.0


class Server:
    """Hold the engine and worker processes, and the API server's encoders."""

    def __init__(self, tp_size: int, folder: str, arena: mm.Arena) -> None:
        import zmq

        from mmformat.adapters.vllm import mm_encoder

        serial = module("vllm.v1.serial_utils")
        self.tp_size = tp_size
        self.encoders = {
            SHIPPED: serial.MsgpackEncoder(),
            TENSOR_ARENA: serial.MsgpackEncoder(),
            FRAMES: mm_encoder(),
            HANDLE: mm_encoder(arena=arena),
        }
        spawn = multiprocessing.get_context("spawn")
        self.answers: Any = spawn.Queue()
        self.orders = [spawn.Queue() for _ in range(tp_size)]
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUSH)
        self.socket.bind(f"ipc://{folder}/engine")
        self.processes = [
            spawn.Process(
                target=_engine, args=(tp_size, folder, self.orders, self.answers), daemon=True
            ),
            *(
                spawn.Process(
                    target=_worker,
                    args=(rank, arena.name, self.orders[rank], self.answers),
                    daemon=True,
                )
                for rank in range(tp_size)
            ),
        ]
        for process in self.processes:
            process.start()
        self.collect("ready", timeout_s=START_S)

    def collect(self, rid: str, *, timeout_s: float = ANSWER_S) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < self.tp_size:
            answer = self.answers.get(timeout=timeout_s)
            if "error" in answer:
                raise RuntimeError(f"{answer['who']}: {answer['error']}")
            if answer["rid"] == rid:
                answers[answer["rank"]] = answer
        return [answers[rank] for rank in range(self.tp_size)]

    def ask(self, way: str, rid: str, request: Any) -> tuple[dict[str, int], list[Any]]:
        for orders in self.orders:
            orders.put(("listen", way))
        self.collect("listening")
        start_ns = clock_ns()
        frames = self.encoders[way].encode(request)
        encoded_ns = clock_ns()
        self.socket.send_multipart([way.encode(), *frames], copy=False)
        answers = self.collect(rid)
        times = {"encoded": encoded_ns - start_ns}
        for name in ("ready", "touched"):
            times[name] = max(answer[f"{name}_ns"] for answer in answers) - start_ns
        return times, answers

    def close(self) -> None:
        self.socket.send_multipart([b"stop"])
        for orders in self.orders:
            orders.put(("stop", ""))
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()
        self.socket.close(0)
        self.context.term()


@contextmanager
def running(tp_size: int, arena: mm.Arena) -> Iterator[Server]:
    folder = tempfile.mkdtemp(prefix="mmformat-engines-")
    try:
        server = Server(tp_size, folder, arena)
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder)


def request(rid: str, tensor: torch.Tensor) -> Any:
    """Return an EngineCoreRequest with one image."""
    inputs = module("vllm.multimodal.inputs")
    item = inputs.MultiModalKwargsItem(
        {
            "pixel_values": inputs.MultiModalFieldElem(
                data=tensor,
                field=inputs.MultiModalFlatField(slices=[slice(0, len(tensor))], dim=0),
            ),
            "image_grid_thw": inputs.MultiModalFieldElem(
                data=torch.tensor([1, 74, 74]), field=inputs.MultiModalBatchedField()
            ),
        }
    )
    feature = inputs.MultiModalFeatureSpec(
        data=item,
        modality="image",
        identifier=rid,
        mm_position=inputs.PlaceholderRange(offset=0, length=10),
        mm_hash=rid,
    )
    return module("vllm.v1.engine").EngineCoreRequest(
        request_id=rid,
        prompt_token_ids=[1],
        mm_features=[feature],
        sampling_params=None,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def digest_of(tensor: torch.Tensor) -> str:
    return hashlib.blake2b(tensor.reshape(-1).view(torch.uint8).numpy()).hexdigest()


def _engine(tp_size: int, folder: str, orders: list[Any], answers: Any) -> None:
    try:
        _route(tp_size, folder, orders)
    except BaseException:
        import traceback

        answers.put({"who": "engine", "error": traceback.format_exc()})


def _route(tp_size: int, folder: str, orders: list[Any]) -> None:
    import zmq

    from mmformat.adapters.vllm import mm_decoder

    serial = module("vllm.v1.serial_utils")
    serial.PIN_MEMORY = False
    queue_class = module("vllm.distributed.device_communicators.shm_broadcast").MessageQueue
    engine_request = module("vllm.v1.engine").EngineCoreRequest
    theirs, ours = serial.MsgpackDecoder(engine_request), mm_decoder(engine_request)
    queues = {
        arena: queue_class(tp_size, tp_size, enable_shm_tensor_arena=arena)
        for arena in (False, True)
    }
    for order in orders:
        order.put(("queues", {arena: queue.export_handle() for arena, queue in queues.items()}))
    for queue in queues.values():
        queue.wait_until_ready()
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.connect(f"ipc://{folder}/engine")
    while True:
        head, *frames = socket.recv_multipart(copy=False)
        way = bytes(head.buffer).decode()
        if way == "stop":
            return
        decoder = theirs if way in (SHIPPED, TENSOR_ARENA) else ours
        received = decoder.decode(frames)
        queues[way == TENSOR_ARENA].enqueue(received.mm_features)
        del received, frames


def _worker(rank: int, arena_name: str, orders: Any, answers: Any) -> None:
    try:
        _work(rank, arena_name, orders, answers)
    except BaseException:
        import traceback

        answers.put({"who": f"worker {rank}", "error": traceback.format_exc()})


def _work(rank: int, arena_name: str, orders: Any, answers: Any) -> None:
    from mmformat.adapters.vllm import attach

    torch.set_num_threads(1)
    queue_class = module("vllm.distributed.device_communicators.shm_broadcast").MessageQueue
    module("vllm.v1.engine")
    readers = attach(rank)
    readers.attach(arena_name)
    _, handles = orders.get(timeout=START_S)
    queues = {
        arena: queue_class.create_from_handle(handle, rank) for arena, handle in handles.items()
    }
    for queue in queues.values():
        queue.wait_until_ready()
    answers.put({"rank": rank, "rid": "ready"})
    while True:
        order, way = orders.get()
        if order == "stop":
            readers.close()
            return
        answers.put({"rank": rank, "rid": "listening"})
        (feature,) = queues[way == TENSOR_ARENA].dequeue(timeout=ANSWER_S)
        tensor = feature.data["pixel_values"].data
        ready_ns = clock_ns()
        flat = tensor.reshape(-1).view(torch.uint8)
        int(flat[::PAGE].sum(dtype=torch.int64))
        touched_ns = clock_ns()
        answers.put(
            {
                "rank": rank,
                "rid": feature.identifier,
                "ready_ns": ready_ns,
                "touched_ns": touched_ns,
                "digest": digest_of(tensor),
            }
        )
        del feature, tensor, flat


def one_turn(server: Server, tensor: torch.Tensor, way: str, rid: str) -> dict[str, int]:
    if way == MEMCPY:
        target = tensor.clone()
        start_ns = clock_ns()
        target.copy_(tensor)
        return {"touched": clock_ns() - start_ns}
    expected = digest_of(tensor)
    made = request(rid, tensor)
    with without_collection():
        times, answers = server.ask(way, rid, made)
    if any(answer["digest"] != expected for answer in answers):
        raise RuntimeError(f"{way}: a worker got other bytes")
    return times


def measure(cases: list[str], *, rounds: int, tp_size: int) -> report.Samples:
    samples: report.Samples = {}
    with (
        mm.Arena.create(nbytes=2**29, readers=tp_size) as arena,
        running(tp_size, arena) as server,
    ):
        for name in cases:
            shape, dtype = CASES[name]
            generator = torch.Generator().manual_seed(1)
            tensor = (torch.randn(shape, generator=generator) * 50).to(dtype)
            found: dict[str, dict[str, list[int]]] = {way: {} for way in (*WAYS, MEMCPY)}
            for turn in turns([*WAYS, MEMCPY], rounds=rounds, warmup=1):
                rid = f"{name}-{turn.name}-{turn.number}"
                times = one_turn(server, tensor, turn.name, rid)
                if turn.is_recorded:
                    for quantity, value in times.items():
                        found[turn.name].setdefault(quantity, []).append(value)
            samples[name] = found
            report.show({name: found}, ("encoded", "ready", "touched"))
        if not arena.wait_released(timeout_s=5.0):
            raise RuntimeError(f"slots are still held: {arena.stats()}")
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tp", type=int, default=4)
    parser.add_argument("--case", action="append", choices=list(CASES))
    arguments = parser.parse_args()
    chosen = arguments.case or list(CASES)
    samples = measure(chosen, rounds=arguments.rounds, tp_size=arguments.tp)
    if arguments.out:
        report.write(
            arguments.out / "vllm_0_33.json",
            what=f"vLLM 0.33: encode to touched on {arguments.tp} workers",
            samples=samples,
            tp_size=arguments.tp,
        )


if __name__ == "__main__":
    main()
