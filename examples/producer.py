"""The first terminal: put photographs into an arena and send each rank their handles.

python examples/producer.py photo.jpg --ranks 2      # then start rank.py twice
"""

from __future__ import annotations

import argparse
from multiprocessing.connection import Listener
from pathlib import Path

import mmformat as mm
from mmformat.media.processors import processor_from_config

SOCKET = "/tmp/mmformat-example.sock"  # noqa: S108  # an example; a server has a channel already


def main() -> None:
    """Wait for the ranks, then put each photograph once for all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--socket", default=SOCKET)
    arguments = parser.parse_args()
    processor = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"})
    with (
        mm.Arena.create(nbytes=2**28, ranks=arguments.ranks) as arena,
        Listener(arguments.socket, family="AF_UNIX") as listener,
    ):
        print(f"start {arguments.ranks} times: python examples/rank.py --socket {arguments.socket}")
        ranks = []
        for number in range(arguments.ranks):
            ranks.append(listener.accept())
            ranks[-1].send_bytes(f"{arena.name} {number}".encode())
        for photo in arguments.photos:
            item = mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=mm.Source(photo))
            inputs = mm.materialize(mm.MultimodalInputs(items=[item]), processor)
            handle = bytes(arena.put(inputs))
            for rank in ranks:
                rank.send_bytes(handle)
            answers = {rank.recv_bytes().decode() for rank in ranks}
            print(f"{photo}: {len(handle)} bytes sent to each rank, they read {answers}")
        for rank in ranks:
            rank.send_bytes(b"")
            rank.close()


if __name__ == "__main__":
    main()
