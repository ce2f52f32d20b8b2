"""One host of the benchmark as a process: a source of messages, or a mirror with its ranks."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import mmformat as mm
from mmformat.net import TLS, Mirror, Publisher

PHOTOS = Path(__file__).parents[1] / "photos"


def payload(kind: str) -> Any:
    """Return the array, or the dictionary tensor, that is sent."""
    if kind == "large":
        return np.random.default_rng(0).integers(0, 255, 200_000_000, dtype=np.uint8)
    from mmformat.media.image import QwenVLImageProcessor

    chance = np.random.default_rng(0)
    # A photograph's statistics do not matter here: nothing is compressed. 1036 x 1036 is 23.0 MB.
    pixels = chance.integers(0, 255, (1036, 1036, 3), dtype=np.uint8)
    item = mm.MultimodalDataItem(modality="IMAGE", feature=mm.Source(pixels))
    made = mm.materialize(mm.MultimodalInputs(items=[item]), QwenVLImageProcessor())
    feature = made.items[0].feature
    assert isinstance(feature, mm.DictionaryTensor)
    return feature if kind == "codes" else np.ascontiguousarray(feature.expand())


class Source:
    """Publish payloads, each time with other content, and send them as others do."""

    def __init__(self, options: dict[str, Any]) -> None:
        tls = None
        if options.get("certificates"):
            folder = Path(options["certificates"])
            tls = TLS(certificate=folder / "server.pem", private_key=folder / "server.key")
        self.arena = mm.Arena.create(nbytes=2**30, ranks=1)
        address = f"{options['address']}:0"
        self.publisher = Publisher(self.arena, address, insecure=True, tls=tls)
        self.payloads = {kind: payload(kind) for kind in options["kinds"]}
        self.count = 0
        self.listening = socket.create_server((options["address"], 0))
        threading.Thread(target=self.serve_socket, daemon=True).start()

    def serve_socket(self) -> None:
        while True:
            peer, _ = self.listening.accept()
            kind = peer.recv(64).decode()
            peer.sendall(memoryview(self.bytes_of(kind)).cast("B"))
            peer.close()

    def bytes_of(self, kind: str) -> Any:
        value = self.payloads[kind]
        return value.codes if isinstance(value, mm.DictionaryTensor) else value

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["do"] == "publish":
            value = self.payloads[asked["kind"]]
            self.count += 1
            self.bytes_of(asked["kind"]).reshape(-1).view(np.uint8)[:4] = list(
                self.count.to_bytes(4, "little")
            )
            item = mm.MultimodalDataItem(modality="IMAGE", feature=value)
            inputs = mm.MultimodalInputs(items=[item])
            remote = self.publisher.publish(inputs, hosts=asked.get("hosts", 1), timeout_s=10)
            return {"remote": bytes(remote).hex(), "nbytes": remote.nbytes}
        if asked["do"] == "epd":
            # As SGLang's MMEncoder._send: for each rank, pickled metadata and the raw bytes.
            import zmq

            raw = self.bytes_of(asked["kind"])
            with zmq.Context() as context:
                for endpoint in asked["endpoints"]:
                    with context.socket(zmq.PUSH) as push:
                        push.connect(endpoint)
                        meta = pickle.dumps({"shape": raw.shape, "dtype": str(raw.dtype)})
                        push.send_multipart([meta, raw.reshape(-1).view(np.uint8)], copy=False)
                        push.close(linger=60_000)
            return {"nbytes": raw.nbytes}
        if asked["do"] == "leases":
            before = memory()
            for number in range(asked["count"]):
                remote = asked["remotes"][0]
                from mmformat.net.remote_handle import RemoteHandle

                key = RemoteHandle.from_bytes(bytes.fromhex(remote)).key
                self.publisher._leases.lease(key, number.to_bytes(16, "little"))
            return {"nbytes": (memory() - before) * 1024}
        return {"maxrss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def memory() -> int:
    """Return private memory in KiB, without shared pages."""
    text = Path("/proc/self/smaps_rollup").read_text()
    found = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
    return int(found["Private_Clean"]) + int(found["Private_Dirty"])


def rank_main(name: str, rank: int, pipe: Any) -> None:
    """Get handles, touch every page, and say when that was done."""
    with mm.Arena.attach(name, rank=rank, timeout_s=10) as reader:
        pipe.send(0.0)
        while (asked := pipe.recv()) is not None:
            raw, expand = asked
            item = reader.get(raw, library="numpy", expand=expand).items[0]
            value = item.feature.codes if hasattr(item.feature, "codes") else item.feature
            int(value.reshape(-1).view(np.uint8)[::4096].sum())
            done_s = time.monotonic()  # one clock for all processes of a machine
            del item, value
            pipe.send(done_s)


class Sink:
    """Fetch once, and let every rank read."""

    def __init__(self, options: dict[str, Any]) -> None:
        tls = None
        if options.get("certificates"):
            tls = TLS(ca=Path(options["certificates"]) / "ca.pem")
        self.address = options["address"]
        self.arena = mm.Arena.create(nbytes=2**30, ranks=max(1, options["ranks"]))
        self.before_kib = memory()
        self.mirror = Mirror(self.arena, insecure=True, tls=tls)
        self.pipes = []
        context = multiprocessing.get_context("spawn")
        for rank in range(options["ranks"]):
            ours, theirs = context.Pipe()
            arguments = (self.arena.name, rank, theirs)
            context.Process(target=rank_main, args=arguments, daemon=True).start()
            ours.recv()
            self.pipes.append(ours)
        self.slot = np.frombuffer(self.arena.transport.reserve(200_000_000).view, np.uint8)

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        started_s = time.monotonic()
        if asked["do"] == "fetch":
            handle = self.mirror.fetch(bytes.fromhex(asked["remote"]), timeout_s=60)
            fetched_s = time.monotonic() - started_s
            for pipe in self.pipes:
                pipe.send((bytes(handle), asked.get("expand", False)))
            last_s = max([pipe.recv() for pipe in self.pipes], default=started_s) - started_s
            if not self.pipes:
                self.arena.revoke(handle)
            return {"fetch_s": fetched_s, "last_s": last_s}
        if asked["do"] == "socket":
            nbytes, at = asked["nbytes"], 0
            target = memoryview(self.slot)
            with socket.create_connection((asked["host"], asked["port"])) as peer:
                peer.sendall(asked["kind"].encode())
                while at < nbytes:
                    at += peer.recv_into(target[at : min(nbytes, at + 2**20)])
            return {"fetch_s": time.monotonic() - started_s}
        if asked["do"] == "listen":
            import zmq

            self.context = zmq.Context()
            self.pulls = [self.context.socket(zmq.PULL) for _ in range(asked["ranks"])]
            ports = [pull.bind_to_random_port(f"tcp://{self.address}") for pull in self.pulls]
            return {"endpoints": [f"tcp://{self.address}:{port}" for port in ports]}
        if asked["do"] == "pull":
            import zmq

            nbytes = sum(len(pull.recv_multipart()[1]) for pull in self.pulls)
            for pull in self.pulls:
                pull.close(linger=0)
            self.context.term()
            return {"nbytes": nbytes, "last_s": time.monotonic() - started_s}
        return {"private_kib": memory(), "grown_kib": memory() - self.before_kib}


def main(options: dict[str, Any]) -> None:
    """Answer until the line ``stop``."""
    made: Any = Source(options) if options["role"] == "source" else Sink(options)
    said: dict[str, Any] = {"pid": os.getpid()}
    if options["role"] == "source":
        said["port"] = made.listening.getsockname()[1]
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "stop":
            break
        print(json.dumps(made.answer(asked)), flush=True)
    for pipe in getattr(made, "pipes", ()):
        pipe.send(None)
    if options["role"] == "source":
        made.publisher.close()
    else:
        made.mirror.close()
        del made.slot
    made.arena.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
