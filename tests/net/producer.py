"""A producing host as a process: publishes what it is told, one line in, one line out."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

import mmformat as mm
from mmformat.errors import MMFormatError
from mmformat.net import TLS, Publisher


def payload(seed: int, nbytes: int) -> mm.MultimodalInputs:
    """Return what a seed stands for, on every host."""
    feature = np.random.default_rng(seed).integers(0, 255, nbytes, dtype=np.uint8)
    return mm.MultimodalInputs(items=[mm.MultimodalDataItem(modality="IMAGE", feature=feature)])


def main(options: dict[str, object]) -> None:
    """Serve until the line ``stop``."""
    tls = None
    if options.get("certificates"):
        folder = Path(str(options["certificates"]))
        tls = TLS(
            certificate=folder / "server.pem",
            private_key=folder / "server.key",
            ca=folder / "ca.pem",
        )
    with (
        mm.Arena.create(nbytes=int(str(options["nbytes"])), ranks=1, slots=4096) as arena,
        Publisher(
            arena,
            f"{options['address']}:0",
            tls=tls,
            insecure=tls is None,
            ttl_s=float(str(options.get("ttl_s", 60))),
            lease_s=float(str(options.get("lease_s", 15))),
        ) as publisher,
    ):
        print(json.dumps({"pid": os.getpid()}), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["do"] == "stop":
                break
            try:
                print(json.dumps(answer(arena, publisher, asked)), flush=True)
            except MMFormatError as error:
                print(json.dumps({"error": error.code, "text": str(error)}), flush=True)


def answer(arena: mm.Arena, publisher: Publisher, asked: dict[str, object]) -> dict[str, object]:
    """Do one thing."""
    if asked["do"] == "publish":
        inputs = payload(int(str(asked["seed"])), int(str(asked["nbytes"])))
        remote = publisher.publish(inputs, hosts=int(str(asked.get("hosts", 1))), timeout_s=10)
        return {"remote": bytes(remote).hex(), "nbytes": remote.nbytes}
    if asked["do"] == "wait":
        done = publisher.wait_acknowledged(timeout_s=float(str(asked["timeout_s"])))
        deadline_s = time.monotonic() + 5
        while arena.stats().free_nbytes < arena.stats().nbytes:  # network buffers may live on
            if time.monotonic() > deadline_s:
                return {"done": False}
            time.sleep(0.01)
        return {"done": done}
    stats, slots = publisher.stats(), arena.stats()
    return {
        "published": stats.published,
        "leases": stats.leases,
        "streams": stats.streams,
        "sent_nbytes": stats.sent_nbytes,
        "slots_granted": slots.slots_granted,
        "free_nbytes": slots.free_nbytes,
        "nbytes": slots.nbytes,
        "maxrss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
