"""A device that cannot be had is refused with its reason."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import mmformat as mm
from mmformat.cuda import resolve_device
from mmformat.cuda.device import is_cpu

WITHOUT = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


@pytest.mark.parametrize("device", ["tpu-of-sorts", "cuda:x", 3.5])
def test_what_is_no_device(device) -> None:
    with pytest.raises(mm.PlacementError, match="expected a device such as") as raised:
        resolve_device(device)
    assert raised.value.code == "device"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_device_of_another_kind(device) -> None:
    with pytest.raises(mm.PlacementError, match="or a CUDA device") as raised:
        resolve_device(device)
    assert raised.value.code == "device"


@WITHOUT
@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda", 1)])
def test_no_cuda_says_why(device) -> None:
    with pytest.raises(mm.PlacementError, match=r"got torch .*, which") as raised:
        resolve_device(device)
    assert raised.value.code == "no-cuda"
    assert "cpu" in raised.value.hint


@WITHOUT
def test_decode_and_attach_refuse_alike() -> None:
    with pytest.raises(mm.PlacementError) as raised:
        mm.decode(mm.encode(mm.MultimodalInputs()), device="cuda")
    assert raised.value.code == "no-cuda"
    with mm.Arena.create(nbytes=2**16, ranks=1) as arena:
        with pytest.raises(mm.PlacementError) as raised:
            mm.Arena.attach(arena.name, rank=0, device="cuda:0")
        assert raised.value.code == "no-cuda"
        # The place was given back: the same rank may attach for the CPU.
        mm.Arena.attach(arena.name, rank=0, device="cpu").close()


def test_numpy_is_refused_before_any_device_is_asked_for() -> None:
    with pytest.raises(mm.PlacementError) as raised:
        mm.decode(mm.encode(mm.MultimodalInputs()), device="cuda", library="numpy")
    assert raised.value.code == "library"


def test_the_cpu_is_known_without_torch() -> None:
    code = "import sys; from mmformat.cuda.device import is_cpu; "
    code += "assert is_cpu('cpu') and not is_cpu('cuda'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert is_cpu(torch.device("cpu"))
