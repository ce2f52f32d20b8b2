"""A further terminal: receive handles from producer.py and read the tensors where they lie."""

from __future__ import annotations

import argparse
import hashlib
from multiprocessing.connection import Client

import numpy as np

import mmformat as mm

SOCKET = "/tmp/mmformat-example.sock"  # noqa: S108  # as in producer.py


def main() -> None:
    """Read every message until the producer sends an empty one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", default=SOCKET)
    arguments = parser.parse_args()
    with Client(arguments.socket, family="AF_UNIX") as producer:
        name, number = producer.recv_bytes().decode().split()
        with mm.Arena.attach(name, rank=int(number)) as rank:
            while handle := producer.recv_bytes():
                pixels = rank.get(handle).items[0].feature
                digest = hashlib.sha256(np.asarray(pixels).tobytes()).hexdigest()[:12]
                print(f"rank {number}: {tuple(pixels.shape)} {pixels.dtype} sha256 {digest}")
                producer.send_bytes(digest.encode())
                del pixels  # the last tensor to go releases the slot


if __name__ == "__main__":
    main()
