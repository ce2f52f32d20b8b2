"""The consuming host: one mirror fetches, and every rank reads the local arena.

python examples/two-hosts/ranks.py --ranks 2 --certificates DIR --hand /tmp/remote
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path

import mmformat as mm
from mmformat.net import TLS, Mirror


def rank_main(raw: bytes, rank: int) -> None:
    """Read what all ranks read."""
    with mm.Arena.attach(raw, rank=rank) as reader:
        feature = reader.get(raw, library="numpy").items[0].feature
        print(f"rank {rank}: {feature.dtype} {feature.shape}, sum {feature.sum(dtype=float):.3f}")
        del feature


def main() -> None:
    """Fetch once, and start the ranks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--certificates", type=Path, required=True)
    parser.add_argument("--hand", type=Path, required=True)
    arguments = parser.parse_args()
    while not arguments.hand.exists():
        time.sleep(0.1)
    folder = arguments.certificates
    tls = TLS(
        certificate=folder / "client.pem", private_key=folder / "client.key", ca=folder / "ca.pem"
    )
    with (
        mm.Arena.create(nbytes=2**26, ranks=arguments.ranks) as arena,
        Mirror(arena, tls=tls) as mirror,
    ):
        handle = mirror.fetch(arguments.hand.read_bytes(), timeout_s=60)
        context = multiprocessing.get_context("spawn")
        ranks = [
            context.Process(target=rank_main, args=(bytes(handle), rank))
            for rank in range(arguments.ranks)
        ]
        for each in ranks:
            each.start()
        for each in ranks:
            each.join()
            assert each.exitcode == 0
        print(f"{mirror.stats().fetched_nbytes:,} bytes came, for {arguments.ranks} ranks")


if __name__ == "__main__":
    main()
