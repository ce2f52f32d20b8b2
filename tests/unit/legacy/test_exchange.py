"""The sandbox's answer: what is shared stays shared, and an answer that lies is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

import mmformat as mm
from mmformat.legacy.constructors import DTypeNode, resolve
from mmformat.legacy.exchange import dump, load
from mmformat.legacy.nodes import Enum, Instance, Marked, Scalar, Tensor


def through(*roots: Any, tensors: list[Tensor] | None = None) -> list[Any]:
    return load(dump(list(roots), tensors or []))[0]


@pytest.mark.parametrize("value", [
    None, True, 0, -(2**300), 1.5, float("inf"), -0.0, "a\ud800\x00", b"\x00\xff", 1 + 2j,
    [1, [2, ()]], {"a": {1: b"x", (1, "b"): None, 2.5: True}}, [], {}, (),
])  # fmt: skip
def test_plain_values(value: Any) -> None:
    (made,) = through(value)
    assert repr(made) == repr(value)


def test_nan() -> None:
    (made,) = through(float("nan"))
    assert math.isnan(made)


def test_nodes() -> None:
    name = resolve("torch", "float32")
    values = [
        Instance("a.B", {"x": 1}), Enum("a.C", 2), Scalar(3, "int8"), Marked("set", {1, "b"}),
        Marked("OrderedDict", {"k": 1}), DTypeNode("f4", "float32"), name,
    ]  # fmt: skip
    made = through(*values)
    assert (made[0].cls, made[0].state) == ("a.B", {"x": 1})
    assert (made[1].cls, made[1].value) == ("a.C", 2)
    assert (made[2].value, made[2].dtype) == (3, "int8")
    assert made[3].value == {1, "b"}
    assert made[4].value == {"k": 1}
    assert made[5].dtype == "float32"
    assert made[6] is name


def test_what_is_shared_stays_shared() -> None:
    """Also a billion laughs: the text grows with the containers, not with what they describe."""
    laughs: Any = [1]
    for _ in range(60):
        laughs = [laughs, laughs]
    data = dump([laughs], [])
    assert len(data) < 2_000
    ((made,), _) = load(data)
    assert made[0] is made[1]


def test_tensors() -> None:
    tensor = Tensor("torch", "bfloat16", (2, 3), 12, None, attributes={"a": 1}, location="cuda:0")
    roots, (made,) = load(dump([[tensor, tensor]], [tensor]))
    assert roots[0][0] is roots[0][1] is made
    assert (made.lib, made.dtype, made.shape, made.nbytes) == ("torch", "bfloat16", (2, 3), 12)
    assert (made.attributes, made.location) == ({"a": 1}, "cuda:0")


@pytest.mark.parametrize("answer", [
    b"", b"[]", b"{}", b"[[],[]", b"null", b"[[],[[0]]]", b"[[],[[-1]]]",
    b"[[[\"l\",[[0]]]],[[0]]]",
    b"[[[\"x\"]],[]]", b"[[[\"n\",\"os\",\"system\"]],[]]", b"[[[\"d\",[[[0],1]]]],[]]",
    b"[[[\"l\",[]],[\"d\",[[[0],1]]]],[]]", b"[[[\"e\",\"a\",[]]],[]]", b"[[],[{\"a\":1}]]",
    b"[[[\"T\",0,\"torch\",\"float33\",[1],[0,0,0,0],\"cpu\",null]],[]]",
    b"[[[\"T\",0,\"jax\",\"float32\",[1],[0,0,0,0],\"cpu\",null]],[]]",
    b"[[[\"T\",0,\"torch\",\"float32\",[-1],[0,0,0,0],\"cpu\",null]],[]]",
    b"[[[\"T\",7,\"torch\",\"float32\",[1],[0,0,0,0],\"cpu\",null]],[]]",
    b"[[[\"T\",0,\"torch\",\"float32\",[1],[0,0],\"cpu\",null]],[]]",
    b"\xff", b"[[[\"l\",[" + b"[" * 5000 + b"]" * 5000 + b"]]],[]]",
])  # fmt: skip
def test_an_answer_that_lies_is_refused(answer: bytes) -> None:
    """The child that writes it is not trusted either."""
    with pytest.raises(mm.DecodeError):
        load(answer)


def test_the_answer_is_json() -> None:
    nodes, values = json.loads(dump([{"a": [1, 2]}], []))
    assert nodes == [["l", [1, 2]], ["d", [["a", [0]]]]]
    assert values == [[1]]
