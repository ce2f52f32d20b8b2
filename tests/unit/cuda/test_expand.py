"""The plain torch expansion that every device has, against the model's own."""

from __future__ import annotations

import pytest
import torch

from mmformat.cuda import expand_on_device
from mmformat.errors import ModelError
from mmformat.model import DictionaryTensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("repeat", [1, 2])
def test_plain_torch_gives_the_models_bits(dtype, repeat) -> None:
    table = torch.randint(0, 256, (3, 256 * dtype.itemsize), dtype=torch.uint8).view(dtype)
    codes = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8)
    shape = (7, 60 * repeat)
    tensor = DictionaryTensor(codes, table, axis=1, repeat_axis=2, repeat=repeat, shape=shape)
    found = expand_on_device(tensor, kernel="torch")
    expected = tensor.expand()
    assert found.shape == shape
    assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(expand_on_device(tensor).view(torch.uint8), expected.view(torch.uint8))


def test_a_code_beyond_the_table() -> None:
    tensor = DictionaryTensor(torch.tensor([[3]], dtype=torch.uint8), torch.ones(1, 3))
    with pytest.raises(ModelError) as raised:
        expand_on_device(tensor)
    assert raised.value.code == "dictionary-code"


def test_numpy_parts_are_refused() -> None:
    tensor = DictionaryTensor(torch.zeros(1, 1, dtype=torch.uint8).numpy(), torch.ones(1, 3))
    with pytest.raises(ModelError, match="torch tensors on a device"):
        expand_on_device(tensor)
