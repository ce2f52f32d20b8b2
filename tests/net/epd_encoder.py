"""SGLang's own encoder class, sending to receivers on another host."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import torch
import zmq
import zmq.asyncio
from sglang.srt.disaggregation.encoder import server
from sglang.srt.disaggregation.encoder.receiver import EmbeddingData
from sglang.srt.managers.schedule_batch import Modality
from sglang.srt.plugins.hook_registry import HookRegistry

from mmformat.adapters.sglang_epd import register


def embedding_of(seed: int, tokens: int) -> torch.Tensor:
    """Return the embedding that a seed stands for."""
    made = torch.Generator().manual_seed(seed)
    return torch.randn((tokens, 1024), generator=made).to(torch.bfloat16)


async def send(encoder: Any, asked: dict[str, Any]) -> None:
    """Send every embedding to every rank, all at once."""
    calls = []
    for seed in asked["seeds"]:
        value = embedding_of(seed, asked["tokens"])
        data = EmbeddingData(f"r{seed}", 1, 0, [1, 2, 3], Modality.IMAGE, value)
        for port in asked["ports"]:
            calls.append(
                encoder._send(value, data, prefill_host=asked["host"], embedding_port=port)
            )
    await asyncio.gather(*calls)


def main(options: dict[str, Any]) -> None:
    """Answer until the line ``stop``."""
    os.environ.update(options["environment"])
    server.get_disagg = lambda: SimpleNamespace(encoder_transfer_backend="zmq_to_tokenizer")
    register()
    HookRegistry.apply_hooks()
    encoder = object.__new__(server.MMEncoder)
    encoder.transfer_backend = "zmq_to_tokenizer"
    encoder.sync_context = zmq.Context()
    encoder.send_timeout = 60
    encoder.executor = ThreadPoolExecutor(8)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "stop":
            break
        asyncio.run(send(encoder, asked))
        print(json.dumps({}), flush=True)
    os._exit(0)  # the publisher is the hook's, for the life of the server


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
