"""Tensors over 2 GiB: a sparse file is mapped, encoded, written and decoded without a copy."""

from __future__ import annotations

import resource
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mmformat.codec import decode, encode
from mmformat.codec.columns import CHUNK_NBYTES
from mmformat.codec.describe import describe
from mmformat.codec.tensors import entry_of
from mmformat.model import MultimodalDataItem, MultimodalInputs

NBYTES = 5 * 2**30 // 2 + 12  # over 2**31, and a rest that would be an inline view


@pytest.fixture
def sparse(tmp_path: Path) -> np.memmap:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(NBYTES)
    if path.stat().st_blocks * 512 > NBYTES // 100:
        # Not skipped: where a file cannot be sparse, this test has nothing to say, and must say so.
        pytest.fail(f"{tmp_path} holds no sparse files: set TMPDIR to a file system that does")
    return np.memmap(path, np.uint8, "r+")


@pytest.mark.slow
def test_a_tensor_over_2_gib_is_cut_into_chunks_and_comes_back_without_a_copy(
    sparse: np.memmap,
) -> None:
    """Clauses: V-4, V-2. Chunks lie behind each other, so the decoded tensor is one view."""
    sparse[[0, 2**30, 2**31, -1]] = [1, 2, 3, 4]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    item = MultimodalDataItem(modality="VIDEO", feature=np.asarray(sparse))
    message = encode(MultimodalInputs(items=[item]))
    (tensor,) = describe(message).tensors
    assert [chunk.nbytes for chunk in tensor.chunks] == [
        CHUNK_NBYTES,
        CHUNK_NBYTES,
        NBYTES - 2 * CHUNK_NBYTES,
    ]
    for before, after in pairwise(tensor.chunks):
        assert before.at is not None
        assert after.at == before.at + before.nbytes
    out = decode(message).items[0].feature
    assert out.ctypes.data == sparse.ctypes.data
    assert out.shape == (NBYTES,)
    assert [int(out[at]) for at in (0, 2**30, 2**31, -1)] == [1, 2, 3, 4]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
    assert grown < 64 * 1024, f"{grown} KiB more resident"


@pytest.mark.slow
def test_a_saved_message_over_2_gib_is_one_view_of_its_file(
    sparse: np.memmap, tmp_path: Path
) -> None:
    """Laid out in a sparse file as save would, since 2.5 GB of zeros need not be written."""
    sparse[[0, 2**31, -1]] = [1, 3, 4]
    message = encode(MultimodalInputs(request_data={"x": np.asarray(sparse)}))
    path = tmp_path / "message.arrows"
    with path.open("wb") as file:
        for frame in message.frames:
            view = memoryview(frame).cast("B")
            if len(view) < 2**20:
                file.write(view)
                continue
            start = file.tell()
            for at in (0, 2**31 - 2 * CHUNK_NBYTES):
                file.seek(start + at)
                file.write(view[at : at + 4096])
            file.seek(start + len(view) - 4096)
            file.write(view[-4096:])
    out = decode(path).request_data["x"]
    assert out.nbytes == NBYTES
    assert out.base is not None
    assert [int(out[at]) for at in (0, 2**31, -1)] == [1, 3, 4]


def test_the_last_chunk_takes_a_rest_that_would_be_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clauses: V-4. At every length about a multiple of the chunk, here of 64 bytes."""
    monkeypatch.setattr("mmformat.codec.tensors.CHUNK_NBYTES", 64)
    for nbytes in range(1, 300):
        value = np.arange(nbytes, dtype=np.uint16).astype(np.uint8)
        entry = entry_of("x", value, path="$")
        lengths = [len(chunk) for chunk in entry.data]
        assert sum(lengths) == nbytes
        assert all(length == 64 for length in lengths[:-1])
        assert lengths[-1] <= 64 + 12
        assert nbytes <= 12 or min(lengths) > 12
        out = decode(encode(MultimodalInputs(request_data={"x": value}))).request_data["x"]
        assert out.tobytes() == value.tobytes()
        assert out.ctypes.data == value.ctypes.data or nbytes <= 12
