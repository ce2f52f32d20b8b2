"""More invalid golden vectors: rows, tensors and attributes that no reader may accept."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from mmformat.codec.columns import Row
from tests.support.attacks import Attack
from tests.support.forgery import batch, item, message, tensor

__all__ = ["value_attacks"]

_NONE: dict[str, Any] = {"attributes": None, "format": None}


def _attack(name: str, code: str, *rows: Row, about: str, **rest: Any) -> Attack:
    return Attack(name=name, code=code, data=message(batch(*rows)), about=about, **rest)


def value_attacks() -> Iterator[Attack]:
    """Yield the messages that are well laid out and whose values are wrong."""
    yield from _rows()
    yield from _tensors()
    yield from _dictionaries()
    yield from _attributes()


def _rows() -> Iterator[Attack]:
    integrity: dict[str, Any] = {"error": "IntegrityError"}
    request = Row(-1, "REQUEST", attributes='{"request_data":{"a":1}}')
    yield _attack("rows-swapped", "row-order", item(1), item(0), about="1 before 0", **integrity)
    yield _attack("rows-gap", "row-order", item(0), item(2), about="no item 1", **integrity)
    yield _attack("rows-twice", "row-order", item(0), item(0), about="0 twice", **integrity)
    yield _attack(
        "request-first", "row-order", request, item(0), about="request first", **integrity
    )
    yield _attack("requests", "row-order", request, request, about="two requests", **integrity)
    yield _attack("item-negative", "row-order", item(-2), about="item -2", **integrity)
    yield _attack("request-image", "row-order", item(-1), about="-1 is an image", **integrity)
    named = item(0, modality="REQUEST")
    yield _attack("item-request", "row-order", named, about="0 is the request", **integrity)
    hashed = Row(-1, "REQUEST", hash="1", attributes="{}")
    yield _attack("request-hash", "request-row", hashed, about="a request's hash", **integrity)
    yield _attack("modality", "modality", item(0, modality="SMELL"), about="no such modality")
    yield _attack("format", "modality", item(0, format="raw"), about="no such format")
    yield _attack("format-null", "modality", item(0, format=None), about="no format")
    for name, text in (("text", "0x1f"), ("empty", ""), ("space", " 1"), ("script", "\u0661")):
        yield _attack(f"hash-{name}", "hash", item(0, hash=text), about=f"hash {text!r}")
    yield _attack("hash-long", "hash", item(0, hash="9" * 1235), about="1235 digits")
    two: list[tuple[str, list[Row], str]] = [
        ("unknown", [item(5, **_NONE)], "of an item that is not there"),
        ("fields", [item(0, hash="1", **_NONE)], "with a hash of its own"),
        ("attributes", [item(0, format=None)], "with attributes of its own"),
        ("modality", [item(0, modality="AUDIO", **_NONE)], "of another modality"),
        ("request", [Row(-1, "REQUEST")], "of a request that is not there"),
    ]
    for name, rows, about in two:
        data = message(batch(item(0)), batch(*rows))
        yield Attack(
            name=f"continuation-{name}", code="continuation", data=data, about=about, **integrity
        )
    items = {"error": "LimitError", "limits": {"items": 2}, "clauses": ("B-1",)}
    yield _attack("items", "limit", item(0), item(1), item(2), about="over a limit", **items)


def _tensors() -> Iterator[Attack]:
    integrity: dict[str, Any] = {"error": "IntegrityError"}
    limit: dict[str, Any] = {"error": "LimitError"}
    twice = item(0, tensor(), tensor())
    yield _attack("name-twice", "tensor-names", twice, about="one name, two tensors", **integrity)
    lost = item(0, attributes={"feature": {"$tensor": "feature"}})
    yield _attack("tensor-lost", "tensor-names", lost, about="no such tensor", **integrity)
    left = item(0, tensor(), attributes={})
    yield _attack("tensor-left", "tensor-names", left, about="nobody asks for it", **integrity)
    again = item(0, tensor(), attributes={"feature": [{"$tensor": "feature"}] * 2})
    yield _attack("tensor-again", "tensor-names", again, about="asked for twice", **integrity)
    data = [bytes(32)]
    yield _attack("dtype", "dtype", item(0, tensor(dtype="float7", data=data)), about="float7")
    yield _attack(
        "dtype-object", "dtype", item(0, tensor(dtype="object", data=data)), about="object"
    )
    yield _attack("encoding", "encoding", item(0, tensor(encoding="zip")), about="encoding zip")
    negative = item(0, tensor(shape=(-2, -4), data=data))
    yield _attack("shape-negative", "shape", negative, about="two extents below 0")
    short = item(0, tensor(shape=(2, 5), data=data))
    yield _attack("shape-short", "shape-bytes", short, about="40 bytes, 32 there", **integrity)
    long = item(0, tensor(shape=(7,), data=data))
    yield _attack("shape-long", "shape-bytes", long, about="28 bytes, 32 there", **integrity)
    none = item(0, tensor(data=[]))
    yield _attack("shape-none", "shape-bytes", none, about="no chunk", **integrity)
    # 2**32 * 2**32 * 4 is 0 in 64 bits, and 2**62 * 4 * 2 + 32 is 32.
    wraps = item(0, tensor(shape=(2**32, 2**32), data=[]))
    clauses = {**limit, "clauses": ("B-1", "T-4")}
    yield _attack("shape-wraps", "limit", wraps, about="0 bytes modulo 2**64", **clauses)
    zero = item(0, tensor(shape=(0, 2**62, 2**62), data=[]))
    yield _attack("shape-zero", "limit", zero, about="strides overflow", **clauses)
    axes = item(0, tensor(dtype="uint8", shape=(1,) * 33, data=[b"a"]))
    yield _attack("dimensions", "limit", axes, about="33 axes", **limit)
    parameters = item(0, tensor(parameters={}))
    yield _attack("plain-parameters", "plain-parameters", parameters, about="plain with parameters")


def _dictionaries() -> Iterator[Attack]:
    good = {
        "axis": 0,
        "codes": [1, 20],
        "entries": 2,
        "repeat": 1,
        "repeat_axis": 0,
        "table_channels": 1,
    }

    def forged(
        changes: Any, *, shape: tuple[int, ...] = (20,), table: int = 2, code: int = 1
    ) -> Row:
        parameters = {**good, **changes} if type(changes) is dict else changes
        data = [struct.pack(f"<{table}f", *range(table)), bytes([code] * 20)]
        entry = tensor(shape=shape, data=data, encoding="dictionary", parameters=parameters)
        return item(0, entry)

    wrong: dict[str, Any] = {
        "null": None,
        "text": "entries=2",
        "list": [1],
        "key": {"more": 1},
        "bool": {"axis": False},
        "axis": {"axis": 2},
        "codes": {"codes": [-1, -20]},
        "entries": {"entries": 257},
        "no-entries": {"entries": 0},
        "channels": {"table_channels": 3},
        "repeat": {"repeat": 0},
        "repeat-axis": {"repeat_axis": 3},
    }
    for name, changes in wrong.items():
        yield _attack(f"parameters-{name}", "parameters", forged(changes), about=f"{changes!r}")
    integrity: dict[str, Any] = {"error": "IntegrityError"}
    code = forged({}, code=2)
    yield _attack("dictionary-code", "dictionary-code", code, about="code 2 of 2", **integrity)
    short = forged({}, table=1)
    yield _attack("dictionary-table", "dictionary-table", short, about="1 of 2", **integrity)
    shape = forged({}, shape=(21,))
    yield _attack("dictionary-shape", "dictionary-shape", shape, about="21 of 20", **integrity)
    codes = forged({"codes": [1, 21]}, shape=(21,))
    yield _attack("dictionary-bytes", "shape-bytes", codes, about="20 of 21 codes", **integrity)
    limit: dict[str, Any] = {"error": "LimitError", "clauses": ("B-1", "T-4")}
    bomb = forged({"repeat": 2**40}, shape=(20 * 2**40,))
    yield _attack("dictionary-bomb", "limit", bomb, about="20 codes become 80 TiB", **limit)
    zero = forged({"codes": [1, 0, 2**62], "repeat": 2**62}, shape=(0,))
    yield _attack("dictionary-zero", "limit", zero, about="no code, huge extents", **limit)
    axes = forged({"codes": [1] * 70 + [20]})
    yield _attack("dictionary-axes", "limit", axes, about="71 axes of codes", **limit)


def _attributes() -> Iterator[Attack]:
    def holding(text: str) -> Row:
        return item(0, attributes='{"model_specific_data":{"a":' + text + "}}")

    null = item(0, attributes=None)
    yield _attack("attributes-null", "attributes", null, about="null", clauses=("R-6",))
    texts = {
        "empty": "",
        "list": "[]",
        "cut": '{"feature":',
        "more": "{} {}",
        "twice": '{"feature":null,"feature":1}',
        "nan": '{"feature":NaN}',
        "comment": "{}//",
    }
    for name, text in texts.items():
        row = item(0, attributes=text)
        yield _attack(f"attributes-{name}", "attributes", row, about=f"attributes {text!r}")
    fields = {"unknown": '{"other":1}', "list": '{"model_specific_data":[1]}'}
    fields |= {"number": '{"feature":1}', "text": '{"precomputed_embeddings":"a"}'}
    for name, text in fields.items():
        row = item(0, attributes=text)
        yield _attack(f"field-{name}", "attributes-field", row, about=f"attributes {text!r}")
    values = {
        "unknown": '{"$pickle":"gASVAQ=="}',
        "mixed": '{"$tuple":[],"b":1}',
        "tensor": '{"$tensor":[1]}',
        "int": '{"$int":"1_0"}',
        "int-number": '{"$int":1}',
        "int-long": '{"$int":"' + "9" * 1235 + '"}',
        "float": '{"$float":"1.5"}',
        "bytes": '{"$bytes":"a"}',
        "bytes-space": '{"$bytes":"YQ= ="}',
        "complex": '{"$complex":[1.0]}',
        "complex-int": '{"$complex":[1,2]}',
        "complex-huge": '{"$complex":[{"$int":"1' + "0" * 400 + '"},0.0]}',
        "dict": '{"$dict":[[1]]}',
        "dict-twice": '{"$dict":[[1,2],[1,3]]}',
        "dict-list-key": '{"$dict":[[[1],2]]}',
        "scalar": '{"$scalar":["object","AAAA"]}',
        "scalar-short": '{"$scalar":["int32","AAA="]}',
        "scalar-bool": '{"$scalar":["bool","Ag=="]}',
        "number-big": "9007199254740993",
        "number-long": "9" * 5000,
        "number-overflow": "1e999",
    }
    for name, text in values.items():
        row = holding(text)
        clauses = {"clauses": ("A-4",)} if name.startswith("number") else {}
        yield _attack(f"value-{name}", "attributes-value", row, about=text[:60], **clauses)
    limit: dict[str, Any] = {"error": "LimitError"}
    deep = holding("[" * 100 + "]" * 100)
    yield _attack("attributes-deep", "limit", deep, about="100 lists", **limit)
    deeper = holding("[" * 2000 + "]" * 2000)
    yield _attack("attributes-deeper", "limit", deeper, about="2000 lists", **limit)
