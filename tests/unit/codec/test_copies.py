"""No byte of a tensor is copied: proven by addresses, by allocated bytes and by resident pages."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmformat._arrow import core_count
from mmformat.codec import decode, encode
from mmformat.codec.describe import describe
from mmformat.model import DictionaryTensor, EncodedMessage, MultimodalDataItem, MultimodalInputs

PAGE = mmap.PAGESIZE
NBYTES = 200_000_000
SLACK = 64 * 2**10


def address_of(value: Any) -> int:
    return value.data_ptr() if isinstance(value, torch.Tensor) else value.ctypes.data


def address_of_bytes(data: Any) -> int:
    return pa.py_buffer(data).address


def several() -> dict[str, Any]:
    """Tensors of odd sizes, of both libraries."""
    return {
        "odd": torch.arange(13, dtype=torch.uint8) + 1,
        "bf16": torch.randn(5, 7, dtype=torch.bfloat16),
        "numpy": np.arange(1001, dtype=np.float64),
        "row of a matrix": torch.randn(64, 33)[5],
        "images": torch.randn(3, 224, 224),
    }


def frame_addresses(message: EncodedMessage) -> set[int]:
    return {address_of_bytes(frame) for frame in message.frames}


def test_frames_are_the_tensors_own_memory() -> None:
    sent = several()
    message = encode(MultimodalInputs(request_data=sent))
    found = frame_addresses(message)
    for name, value in sent.items():
        assert address_of(value) in found, name


def test_codes_of_a_dictionary_tensor_are_not_copied() -> None:
    codes = torch.randint(0, 7, (3, 100), dtype=torch.uint8)
    table = torch.randn(3, 7)
    item = MultimodalDataItem(modality="IMAGE", feature=DictionaryTensor(codes, table))
    message = encode(MultimodalInputs(items=[item]))
    assert {codes.data_ptr(), table.data_ptr()} <= frame_addresses(message)
    out = decode(message, expand=False).items[0].feature
    assert (out.codes.data_ptr(), out.table.data_ptr()) == (codes.data_ptr(), table.data_ptr())


def test_decoding_frames_gives_the_senders_memory() -> None:
    sent = several()
    out = decode(encode(MultimodalInputs(request_data=sent))).request_data
    for name, value in sent.items():
        assert address_of(out[name]) == address_of(value), name


@pytest.mark.parametrize("make", [bytes, bytearray, np.array], ids=lambda make: make.__name__)
def test_decoding_one_buffer_gives_views_of_it(make: Callable[[bytes], Any]) -> None:
    """Every tensor on a 64-byte boundary of the message, where describe says that it lies."""
    data = bytes(encode(MultimodalInputs(request_data=several())))
    buffer = np.frombuffer(data, np.uint8).copy() if make is np.array else make(data)
    places = {tensor.name: tensor.chunks[0].at for tensor in describe(buffer).tensors}
    out = decode(buffer, writable=False).request_data
    start = address_of_bytes(buffer)
    for name, value in out.items():
        offset = address_of(value) - start
        assert offset % 64 == 0, name
        assert offset == places[f"request_data[{name!r}]"]


def test_tensors_lie_on_64_bytes_of_the_message_and_of_the_file(tmp_path: Path) -> None:
    """Clauses: L-8, L-9. In joined frames and in a saved file they hold the tensor's bytes."""
    sent = several()
    message = encode(MultimodalInputs(request_data=sent))
    path = tmp_path / "x.arrows"
    message.save(path)
    assert path.read_bytes() == bytes(message)
    described = describe(path).tensors
    assert len(described) == len(sent)
    for tensor in described:
        (chunk,) = tensor.chunks
        assert chunk.at is not None
        assert chunk.at % 64 == 0
        value = next(v for k, v in sent.items() if tensor.name == f"request_data[{k!r}]")
        if isinstance(value, torch.Tensor):
            value = value.contiguous().view(torch.uint8).numpy()
        stored = path.read_bytes()[chunk.at : chunk.at + chunk.nbytes]
        assert stored == value.tobytes()


def test_a_mapped_file_gives_aligned_addresses(tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    encode(MultimodalInputs(request_data=several())).save(path)
    for name, value in decode(path).request_data.items():
        assert address_of(value) % 64 == 0, name


def test_tensors_keep_their_buffer_alive() -> None:
    data = bytes(encode(MultimodalInputs(request_data=several())))
    expected = decode(data).request_data["images"].clone()
    out = decode(bytearray(data)).request_data["images"]
    assert torch.equal(out, expected)


class Allocated:
    """Count what Python, Arrow and the process took while a block ran."""

    def __enter__(self) -> Allocated:
        self.arrow = pa.default_memory_pool()
        self.arrow_before = self.arrow.bytes_allocated()
        tracemalloc.start()
        self.resident_before = _resident_nbytes()
        return self

    def __exit__(self, *error: object) -> None:
        self.python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.resident = _resident_nbytes() - self.resident_before
        self.in_arrow = self.arrow.bytes_allocated() - self.arrow_before


def _resident_nbytes() -> int:
    """Private memory of the process: torch and C libraries included."""
    with Path("/proc/self/statm").open() as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * PAGE


@pytest.fixture(scope="module")
def large() -> torch.Tensor:
    return torch.empty(NBYTES // 4).uniform_()


def test_encoding_and_decoding_200_mb_allocates_next_to_nothing(large: torch.Tensor) -> None:
    inputs = MultimodalInputs(items=[MultimodalDataItem(modality="VIDEO", feature=large)])
    decode(encode(inputs))  # imports and caches
    with Allocated() as used:
        message = encode(inputs)
        out = decode(message)
    assert out.items[0].feature.data_ptr() == large.data_ptr()
    assert used.python < SLACK
    assert used.in_arrow == 0
    assert used.resident < 2**20


def test_the_measurement_sees_a_copy(large: torch.Tensor) -> None:
    """A control: the frames of a non-contiguous view are one copy of it, and that shows."""
    view = large.view(-1, 2)[:, 0]
    inputs = MultimodalInputs(items=[MultimodalDataItem(modality="VIDEO", feature=view)])
    with Allocated() as used:
        message = encode(inputs)
        frames = message.frames
    assert used.in_arrow >= NBYTES // 2
    assert sum(map(len, frames)) == message.nbytes > NBYTES // 2


def test_decoding_a_compressed_message_makes_one_copy() -> None:
    """Of the tensor; the columns are small."""
    inputs = MultimodalInputs(request_data={"zeros": torch.zeros(25_000_000)})
    message = bytes(encode(inputs, "lz4"))
    assert len(message) < 2_000_000
    with Allocated() as used:
        out = decode(message)
    assert 100_000_000 <= used.in_arrow < 100_000_000 + 2**20
    assert used.python < 2**20
    assert torch.count_nonzero(out.request_data["zeros"]) == 0


_PEAKS = """
import sys
import numpy as np, pyarrow as pa
import mmformat as mm
value = (np.arange(60_000_000, dtype=np.uint32) >> 7).view(np.uint8)
inputs = mm.MultimodalInputs(request_data={"x": value})
pool = pa.default_memory_pool()
message = mm.encode(inputs, sys.argv[1])
packed = pool.max_memory()
stored = message.nbytes
out = mm.decode(message).request_data["x"]
print(value.nbytes, stored, packed, pool.max_memory(), out.tobytes() == value.tobytes())
"""


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressing_holds_a_chunk_for_each_core_beside_its_result(codec: str) -> None:
    """240 MB, in a process of its own: Arrow's own peak, for each core, stays under 6 MiB."""
    run = subprocess.run(
        [sys.executable, "-c", _PEAKS, codec], capture_output=True, text=True, check=True
    )
    nbytes, stored, packed, unpacked, same = run.stdout.split()
    assert same == "True"
    assert int(stored) < int(nbytes) // 4
    assert int(packed) < core_count() * 6 * 2**20
    assert int(unpacked) < int(nbytes) + core_count() * 6 * 2**20


def _resident_pages(mapping: mmap.mmap, nbytes: int) -> list[bool]:
    """Ask the kernel which pages of a mapping are in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    pages = (ctypes.c_ubyte * -(-nbytes // PAGE))()
    if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(nbytes), pages) != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    return [bool(page & 1) for page in pages]


@pytest.mark.parametrize("read", [decode, describe], ids=lambda read: read.__name__)
def test_reading_a_mapped_message_touches_no_tensor_page(
    large: torch.Tensor, read: Callable[[Any], Any]
) -> None:
    """An anonymous file, dropped from memory first: only the columns' pages come back.

    decode compares each view's prefix: one page a tensor. describe touches none.
    """
    message = encode(MultimodalInputs(items=[MultimodalDataItem(modality="VIDEO", feature=large)]))
    private = mmap.mmap(-1, message.nbytes)
    described = describe(message)
    (chunk,) = described.tensors[0].chunks
    assert chunk.at is not None
    head = bytes(message)[: chunk.at + 4]
    private[: len(head)] = head
    private[-8:] = bytes(message)[-8:]
    first = chunk.at // PAGE + 1  # the page behind the one that the columns end in
    last = (chunk.at + chunk.nbytes) // PAGE - 1
    libc = ctypes.CDLL(None, use_errno=True)
    start = ctypes.addressof(ctypes.c_char.from_buffer(private))
    length = ctypes.c_size_t((last - first) * PAGE)
    inside = ctypes.c_void_p(start + first * PAGE)
    assert libc.mprotect(inside, length, 0) == 0  # PROT_NONE: a read ends the process
    try:
        out = read(private)
    finally:
        assert libc.mprotect(inside, length, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    if read is decode:
        assert out.items[0].feature.data_ptr() == start + chunk.at
    resident = _resident_pages(private, message.nbytes)
    assert not any(resident[first:last])
    assert resident[0]


def test_describing_reads_no_byte_of_any_tensor(tmp_path: Path) -> None:
    """Not even the first four: every tensor page is forbidden, plain and compressed."""
    sent = {f"t{n}": np.arange(10_000, dtype=np.int64) // 100 for n in range(3)}
    for compression in (None, "lz4"):
        options = None
        if compression:
            from mmformat.model import Compression

            options = Compression(codec="lz4", threshold_nbytes=1)
        message = bytes(encode(MultimodalInputs(request_data=sent), options))
        expected = describe(message)
        spoilt = bytearray(message)
        for tensor in expected.tensors:
            for chunk in tensor.chunks:
                assert chunk.at is not None
                skip = 8 if tensor.compressed else 0  # the claimed length is metadata
                end = chunk.at + chunk.stored_nbytes
                spoilt[chunk.at + skip : end] = os.urandom(end - chunk.at - skip)
        assert describe(spoilt) == expected


def test_a_file_that_is_mapped_and_written_to_stays_as_it_was(tmp_path: Path) -> None:
    """Copy-on-write: a tensor may be written to, and the file does not change."""
    path = tmp_path / "x.arrows"
    encode(MultimodalInputs(request_data={"a": np.ones(100)})).save(path)
    before = path.read_bytes()
    out = decode(path).request_data["a"]
    out[:] = 7
    assert path.read_bytes() == before
    assert decode(path).request_data["a"][0] == 1
