"""JAX and CuPy read what was placed, without a copy."""

from __future__ import annotations

import os

import pytest
import torch

import mmformat as mm
from tests.gpu.inputs import make_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),  # theirs, about themselves
]


def placed() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = make_inputs(rows=64)
    found = mm.decode(mm.encode(inputs), device="cuda")
    return found.items[0].feature, inputs.items[0].feature


def test_cupy_reads_the_cuda_array_interface() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    tensor, expected = placed()
    torch.cuda.synchronize()
    array = cupy.asarray(tensor)
    assert array.data.ptr == tensor.data_ptr() == tensor.__cuda_array_interface__["data"][0]
    assert (cupy.asnumpy(array) == expected.numpy()).all()


def test_cupy_reads_dlpack() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    tensor, expected = placed()
    array = cupy.from_dlpack(tensor)
    assert array.data.ptr == tensor.data_ptr()
    assert (cupy.asnumpy(array) == expected.numpy()).all()


def test_jax_reads_dlpack() -> None:
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    if not any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("this JAX has no CUDA backend")
    tensor, expected = placed()
    array = jax.dlpack.from_dlpack(tensor)
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()
    assert (jax.device_get(array) == expected.numpy()).all()


def test_torch_reads_what_dlpack_gives_back() -> None:
    tensor, _ = placed()
    again = torch.from_dlpack(tensor)
    assert again.data_ptr() == tensor.data_ptr()
