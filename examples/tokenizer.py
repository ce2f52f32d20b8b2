"""An asyncio tokenizer with a pool: many requests at once, and the event loop is never blocked.

python examples/tokenizer.py photo.jpg photo.png
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import mmformat as mm
from mmformat.media.processors import processor_from_config


async def longest_stall(stop: asyncio.Event) -> float:
    """Return the longest time in milliseconds that the loop did not come round."""
    longest_s, last_s = 0.0, time.monotonic()
    while not stop.is_set():
        await asyncio.sleep(0)
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
        await asyncio.sleep(0.001)
        last_s = time.monotonic()
    return longest_s * 1e3


async def serve(photos: list[Path]) -> None:
    """Materialize every photograph in the pool, and put each into the arena off the loop."""
    processor = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"})
    with (
        mm.MaterializePool(2, "thread", processor=processor) as pool,
        mm.Arena.create(nbytes=2**28, ranks=1) as arena,
    ):
        stop = asyncio.Event()
        watch = asyncio.create_task(longest_stall(stop))

        async def request(photo: Path) -> bytes:
            item = mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=mm.Source(photo))
            inputs = await pool.materialize_async(mm.MultimodalInputs(items=[item]))
            return bytes(await asyncio.to_thread(arena.put, inputs))

        handles = await asyncio.gather(*(request(photo) for photo in photos))
        stop.set()
        print(f"{len(handles)} requests; the loop stalled for {await watch:.1f} ms at most")
        with mm.Arena.attach(arena.name, rank=0) as rank:
            for photo, handle in zip(photos, handles, strict=True):
                print(photo.name, rank.get(handle).items[0].feature.shape)


def main() -> None:
    """Serve the photographs that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    asyncio.run(serve(parser.parse_args().photos))


if __name__ == "__main__":
    main()
