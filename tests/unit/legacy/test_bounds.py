"""A tree is measured as if nothing in it were shared, in time linear in what is there."""

from __future__ import annotations

from typing import Any

import pytest

import mmformat as mm
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.nodes import Instance, Marked, Tensor
from mmformat.legacy.reading import measure


def test_shared_values_count_at_each_place() -> None:
    part = [1, 2, 3]
    measure([[part, part, part]], PickleLimits(values=13), 1)
    with pytest.raises(mm.LimitError):
        measure([[part, part, part]], PickleLimits(values=12), 1)


def test_text_counts_at_each_place() -> None:
    text = "x" * 100
    measure([{"a": text, "b": text}], PickleLimits(text_nbytes=202), 1)
    with pytest.raises(mm.LimitError):
        measure([{"a": text, "b": text}], PickleLimits(text_nbytes=201), 1)


@pytest.mark.parametrize("wrap", [
    lambda x: [x, 1], lambda x: (x, "a"), lambda x: {"a": x}, lambda x: Instance("a", {"b": x}),
    lambda x: Marked("OrderedDict", {"a": x}),
])  # fmt: skip
def test_depth(wrap: Any) -> None:
    value: Any = ["leaf"]
    for _ in range(20):
        value = wrap(value)
    measure([value], PickleLimits(depth=60), 1)
    with pytest.raises(mm.LimitError, match="depth"):
        measure([value], PickleLimits(depth=15), 1)


def test_a_shared_branch_is_checked_at_its_deepest_place() -> None:
    branch: Any = [["x"]]
    deep: Any = branch
    for _ in range(10):
        deep = [deep, "y"]
    with pytest.raises(mm.LimitError, match="depth"):
        measure([[branch, deep]], PickleLimits(depth=11), 1)


def test_cycles_are_refused() -> None:
    value: list[Any] = ["x"]
    value.append([value])
    with pytest.raises(mm.DecodeError, match="holds itself"):
        measure([value], PickleLimits(), 1)


def test_tensors_count_once_as_memory_and_at_each_place_as_size() -> None:
    tensor = Tensor("numpy", "uint8", (2**27,), 2**27, None)
    found = measure([[tensor, tensor]], PickleLimits(), 2**27)
    assert found.tensors == [tensor]
    with pytest.raises(mm.LimitError, match="tensor_nbytes"):
        measure([[tensor] * 9], PickleLimits(tensor_nbytes=2**30), 2**27)
    with pytest.raises(mm.LimitError, match="expansion"):
        measure([[tensor] * 9], PickleLimits(), 2**20)


def test_found_instances_and_enums_stand_in_order() -> None:
    one, other = Instance("a"), Instance("b")
    found = measure([[one, {"x": other}, one]], PickleLimits(), 1)
    assert found.instances == [one, other]


def test_limits_are_positive_ints() -> None:
    for value in (0, -1, 1.5, True):
        with pytest.raises(mm.ModelError):
            PickleLimits(depth=value)
