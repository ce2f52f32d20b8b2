"""The short way through a usual torch stream gives what the long way gives."""

from __future__ import annotations

import pickle
import pickletools

import pytest
import torch

import mmformat as mm
from mmformat.legacy import convert, torch_files

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64)  # fmt: skip


def stream_of(tensor: torch.Tensor) -> bytes:
    for _, argument, _ in pickletools.genops(pickle.dumps(tensor, 4)):
        if isinstance(argument, bytes):
            return argument
    raise AssertionError("no stream")


@pytest.mark.parametrize("count", [0, 1, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_ways_agree(dtype: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.arange(count).to(dtype)
    data = pickle.dumps({"x": tensor}, 4)
    assert torch_files._usual(memoryview(stream_of(tensor)), set()) is not None
    short = convert(data, isolated=False).request_data["x"]
    monkeypatch.setattr(torch_files, "_usual", lambda source, seen: None)
    long = convert(data, isolated=False).request_data["x"]
    assert short.dtype == long.dtype == dtype
    assert torch.equal(short, tensor)
    assert torch.equal(long, tensor)


def test_a_changed_byte_ends_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each byte of the stream's head: the same value, or an error both ways."""
    tensor = torch.arange(3, dtype=torch.float32)
    data = pickle.dumps({"x": tensor}, 4)
    begin = data.index(stream_of(tensor))

    def end(changed: bytes) -> str:
        try:
            return repr(convert(changed, isolated=False).request_data["x"].tolist())
        except mm.MMFormatError as error:
            return type(error).__name__

    cases = []
    for position in range(begin, begin + len(stream_of(tensor)) - 12):
        for value in (0, 0xFF, data[position] ^ 1):
            cases.append(data[:position] + bytes([value]) + data[position + 1 :])
    short = [end(case) for case in cases]
    monkeypatch.setattr(torch_files, "_usual", lambda source, seen: None)
    assert short == [end(case) for case in cases]
