"""A consuming host as a process: one mirror, and as many ranks as it has, each a process."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

import mmformat as mm
from mmformat.errors import MMFormatError
from mmformat.net import TLS, Mirror


def rank_main(name: str, rank: int, pipe: Connection) -> None:
    """Get what handles come, and answer with the digest of the feature."""
    with mm.Arena.attach(name, rank=rank, timeout_s=10) as reader, contextlib.suppress(EOFError):
        pipe.send("ready")
        while (raw := pipe.recv()) is not None:
            try:
                feature = reader.get(raw, library="numpy").items[0].feature
                pipe.send(blake3(np.ascontiguousarray(feature).data).hexdigest())
                del feature
            except MMFormatError as error:
                pipe.send(error.code)


class Ranks:
    """Hold the rank processes of a host, and restart one that was killed."""

    def __init__(self, arena: mm.Arena, count: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._arena = arena
        self._members: list[tuple[Any, Connection]] = [self._start(rank) for rank in range(count)]
        for _, pipe in self._members:
            pipe.recv()

    def _start(self, rank: int) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=rank_main, args=(self._arena.name, rank, theirs), daemon=True
        )
        process.start()
        theirs.close()
        return process, ours

    def read(self, handle: bytes) -> list[str]:
        """Return what each rank saw: a digest, a code, or ``dead``."""
        seen: list[str] = []
        for _, pipe in self._members:
            try:
                pipe.send(handle)
            except OSError:
                continue
        for rank, (_, pipe) in enumerate(self._members):
            try:
                seen.append(pipe.recv() if pipe.poll(20) else "silent")
            except (EOFError, OSError):
                seen.append("dead")
                self._arena.reap()
                self._members[rank] = self._start(rank)
                self._members[rank][1].recv()
        return seen

    def kill(self, rank: int) -> None:
        """Kill one with SIGKILL, and go on."""
        self._members[rank][0].kill()

    def stop(self) -> None:
        """Let all of them end."""
        for process, pipe in self._members:
            with contextlib.suppress(OSError):
                pipe.send(None)
            process.join(10)


def main(options: dict[str, Any]) -> None:
    """Serve until the line ``stop``; fetches of one line run at once."""
    tls = None
    if options.get("certificates"):
        folder = Path(str(options["certificates"]))
        tls = TLS(
            certificate=folder / "client.pem",
            private_key=folder / "client.key",
            ca=folder / "ca.pem",
        )
    with (
        mm.Arena.create(nbytes=options["nbytes"], ranks=options["ranks"], slots=4096) as arena,
        Mirror(
            arena,
            tls=tls,
            insecure=tls is None,
            stream_s=options.get("stream_s", 2.0),
            transfers=options.get("transfers", 4),
        ) as mirror,
        ThreadPoolExecutor(32) as pool,
    ):
        ranks = Ranks(arena, options["ranks"])
        print(json.dumps({"pid": os.getpid()}), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["do"] == "stop":
                break
            print(json.dumps(answer(arena, mirror, ranks, pool, asked)), flush=True)
        ranks.stop()


def answer(
    arena: mm.Arena, mirror: Mirror, ranks: Ranks, pool: ThreadPoolExecutor, asked: dict[str, Any]
) -> dict[str, Any]:
    """Do one thing."""
    if asked["do"] == "fetch":

        def one(raw: str) -> tuple[Any, float]:
            started_s = time.monotonic()
            try:
                found: Any = mirror.fetch(bytes.fromhex(raw), timeout_s=asked["timeout_s"])
            except MMFormatError as error:
                found = error.code
            return found, time.monotonic() - started_s

        started_s = time.monotonic()
        fetched = list(pool.map(one, asked["remotes"]))
        if "kill_rank" in asked:
            ranks.kill(asked["kill_rank"])
        seen = [
            found if isinstance(found, str) else ranks.read(bytes(found)) for found, _ in fetched
        ]
        return {
            "seen": seen,
            "fetch_s": [took for _, took in fetched],
            "all_s": time.monotonic() - started_s,
        }
    if asked["do"] == "fill":
        slot = arena.transport.reserve(asked["nbytes"])
        pool.submit(lambda: (time.sleep(asked["for_s"]), slot.abandon()))
        return {}
    if asked["do"] == "whole":
        # Room for the whole arena in one piece: what is only cached goes, what is held does not.
        try:
            arena.transport.reserve(arena.stats().nbytes, timeout_s=5).abandon()
        except MMFormatError as error:
            return {"error": str(error)}
        return {}
    arena.reap()
    mirror.flush()
    stats, slots = mirror.stats(), arena.stats()
    return {
        "fetched": stats.fetched,
        "fetched_nbytes": stats.fetched_nbytes,
        "present": stats.present,
        "joined": stats.joined,
        "resumed": stats.resumed,
        "transfers": stats.transfers,
        "slots_granted": slots.slots_granted,
        "maxrss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
