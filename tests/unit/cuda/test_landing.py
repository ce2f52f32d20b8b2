"""Where in a message an address lies, and views of its bytes elsewhere."""

from __future__ import annotations

import pytest
import torch

from mmformat.cuda import FrameMap, Landing


def host(frame: bytearray, start: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.frombuffer(frame, dtype=dtype, count=count, offset=start)


def test_an_address_is_found_in_its_frame() -> None:
    frames = [bytearray(128), bytearray(0), bytearray(64)]
    found = FrameMap(frames)
    assert found.nbytes == 192
    assert found.find(host(frames[0], 64, 16, torch.float32).data_ptr(), 64) == 64
    assert found.find(host(frames[2], 0, 16, torch.float32).data_ptr(), 64) == 128


@pytest.mark.parametrize("nbytes", [65, 10_000])
def test_a_range_beyond_its_frame_is_not(nbytes) -> None:
    frames = [bytearray(128)]
    address = host(frames[0], 64, 16, torch.float32).data_ptr()
    assert FrameMap(frames).find(address, nbytes) is None


def test_pieces_cross_frames_without_a_copy() -> None:
    frames = [bytearray(range(10)), bytearray(range(10, 30))]
    found = FrameMap(frames)
    pieces = found.pieces(5, 15)
    assert torch.cat(pieces).tolist() == list(range(5, 15))
    assert pieces[0].data_ptr() == host(frames[0], 5, 1, torch.uint8).data_ptr()


def test_a_view_lies_as_far_in_as_on_the_host() -> None:
    frame = bytearray(range(256))
    landing = Landing(
        torch.frombuffer(bytearray(frame), dtype=torch.uint8)[64:], FrameMap([frame]), start=64
    )
    view = landing.view(host(frame, 128, 16, torch.int32).view(4, 4))
    assert view is not None
    assert view.shape == (4, 4)
    assert view.tolist() == host(frame, 128, 16, torch.int32).view(4, 4).tolist()
    assert view.data_ptr() != host(frame, 128, 1, torch.uint8).data_ptr()


@pytest.mark.parametrize("start", [0, 32])
def test_bytes_before_the_landing_have_no_view(start) -> None:
    frame = bytearray(256)
    landing = Landing(torch.empty(192, dtype=torch.uint8), FrameMap([frame]), start=64)
    assert landing.view(host(frame, start, 8, torch.int32)) is None


def test_tensors_from_elsewhere_and_empty_ones_have_no_view() -> None:
    landing = Landing(torch.empty(64, dtype=torch.uint8), FrameMap([bytearray(64)]))
    assert landing.view(torch.ones(4)) is None
    assert landing.view(torch.empty(0)) is None
