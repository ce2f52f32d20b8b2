"""SGLang's own receivers, one for each rank of a host, beside the host's mirror."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmformat as mm
from mmformat.net import Mirror, MirrorServer


def rank_main(rank: int, address: str, socket: str, pipe: Any) -> None:
    """Receive as the scheduler does, part by part, and say what each embedding is."""
    os.environ |= {"MMFORMAT_EPD_MIRROR": socket, "MMFORMAT_EPD_RANK": str(rank)}
    import torch
    import zmq
    from blake3 import blake3
    from sglang.srt.disaggregation.encoder import receiver
    from sglang.srt.plugins.hook_registry import HookRegistry

    from mmformat.adapters.sglang_epd import register

    register()
    HookRegistry.apply_hooks()
    pull = zmq.Context().socket(zmq.PULL)
    pipe.send(pull.bind_to_random_port(f"tcp://{address}"))
    while (count := pipe.recv()) is not None:
        seen: dict[str, str] = {}
        waiting = object.__new__(receiver.WaitingZmqRequest)
        while len(seen) < count:
            if not pull.poll(60_000):
                break
            parts = pull.recv_multipart(copy=False)
            data = receiver.safe_pickle_loads(parts[0].buffer)
            waiting.recv_req = SimpleNamespace(rid=data.req_id)
            waiting._extract_embedding_from_buffer(data, parts)
            raw = data.embedding.contiguous().view(torch.uint8).numpy().tobytes()
            seen[data.req_id] = f"{data.embedding.dtype}{blake3(raw).hexdigest()}"
            del data, parts
        pipe.send(seen)


def main(options: dict[str, Any]) -> None:
    """Answer until the line ``stop``."""
    folder = tempfile.mkdtemp()
    with (
        mm.Arena.create(nbytes=options["nbytes"], ranks=options["ranks"], slots=4096) as arena,
        Mirror(arena, insecure=True) as mirror,
        MirrorServer(mirror, Path(folder) / "mirror") as server,
    ):
        context = multiprocessing.get_context("spawn")
        pipes, ports = [], []
        for rank in range(options["ranks"]):
            ours, theirs = context.Pipe()
            arguments = (rank, options["address"], str(server.path), theirs)
            context.Process(target=rank_main, args=arguments, daemon=True).start()
            pipes.append(ours)
        ports = [pipe.recv() for pipe in pipes]
        print(json.dumps({"pid": os.getpid(), "ports": ports}), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["do"] == "stop":
                break
            started_s = time.monotonic()
            for pipe in pipes:
                pipe.send(asked["count"])
            seen = [pipe.recv() for pipe in pipes]
            stats = mirror.stats()
            said = {"seen": seen, "fetched": stats.fetched, "all_s": time.monotonic() - started_s}
            print(json.dumps(said), flush=True)
        for pipe in pipes:
            pipe.send(None)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
