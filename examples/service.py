"""A FastAPI service: it takes an image, puts it once, and answers with what its ranks saw.

uvicorn examples.service:app --workers 1
curl --data-binary @photo.jpg http://127.0.0.1:8000/images
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection

import numpy as np
from fastapi import FastAPI, HTTPException, Request

import mmformat as mm
from mmformat.media.processors import processor_from_config

RANKS = 2
LIMIT_NBYTES = 16 * 2**20


def serve_rank(name: str, number: int, channel: Connection) -> None:
    """Read every message whose handle arrives, and answer with shape and digest."""
    with mm.Arena.attach(name, rank=number) as rank:
        while handle := channel.recv_bytes():
            pixels = np.asarray(rank.get(handle).items[0].feature)
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            channel.send_bytes(f"{pixels.shape} {digest}".encode())
            del pixels  # the last tensor to go releases the slot


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep an arena, a pool and the ranks for as long as the service lives."""
    processor = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"})
    spawn = multiprocessing.get_context("spawn")
    with (
        mm.Arena.create(nbytes=2**28, ranks=RANKS) as arena,
        mm.MaterializePool(2, "thread", processor=processor) as pool,
    ):
        channels, processes = [], []
        for number in range(RANKS):
            ours, theirs = spawn.Pipe()
            channels.append(ours)
            rank = spawn.Process(target=serve_rank, args=(arena.name, number, theirs), daemon=True)
            rank.start()
            processes.append(rank)
        app.state.arena, app.state.pool, app.state.channels = arena, pool, channels
        app.state.turn = asyncio.Lock()
        yield
        for channel, rank in zip(channels, processes, strict=True):
            channel.send_bytes(b"")
            rank.join(timeout=30)


app = FastAPI(lifespan=lifespan)


def ask_ranks(channels: list[Connection], handle: bytes) -> list[str]:
    """Send the handle to every rank and return their answers."""
    for channel in channels:
        channel.send_bytes(handle)
    return [channel.recv_bytes().decode() for channel in channels]


@app.post("/images")
async def images(request: Request) -> dict[str, object]:
    """Return the identity of an image and what each rank read."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LIMIT_NBYTES:
            raise HTTPException(413, f"an image may have at most {LIMIT_NBYTES:,} bytes")
    state = request.app.state
    source = mm.Source(body, kind="bytes", max_nbytes=LIMIT_NBYTES)
    item = mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=source)
    try:
        inputs = await state.pool.materialize_async(mm.MultimodalInputs(items=[item]))
    except mm.MMFormatError as error:
        raise HTTPException(422, f"{error.code}: {error}") from error
    handle = bytes(await asyncio.to_thread(state.arena.put, inputs))
    async with state.turn:  # one pipe for each rank: one request at a time speaks
        seen = await asyncio.to_thread(ask_ranks, state.channels, handle)
    return {"identity": inputs.items[0].identity, "handle_nbytes": len(handle), "ranks": seen}
