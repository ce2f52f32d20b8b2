"""What is carried has the sizes that the tables claim, is never zeros, and differs each round."""

from __future__ import annotations

import pytest
import torch

from mmformat.bench.payloads import PAYLOADS, digests_of, payload, stamp, tensors_of
from mmformat.errors import ModelError

SMALL = [name for name, each in PAYLOADS.items() if not each.is_large]


@pytest.mark.parametrize("name", PAYLOADS)
def test_sizes_are_those_of_the_title(name: str) -> None:
    chosen = PAYLOADS[name]
    inputs = chosen.make(0)
    assert sum(item.feature.nbytes for item in inputs.items) == chosen.nbytes
    told, unit = chosen.title.split()[-2:]
    assert unit == "MB"
    assert chosen.nbytes / 1e6 == pytest.approx(float(told), abs=0.5 if float(told) > 1 else 0.05)


@pytest.mark.parametrize("name", SMALL)
def test_values_are_no_constants(name: str) -> None:
    (item,) = payload(name).make(0).items
    assert torch.unique(item.feature.float()).numel() > 200
    assert digests_of(payload(name).make(0)) == digests_of(payload(name).make(0))
    assert digests_of(payload(name).make(0)) != digests_of(payload(name).make(1))


@pytest.mark.parametrize("name", SMALL)
def test_a_stamp_changes_every_feature(name: str) -> None:
    inputs = payload(name).make(0)
    seen = set()
    for number in range(5):
        stamp(inputs, number)
        seen.add(tuple(digests_of(inputs)))
    assert len(seen) == 5


def test_digests_see_type_and_shape() -> None:
    values = torch.arange(12, dtype=torch.int32)
    others = [values.view(3, 4), values.view(torch.float32), values.view(4, 3)]
    assert len({digests_of(each)[0] for each in [values, *others]}) == 4


def test_tensors_come_in_one_order() -> None:
    inputs = payload("image-small").make(0)
    assert [tuple(each.shape) for each in tensors_of(inputs)] == [(256, 1176), (1, 3)]


def test_an_unknown_payload() -> None:
    with pytest.raises(ModelError, match="image-small"):
        payload("nonsense")
