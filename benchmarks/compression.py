"""Compression: encode and decode beside Arrow's own, lz4.frame, Blosc2 and a memcpy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image, ImageOps

from benchmarks.payloads import PHOTOS, payload
from benchmarks.results import Result, Subject
from benchmarks.scenarios import Run
from mmformat._arrow import ZSTD_LEVEL, core_count
from mmformat.bench.measure import Cell, Samples, clock_ns, turns, without_collection
from mmformat.codec import decode, encode
from mmformat.media.processors import processor_from_config
from mmformat.model import Compression, MultimodalInputs

__all__ = ["run_compression"]

_NOTES: Final = {
    "mmformat-lz4": ("mmformat, LZ4", "chunks of 1 MiB on all cores, into one tensor"),
    "mmformat-zstd": ("mmformat, Zstandard", f"the same, level {ZSTD_LEVEL}"),
    "arrow-lz4": ("pyarrow IPC, LZ4", "one buffer, as pyarrow writes a tensor: one core"),
    "arrow-zstd": ("pyarrow IPC, Zstandard", f"one buffer, level {ZSTD_LEVEL}"),
    "lz4-frame": ("lz4.frame", "the lz4 package, one frame: one core"),
    "blosc2": ("Blosc2, shuffle and LZ4", "bytes shuffled by element, level 5, on all cores"),
    "memcpy": ("control: numpy.copyto", "the plain bytes into touched memory, twice"),
}
_MODULES: Final = {"lz4-frame": ("lz4.frame", "lz4"), "blosc2": ("blosc2", "blosc2")}
_WARMUP_ROUNDS: Final = 2


def run_compression(run: Run) -> Result:
    """Measure ``encode_ns``, ``decode_ns`` and ``round_trip_ns`` of one tensor, and its bytes.

    Parameters
    ----------
    run : Run
        What to measure.

    Returns
    -------
    Result
        Also the rates, in plain bytes for each nanosecond. Each method's result is compared bit for
        bit in every round.
    """
    result = Result(
        scenario="compression",
        settings={"quick": run.quick, "rounds": run.rounds, "cores": core_count()},
        notes=_NOTES,
    )
    present = []
    for method in run.methods:
        module, package = _MODULES.get(method, ("mmformat", "mmformat"))
        try:
            importlib.import_module(module)
            present.append(method)
        except ImportError:
            result.missing[method] = f"the package {package} is not installed"
    for number, name in enumerate(run.payloads):
        if run.follow is not None:
            run.follow(name, number / len(run.payloads))
        _measured(result, name, present, run.rounds or (3 if run.quick else 11))
    return result


@dataclass(frozen=True, slots=True)
class _Arm:
    """Two directions of one way: bytes to what travels, and back; and what it weighs."""

    encode: Callable[[], Any]
    decode: Callable[[Any], Any]
    weigh: Callable[[Any], int] = len


def _measured(result: Result, name: str, methods: Sequence[str], rounds: int) -> None:
    tensor = _PAYLOADS[name]()
    raw = tensor.reshape(-1).view(torch.uint8).numpy()
    shape = " x ".join(map(str, tensor.shape))
    result.subjects[name] = Subject(
        name=name,
        title=f"{name.replace('-', ', ')} ({shape}), {raw.nbytes / 1e6:.1f} MB",
        nbytes=raw.nbytes,
    )
    ways = _ways(tensor, raw)
    cells = {method: Cell(payload=name, method=method) for method in methods}
    for turn in turns(methods, rounds=rounds, warmup=_WARMUP_ROUNDS):
        way, cell = ways[turn.name], cells[turn.name]
        with without_collection():
            start_ns = clock_ns()
            packed = way.encode()
            encoded_ns = clock_ns()
            made = way.decode(packed)
            decoded_ns = clock_ns()
        cell.correct &= bool(np.array_equal(_bytes_of(made), raw))
        cell.wire_nbytes = way.weigh(packed)
        if turn.is_recorded:
            times = {
                "encode": encoded_ns - start_ns,
                "decode": decoded_ns - encoded_ns,
                "round_trip": decoded_ns - start_ns,
            }
            cell.add(**{f"{part}_ns": value for part, value in times.items()})
            for part in ("encode", "decode"):
                rates = cell.metrics.setdefault(f"{part}_bytes/ns", Samples("bytes/ns"))
                rates.values.append(raw.nbytes / times[part])
        del packed, made
    for cell in cells.values():
        cell.metrics["ratio_count"] = Samples("count", [raw.nbytes / cell.wire_nbytes])
        result.cells.append(cell)


def _bytes_of(value: Any) -> npt.NDArray[np.uint8]:
    if isinstance(value, torch.Tensor):
        value = value.reshape(-1).view(torch.uint8).numpy()
    return np.frombuffer(value, np.uint8)


def _ways(tensor: torch.Tensor, raw: npt.NDArray[np.uint8]) -> dict[str, _Arm]:
    targets = np.zeros((2, raw.size), np.uint8)
    itemsize = tensor.element_size()
    return {
        "mmformat-lz4": _ours(tensor, "lz4"),
        "mmformat-zstd": _ours(tensor, "zstd"),
        "arrow-lz4": _arrow(raw, pa.Codec("lz4")),
        "arrow-zstd": _arrow(raw, pa.Codec("zstd", compression_level=ZSTD_LEVEL)),
        "lz4-frame": _Arm(partial(_lz4_compress, raw), _lz4_decompress),
        "blosc2": _Arm(partial(_blosc2_compress, raw, itemsize), _blosc2_decompress),
        "memcpy": _Arm(
            partial(_copied, raw, targets[0]), lambda packed: _copied(packed, targets[1])
        ),
    }


def _ours(tensor: torch.Tensor, codec: str) -> _Arm:
    options = Compression(codec=codec, threshold_nbytes=0)
    inputs = MultimodalInputs(request_data={"x": tensor})
    return _Arm(
        lambda: encode(inputs, options),
        lambda message: decode(message).request_data["x"],
        lambda message: int(message.nbytes),
    )


def _arrow(raw: npt.NDArray[np.uint8], codec: Any) -> _Arm:
    batch = pa.record_batch([pa.array(raw)], names=["x"])
    options = pa.ipc.IpcWriteOptions(compression=codec)

    def write() -> Any:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
            writer.write_batch(batch)
        return sink.getvalue()

    def read(packed: Any) -> Any:
        with pa.ipc.open_stream(packed) as reader:
            return reader.read_next_batch().column(0).to_numpy()

    return _Arm(write, read)


def _lz4_compress(raw: npt.NDArray[np.uint8]) -> Any:
    return importlib.import_module("lz4.frame").compress(raw)


def _lz4_decompress(packed: bytes) -> Any:
    return importlib.import_module("lz4.frame").decompress(packed)


def _blosc2_compress(raw: npt.NDArray[np.uint8], itemsize: int) -> Any:
    blosc2 = importlib.import_module("blosc2")
    shuffle = [blosc2.Filter.SHUFFLE]
    return blosc2.compress2(
        raw,
        codec=blosc2.Codec.LZ4,
        clevel=5,
        typesize=itemsize,
        filters=shuffle,
        filters_meta=[0],
        nthreads=core_count(),
    )


def _blosc2_decompress(packed: bytes) -> Any:
    return importlib.import_module("blosc2").decompress2(packed, nthreads=core_count())


def _copied(raw: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    np.copyto(target, raw)
    return target


def _photograph(dtype: torch.dtype) -> torch.Tensor:
    feature: Any = payload("photo").make(0).items[0].feature
    return feature.to(dtype).contiguous()  # type: ignore[no-any-return]


def _codes() -> torch.Tensor:
    """Return the photograph as a dictionary has it, four times: mirrored and upside down too."""
    make = payload("photo").dictionary
    features: list[Any] = [] if make is None else [make(seed).items[0].feature for seed in (0, 1)]
    codes = [feature.codes for feature in features]
    return torch.cat([*codes, *[each.flip(0) for each in codes]]).contiguous()


def _clip() -> torch.Tensor:
    """Eight photographs through CLIP's processor, each also mirrored."""
    processor = processor_from_config({"image_processor_type": "CLIPImageProcessor"})
    features = []
    for path in sorted(PHOTOS.values(), key=lambda path: path.name):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for each in (image, ImageOps.mirror(image)):
            features.append(processor(each, encoding="plain", dtype="float32").feature)
    return torch.cat([torch.as_tensor(feature) for feature in features]).contiguous()


def _gaussian(dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1800, 3584), generator=generator).to(dtype)


_PAYLOADS: Final[dict[str, Callable[[], torch.Tensor]]] = {
    "photo-float32": partial(_photograph, torch.float32),
    "photo-bfloat16": partial(_photograph, torch.bfloat16),
    "photo-uint8": _codes,
    "clip-float32": _clip,
    "gaussian-float32": partial(_gaussian, torch.float32),
    "gaussian-bfloat16": partial(_gaussian, torch.bfloat16),
}
