"""Inputs through Ray's object store: one message, mapped by every actor, written to privately."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

import mmformat as mm
from mmformat.adapters.ray import deserialize, register, serialize
from mmformat.errors import MMFormatError, TransportError

torch: Any = pytest.importorskip("torch")


def inputs(rows: int = 5000) -> mm.MultimodalInputs:
    made = torch.Generator().manual_seed(1)
    feature = torch.randn((rows, 1290), generator=made)
    item = mm.MultimodalDataItem(
        modality="IMAGE", feature=feature, model_specific_data={"grid": torch.tensor([[1, 2, 3]])}
    )
    return mm.MultimodalInputs(items=[item], request_data={"id": 7})


def test_frames_are_the_tensors_own_memory_and_come_back() -> None:
    sent = inputs()
    frames = serialize(sent)
    addresses = {frame.ctypes.data for frame in frames}
    assert sent.items[0].feature.data_ptr() in addresses
    for each in frames:
        each.flags.writeable = False
    back = deserialize(frames)
    assert torch.equal(back.items[0].feature, sent.items[0].feature)
    back.items[0].feature.zero_()  # no store to map here: a copy, and the sender sees nothing
    assert sent.items[0].feature.any()
    assert back.request_data == {"id": 7}


@pytest.mark.parametrize("frames", [b"", [b"x"], [np.zeros(3)], [np.zeros(9, np.uint8)], None])
def test_what_is_no_message_is_an_error_of_ours(frames: Any) -> None:
    with pytest.raises(MMFormatError):
        deserialize(frames)
    if not isinstance(frames, list) or frames[0].__class__ is bytes:
        with pytest.raises(TransportError):
            deserialize(frames)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is in an environment of its own")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster

    made = Cluster()
    for number in range(2):
        made.add_node(num_cpus=4, object_store_memory=200 * 2**20, resources={f"node{number}": 4})
    ray.init(made.address, runtime_env={"worker_process_setup_hook": register}, log_to_driver=False)
    register()
    yield ray
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore")
def test_two_nodes_of_two_actors_see_the_same_and_write_alone(cluster: Any) -> None:
    ray = cluster

    class Rank:
        def look(self, got: mm.MultimodalInputs) -> tuple[str, str, int]:
            feature = got.items[0].feature
            seen = blake3(feature.numpy().tobytes()).hexdigest()
            at, place = feature.data_ptr(), ""
            with Path("/proc/self/maps").open() as lines:
                for line in lines:
                    start, end = (int(x, 16) for x in line.split()[0].split("-"))
                    if start <= at < end:
                        place = f"{line.split()[1]} {line.split()[-2]}"
            feature.zero_()
            return seen, place, os.getpid()

        def make(self) -> mm.MultimodalInputs:
            return mm.MultimodalInputs(
                items=[mm.MultimodalDataItem(modality="IMAGE", feature=torch.arange(10**6))]
            )

    remote = ray.remote(Rank)
    ranks = [remote.options(num_cpus=1, resources={f"node{n % 2}": 1}).remote() for n in range(4)]
    sent = inputs()
    reference = ray.put(sent)
    expected = blake3(sent.items[0].feature.numpy().tobytes()).hexdigest()
    for _ in range(2):  # what one wrote, nobody sees the second time either
        said = ray.get([rank.look.remote(reference) for rank in ranks])
        assert {seen for seen, _, _ in said} == {expected}
        assert len({pid for _, _, pid in said}) == 4
        assert all("rw-p" in place and "plasma" in place for _, place, _ in said)
    assert torch.equal(ray.get(ranks[0].make.remote()).items[0].feature, torch.arange(10**6))
    assert torch.equal(ray.get(reference).items[0].feature, sent.items[0].feature)
