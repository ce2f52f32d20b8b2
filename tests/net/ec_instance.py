"""One vLLM instance as its connector sees it: the real factory, configuration and base classes."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from blake3 import blake3
from vllm.config import ECTransferConfig
from vllm.distributed.ec_transfer.ec_connector.base import ECConnectorRole
from vllm.distributed.ec_transfer.ec_connector.factory import ECConnectorFactory


def output_of(seed: int, tokens: int, dtype: str) -> torch.Tensor:
    """Return the encoder output that a seed stands for."""
    made = torch.Generator().manual_seed(seed)
    return torch.randn((tokens, 1024), generator=made).to(getattr(torch, dtype))


def digest(value: torch.Tensor) -> str:
    """Return what two hosts compare."""
    raw = value.contiguous().view(torch.uint8).numpy()
    return f"{value.dtype}{tuple(value.shape)}{blake3(raw.tobytes()).hexdigest()}"


def connector(
    role: ECConnectorRole, ec_role: str, extra: dict[str, Any], rank: int, tp: int
) -> Any:
    """Make the connector as vLLM does: by name and module path."""
    config = ECTransferConfig(
        ec_connector="MMFormatECConnector",
        ec_connector_module_path="mmformat.adapters.vllm_ec",
        ec_role=ec_role,
        ec_connector_extra_config=extra,
    )
    parallel = SimpleNamespace(rank=rank, world_size=tp)
    made = SimpleNamespace(ec_transfer_config=config, parallel_config=parallel)
    return ECConnectorFactory.create_connector(made, role)


def step(worker: Any, metadata: Any, cache: dict[str, Any], new: dict[str, Any]) -> None:
    """Run one step in the worker's own order."""
    worker.bind_connector_metadata(metadata)
    if worker.is_producer:
        worker.start_save_caches()
    if worker.is_consumer:
        worker.start_load_caches(cache)
    for mm_hash, value in new.items():
        cache[mm_hash] = value
        worker.save_caches(cache, mm_hash)
    worker.get_finished(set())
    worker.build_connector_worker_meta()
    worker.clear_connector_metadata()


def worker_main(pipe: Any, extra: dict[str, Any], rank: int, tp: int) -> None:
    """Run a tensor-parallel worker of a prefill instance."""
    worker = connector(ECConnectorRole.WORKER, "ec_consumer", extra, rank, tp)
    pipe.send("ready")
    while (raw := pipe.recv()) is not None:
        cache: dict[str, Any] = {}
        step(worker, pickle.loads(raw), cache, {})
        pipe.send({name: digest(value) for name, value in cache.items()})
        del cache
    worker.shutdown()


class Prefill:
    """Hold the scheduler's connector and the workers'."""

    def __init__(self, extra: dict[str, Any], tp: int) -> None:
        self.scheduler = connector(ECConnectorRole.SCHEDULER, "ec_consumer", extra, 0, tp)
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for rank in range(tp):
            ours, theirs = context.Pipe()
            context.Process(target=worker_main, args=(theirs, extra, rank, tp), daemon=True).start()
            self.pipes.append(ours)
        for pipe in self.pipes:
            pipe.recv()

    def run(self, mm_hashes: list[str], timeout_s: float) -> dict[str, Any]:
        """Schedule one request as vLLM does, and say what each worker's encoder cache holds."""
        request = SimpleNamespace(
            request_id="r",
            mm_features=[
                SimpleNamespace(
                    identifier=name, mm_position=SimpleNamespace(offset=100 * n, length=100)
                )
                for n, name in enumerate(mm_hashes)
            ],
        )
        started_s, deferred = time.monotonic(), 0
        while not self.scheduler.ensure_cache_available(request, 0):
            deferred += 1
            if time.monotonic() - started_s > timeout_s:
                return {"error": "deferred for ever"}
            time.sleep(0.0005)
        ready_s = time.monotonic() - started_s
        found = [self.scheduler.has_cache_item(name) for name in mm_hashes]
        for index, name in enumerate(mm_hashes):
            if self.scheduler.has_cache_item(name):
                self.scheduler.update_state_after_alloc(request, index)
        metadata = pickle.dumps(self.scheduler.build_connector_meta(None))
        for pipe in self.pipes:
            pipe.send(metadata)
        seen = [pipe.recv() for pipe in self.pipes]
        return {
            "found": found,
            "seen": seen,
            "deferred": deferred,
            "ready_s": ready_s,
            "all_s": time.monotonic() - started_s,
            "failed": sorted(self.scheduler.take_unavailable_requests()),
            "metadata_nbytes": len(metadata),
        }

    def close(self) -> None:
        """End the workers, then the scheduler's side."""
        for pipe in self.pipes:
            pipe.send(None)
        time.sleep(0.5)
        self.scheduler.shutdown()


def main(options: dict[str, Any]) -> None:
    """Serve until the line ``stop``."""
    extra = options["extra"]
    if options["role"] == "encoder":
        worker = connector(ECConnectorRole.WORKER, "ec_producer", extra, 0, 1)
        scheduler = connector(ECConnectorRole.SCHEDULER, "ec_producer", extra, 0, 1)
        location = worker.encoder.publisher.location
    else:
        prefill, location = Prefill(extra, options["tp"]), ""
    print(json.dumps({"pid": os.getpid(), "location": location}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "stop":
            break
        if asked["do"] == "encode":
            value = output_of(asked["seed"], asked["tokens"], asked["dtype"])
            step(worker, scheduler.build_connector_meta(None), {}, {asked["mm_hash"]: value})
            said: dict[str, Any] = {"digest": digest(value), "nbytes": value.nbytes}
            said["kept"] = worker.encoder.publisher.stats().published
        else:
            said = prefill.run(asked["mm_hashes"], 20)
            said["granted"] = prefill.scheduler.prefill.arena.stats().slots_granted
        print(json.dumps(said), flush=True)
    if options["role"] == "encoder":
        worker.shutdown()
    else:
        prefill.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
