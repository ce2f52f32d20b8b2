"""The bytes of one still under each encoding, and the CPU that each takes once pixels are there."""

from __future__ import annotations

import io
from typing import Any

import blosc2
import lz4.frame
import numpy as np
import torch
import zstandard
from PIL import Image

from benchmarks.dictionary.subjects import NAMES, QWEN, cpu_ms, jpeg
from mmformat.media.processors import processor_from_config


def run(rounds: int) -> list[dict[str, Any]]:
    """Return a row for each photograph and encoding, beside a copy of the float32 tensor."""
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    ours = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor", **QWEN})
    zstd = zstandard.ZstdCompressor(level=3)
    rows = []
    for name in NAMES:
        image = Image.open(io.BytesIO(jpeg(name, 1024, 1024)))
        image.load()
        dictionary = ours(image).feature
        plain = dictionary.expand()
        bfloat16 = dictionary.to("bfloat16")
        one_frame = np.ascontiguousarray(dictionary.codes)
        tensor = torch.from_numpy(plain)
        cases = {
            "float32, copied": plain.copy,
            "bfloat16 of it": lambda t=tensor: t.to(torch.bfloat16),
            "LZ4 of it": lambda a=plain: lz4.frame.compress(a),
            "zstd -3 of it": lambda a=plain: zstd.compress(memoryview(a).cast("B")),
            "Blosc2 shuffle+LZ4": lambda a=plain: blosc2.compress2(
                a, codec=blosc2.Codec.LZ4, filters=[blosc2.Filter.SHUFFLE], clevel=5
            ),
            "uint8, frames repeated": lambda c=one_frame: np.repeat(c[:, :, None], 2, axis=2),
            "codes, from pixels": lambda i=image: ours(i).feature.codes,
            "codes + LZ4": lambda c=one_frame: lz4.frame.compress(c),
            "codes + zstd -3": lambda c=one_frame: zstd.compress(memoryview(c).cast("B")),
            "codes -> float32": dictionary.expand,
            "codes -> bfloat16": bfloat16.expand,
        }
        samples = cpu_ms(cases, rounds)
        for case, make in cases.items():
            made = make()
            nbytes = made.nbytes if hasattr(made, "nbytes") else len(made)
            if case.startswith("codes") and not case.startswith("codes ->"):
                nbytes += dictionary.table.nbytes
            text = (
                f"{name:22} {case:24} {nbytes:>11,} bytes 1/{plain.nbytes / nbytes:5.2f} "
                f"{samples[case].median:7.1f} ms"
            )
            rows.append({"text": text, "nbytes": nbytes, "samples": samples[case].to_json()})
    return rows
