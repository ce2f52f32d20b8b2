"""vLLM's engine core and workers, as far as a request's media pass through them."""

from __future__ import annotations

import os
import traceback
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.engines.payloads import digest_of, touch
from benchmarks.engines.vllm_ways import QUEUES, WAYS
from mmformat.bench.measure import clock_ns
from tests.integration.engines.real import module

START_S = 600.0
ANSWER_S = 120.0
CACHE_GIB = 1
LARGEST_ITEM_MIB = 512


def guarded(role: Callable[..., None], who: str, answers: Any, *arguments: Any) -> None:
    """Run a process's role, and report its error before it ends."""
    try:
        role(answers, *arguments)
    except BaseException:
        answers.put({"who": who, "error": traceback.format_exc()})


class Largest(NamedTuple):
    """Say how much of the engine's memory a run uses."""

    message_nbytes: int
    tensor_nbytes: int


def queues_for(readers: int, *, largest: Largest, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return MessageQueues whose memory is touched as far as a run uses it.

    A server's is, after its first requests: the page faults of the first round are nobody's way.
    """
    broadcast = module("vllm.distributed.device_communicators.shm_broadcast")
    made = {}
    for kind in kinds:
        queue = made[kind] = broadcast.MessageQueue(readers, readers, **QUEUES[kind])
        ring = queue.buffer
        nbytes = largest.message_nbytes
        touch_blocks(ring.shared_memory.buf, ring.max_chunk_bytes, ring.max_chunks, nbytes)
        if queue.tensor_arena is not None:
            arena = queue.tensor_arena
            nbytes = largest.tensor_nbytes
            touch_blocks(arena.shared_memory.buf, arena.slot_bytes, arena.n_slots, nbytes)
    return made


def touch_blocks(memory: Any, block_nbytes: int, count: int, nbytes: int) -> None:
    """Write to each page of the first bytes of each block; nothing is in them yet."""
    pages = np.frombuffer(memory, np.uint8)
    for block in range(count):
        begin = block * block_nbytes
        pages[begin : begin + min(block_nbytes, nbytes) : 4096] = 0
    del pages


def cache_settings(tp_size: int) -> Any:
    """Return what vLLM's shm processor cache asks of its configuration."""
    settings = types.SimpleNamespace(
        mm_processor_cache_gb=CACHE_GIB, mm_shm_cache_max_object_size_mb=LARGEST_ITEM_MIB
    )
    return types.SimpleNamespace(
        parallel_config=types.SimpleNamespace(world_size=tp_size),
        model_config=types.SimpleNamespace(get_multimodal_config=lambda: settings),
    )


def route(answers: Any, tp_size: int, folder: str, orders: list[Any], largest: Largest) -> None:
    """Be the engine core: decode each request and enqueue its features."""
    import zmq

    from mmformat.adapters.vllm import mm_decoder

    torch.set_num_threads(1)
    serial = module("vllm.v1.serial_utils")
    serial.PIN_MEMORY = False
    engine_request = module("vllm.v1.engine").EngineCoreRequest
    decoders = {"vllm": serial.MsgpackDecoder(engine_request), "ours": mm_decoder(engine_request)}
    queues = queues_for(tp_size, largest=largest, kinds=("queue", "arena", "large"))
    for order in orders:
        order.put({kind: queue.export_handle() for kind, queue in queues.items()})
    for queue in queues.values():
        queue.wait_until_ready()
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.connect(f"ipc://{folder}/engine")
    answers.put({"rank": tp_size, "rid": "ready"})
    while True:
        head, *frames = socket.recv_multipart(copy=False)
        key = bytes(head.buffer).decode()
        if key == "stop":
            return
        received = decoders[WAYS[key].side].decode(frames)
        queues[WAYS[key].channel].enqueue(received.mm_features)
        del received, frames


class Post(NamedTuple):
    """Say where a worker stands."""

    rank: int
    tp_size: int
    folder: str
    arena: str


def work(answers: Any, post: Post, orders: Any, lock: Any) -> None:
    """Be a worker: take the features of each request and look at every page."""
    import zmq

    from mmformat.adapters.vllm import attach

    torch.set_num_threads(1)
    serial = module("vllm.v1.serial_utils")
    serial.PIN_MEMORY = False
    broadcast = module("vllm.distributed.device_communicators.shm_broadcast")
    inputs = module("vllm.multimodal.inputs")
    caches = module("vllm.multimodal.cache.shm")
    # A dictionary is expanded on the device, where it costs less than its bytes on the bus.
    rank = post.rank
    readers = attach(rank, expand=False)
    readers.attach(post.arena)
    cache = caches.ShmObjectStoreReceiverCache(cache_settings(post.tp_size), lock)
    decoder = serial.MsgpackDecoder(list[inputs.MultiModalFeatureSpec])
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.connect(f"ipc://{post.folder}/worker-{rank}")
    queues = {
        part: {
            kind: broadcast.MessageQueue.create_from_handle(handle, rank)
            for kind, handle in orders.get(timeout=START_S).items()
        }
        for part in ("one hop", "whole way")
    }
    for part in queues.values():
        for queue in part.values():
            queue.wait_until_ready()
    answers.put({"rank": rank, "rid": "ready"})
    while (key := orders.get()) != "stop":
        way = WAYS[key]
        answers.put({"rank": rank, "rid": "listening"})
        if way.channel == "zmq":
            features = decoder.decode(socket.recv_multipart(copy=False))
        else:
            features = queues[way.part][way.channel].dequeue(timeout=ANSWER_S)
        if way.cache:
            cache.get_and_update_features(features)
        values = [feature.data["pixel_values"].data for feature in features]
        ready_ns = clock_ns()
        touch(values)
        touched_ns = clock_ns()
        answers.put(
            {
                "rank": rank,
                "rid": features[0].identifier,
                "ready_ns": ready_ns,
                "touched_ns": touched_ns,
                "digest": digest_of(values),
            }
        )
        del features, values
    readers.close()
    os._exit(0)  # vLLM's threads and segments end with the process
