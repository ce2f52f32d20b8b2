"""Codes expanded on the device are the CPU's expansion, bit for bit, by either kernel."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from mmformat.cuda import expand_on_device
from mmformat.errors import ModelError
from mmformat.model import DictionaryTensor

pytestmark = pytest.mark.gpu

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
NEEDS_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
KERNELS = ["torch", pytest.param("triton", marks=NEEDS_TRITON)]
# codes' shape, channel axis, repeat axis, repeat
LAYOUTS = [
    ((37, 3, 14, 14), 1, 2, 2),  # Qwen2-VL's patches
    ((5476, 3, 14, 14), 1, 2, 2),
    ((37, 3, 16, 16), 1, 2, 2),
    ((1, 3, 336, 337), 1, 0, 1),
    ((1, 3, 336, 336), 1, 0, 1),
    ((4, 3, 7, 5), 1, 4, 3),  # the repeat is the last axis
    ((4, 3, 7, 5), 1, 0, 3),
    ((6, 4, 8), 2, 1, 2),  # channels last, behind the repeat
    ((6, 4, 8), 0, 3, 1),
    ((1,), 0, 0, 1),
    ((3, 0, 4), 0, 1, 2),
]


def dictionary(
    layout: tuple[tuple[int, ...], int, int, int], dtype: torch.dtype, *, seed: int, shared: bool
) -> DictionaryTensor:
    shape, axis, repeat_axis, repeat = layout
    random = np.random.default_rng(seed)
    channels = 1 if shared else shape[axis]
    size = torch.empty(0, dtype=dtype).element_size()
    # Random bits, so that NaN payloads, infinities and -0.0 are among them.
    table = torch.from_numpy(random.integers(0, 256, (channels, 256 * size), dtype=np.uint8))
    codes = torch.from_numpy(random.integers(0, 256, shape, dtype=np.uint8))
    return DictionaryTensor(
        codes, table.view(dtype), axis=axis, repeat_axis=repeat_axis, repeat=repeat
    )


def on_device(tensor: DictionaryTensor) -> DictionaryTensor:
    return DictionaryTensor(
        tensor.codes.cuda(),
        tensor.table.cuda(),
        axis=tensor.axis,
        repeat_axis=tensor.repeat_axis,
        repeat=tensor.repeat,
        shape=tensor.shape,
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_gives_the_cpus_bits(layout, dtype, kernel) -> None:
    if kernel == "triton" and 0 in layout[0]:
        kernel = "auto"  # nothing to launch a kernel for
    tensor = dictionary(layout, dtype, seed=1, shared=False)
    expected = tensor.expand()
    found = expand_on_device(on_device(tensor), kernel=kernel)
    word = WORDS[expected.element_size()]
    assert found.device.type == "cuda"
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert torch.equal(found.cpu().view(word), expected.view(word))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.float8_e4m3fn, torch.int64])
def test_other_sizes_of_words(dtype, kernel) -> None:
    tensor = dictionary(LAYOUTS[0], dtype, seed=2, shared=True)
    expected = tensor.expand()
    found = expand_on_device(on_device(tensor), kernel=kernel)
    word = WORDS[expected.element_size()]
    assert torch.equal(found.cpu().view(word), expected.view(word))


@pytest.mark.parametrize("kernel", KERNELS)
def test_codes_at_an_odd_address(kernel) -> None:
    tensor = dictionary(LAYOUTS[0], torch.float32, seed=3, shared=False)
    placed = on_device(tensor)
    room = torch.empty(placed.codes.numel() + 3, dtype=torch.uint8, device="cuda")
    shifted = room[3:].view(placed.codes.shape)
    shifted.copy_(placed.codes)
    moved = DictionaryTensor(shifted, placed.table, axis=1, repeat_axis=2, repeat=2)
    found = expand_on_device(moved, kernel=kernel)
    assert torch.equal(found.cpu().view(torch.int32), tensor.expand().view(torch.int32))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_code_beyond_a_short_table_is_refused(kernel) -> None:
    codes = torch.tensor([[0, 9]], dtype=torch.uint8, device="cuda")
    table = torch.randn(1, 9, device="cuda")
    with pytest.raises(ModelError, match="expected codes below 9, got 9") as raised:
        expand_on_device(DictionaryTensor(codes, table), kernel=kernel)
    assert raised.value.code == "dictionary-code"


@NEEDS_TRITON
def test_triton_is_what_is_chosen_where_it_is(monkeypatch) -> None:
    from mmformat.cuda import expand

    called = []
    real = expand._by_triton
    monkeypatch.setattr(
        expand, "_by_triton", lambda *parts, **rest: called.append(1) or real(*parts, **rest)
    )
    expand_on_device(on_device(dictionary(LAYOUTS[0], torch.float32, seed=4, shared=False)))
    assert called
    assert not expand._broken
