"""Invalid golden vectors: messages that no reader may accept, with the error code of each."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmformat._arrow import Schema
from mmformat.codec.columns import Row
from mmformat.codec.schema import END_OF_STREAM, SCHEMA, SCHEMA_MESSAGE, VERSION_KEY
from mmformat.codec.verify import CLAUSES
from tests.support.forged_samples import older_schema
from tests.support.forgery import (
    batch,
    encapsulated,
    item,
    message,
    metadata_of,
    patched,
    place_of,
    schema_message,
    tensor,
    with_metadata,
)

__all__ = [
    "Attack",
    "future",
    "stream_attacks",
    "value_attacks",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """Hold a message that must be refused.

    Parameters
    ----------
    name, about : str
        As in the manifest.
    data : bytes
        The message.
    code, error : str
        Code and class of the error.
    clauses : tuple of str
        What it breaks; the code's own clause when omitted.
    limits : dict
        The reader's limits, where they are not the defaults.
    """

    name: str
    about: str
    data: bytes
    code: str
    error: str = "DecodeError"
    clauses: tuple[str, ...] = ()
    limits: dict[str, int] = field(default_factory=dict)

    @property
    def broken(self) -> tuple[str, ...]:
        """The clauses that it breaks."""
        return self.clauses or (CLAUSES[self.code],)


def _attack(name: str, code: str, data: bytes, about: str, **rest: Any) -> Attack:
    return Attack(name=name, code=code, data=data, about=about, **rest)


_PLAIN = batch(item(0, tensor()), item(1, tensor(shape=(40,))))
_GOOD = message(_PLAIN)
_NONE: dict[str, Any] = {"attributes": None, "format": None}


def stream_attacks() -> Iterator[Attack]:
    """Yield the messages whose stream, schema, layout or columns are wrong."""
    yield from _truncated()
    yield from _framed()
    yield from _of_other_schemas()
    yield from _laid_out()
    yield from _columns()
    yield from _compressed()


def _truncated() -> Iterator[Attack]:
    places = {
        "nothing": (0, "no byte at all"),
        "marker": (4, "the marker alone"),
        "schema": (len(SCHEMA_MESSAGE) // 2, "half of the schema message"),
        "length": (len(SCHEMA_MESSAGE) + 6, "half of a batch's length"),
        "metadata": (len(SCHEMA_MESSAGE) + 100, "part of a batch's metadata"),
        "body": (len(_GOOD) - 8 - 64, "all but the last 64 bytes of the body"),
        "end": (len(_GOOD) - 8, "no end of the stream"),
    }
    for name, (nbytes, about) in places.items():
        data = _GOOD[:nbytes]
        yield _attack(f"truncated-{name}", "truncated", data, about, error="TruncatedError")


def _framed() -> Iterator[Attack]:
    integrity = {"error": "IntegrityError"}
    pickled = b"\x80\x05\x95\x0c\x00\x00\x00\x00\x00\x00\x00]\x94(K\x01K\x02e."
    yield _attack("magic-file", "marker", b"ARROW1\0\0" + _GOOD, "an Arrow file, no stream")
    yield _attack("magic-pickle", "marker", pickled, "a pickle")
    old = SCHEMA_MESSAGE[4:]
    yield _attack("marker-old", "marker", old + _PLAIN + END_OF_STREAM, "no marker, as before 0.15")
    yield _attack("trailing-bytes", "trailing-bytes", _GOOD + bytes(8), "8 bytes more", **integrity)
    yield _attack("two-streams", "trailing-bytes", _GOOD * 2, "a second stream", **integrity)
    yield _attack(
        "no-schema", "no-schema", _PLAIN + END_OF_STREAM, "a batch first", error="SchemaError"
    )
    yield _attack("schema-twice", "message-type", message(SCHEMA_MESSAGE, _PLAIN), "another schema")
    body_at = metadata_of(_PLAIN)[1]
    head = _PLAIN[8:body_at]
    version = head.index(struct.pack("<hB", 4, 3), 4)
    older = encapsulated(patched(head, version, struct.pack("<h", 3))) + _PLAIN[body_at:]
    yield _attack("metadata-v4", "metadata-version", message(older), "metadata version V4")
    other = encapsulated(patched(head, version + 2, b"\x02")) + _PLAIN[body_at:]
    yield _attack("dictionary-batch", "message-type", message(other), "a dictionary batch")
    wild = encapsulated(patched(head, 0, b"\xf0\xff\xff\x7f")) + _PLAIN[body_at:]
    truncated = {"error": "TruncatedError"}
    yield _attack("metadata-root", "metadata", message(wild), "the root lies outside", **truncated)
    vector = head.index(struct.pack("<I", 51))
    wild = encapsulated(patched(head, vector, b"\xff\xff\xff\x0f")) + _PLAIN[body_at:]
    yield _attack("metadata-vector", "metadata", message(wild), "2**28 buffers", **truncated)
    wild = patched(_PLAIN, 8 + 36, b"\x0e\x2b")
    yield _attack("metadata-vtable", "metadata", message(wild), "a vtable to beyond", **truncated)
    custom = message(patched(_PLAIN, 8 + 4, b"\x0e"))
    yield _attack("metadata-custom", "metadata", custom, "a batch with custom metadata")
    huge = patched(_GOOD, len(SCHEMA_MESSAGE) + 4, b"\xff\xff\xff\x7f")
    yield _attack(
        "metadata-huge", "limit", huge, "metadata of 2 GiB are announced", error="LimitError"
    )
    short = SCHEMA_MESSAGE[:4] + struct.pack("<I", len(SCHEMA_MESSAGE)) + SCHEMA_MESSAGE[8:]
    shifted = short + bytes(8) + _PLAIN + END_OF_STREAM
    yield _attack("alignment", "alignment", shifted, "bodies 8 bytes off", **integrity)
    far = with_metadata(_PLAIN, body_nbytes=2**62)
    yield _attack("body-huge", "truncated", message(far), "a body of 2**62 bytes", **truncated)
    negative = with_metadata(_PLAIN, body_nbytes=-64)
    yield _attack("body-negative", "truncated", message(negative), "a body of -64", **truncated)


def _other_schema(schema: Schema) -> bytes:
    return message(_PLAIN, schema=schema_message(schema))


def _of_other_schemas() -> Iterator[Attack]:
    error: dict[str, Any] = {"error": "SchemaError"}
    named = SCHEMA.metadata
    yield _attack(
        "no-version", "no-version", _other_schema(SCHEMA.remove_metadata()), "no key", **error
    )
    for name, text in (("text", b"one"), ("zero", b"01"), ("empty", b"")):
        data = _other_schema(SCHEMA.with_metadata({VERSION_KEY: text}))
        yield _attack(f"version-{name}", "no-version", data, f"version {text!r}", **error)
    yield _attack(
        "column-missing", "schema", _other_schema(SCHEMA.remove(3)), "no hash column", **error
    )
    more = SCHEMA.append(SCHEMA.field(0).with_name("more"))
    yield _attack("column-more", "schema", _other_schema(more), "another column", **error)
    nullable = SCHEMA.set(0, SCHEMA.field(0).with_nullable(True))
    yield _attack("column-nullable", "schema", _other_schema(nullable), "item nullable", **error)
    moved = SCHEMA.remove(0).append(SCHEMA.field(0)).with_metadata(named)
    yield _attack("column-order", "schema", _other_schema(moved), "item last", **error)
    renamed = SCHEMA.set(0, SCHEMA.field(0).with_name("row"))
    yield _attack("column-name", "schema", _other_schema(renamed), "item called row", **error)
    extended = SCHEMA.field(1).with_metadata(
        {b"ARROW:extension:name": b"some.python", b"ARROW:extension:metadata": b"code"}
    )
    data = _other_schema(SCHEMA.set(1, extended))
    yield _attack("column-extension", "schema", data, "an extension type", **error)
    wider = SCHEMA.set(0, SCHEMA.field(0).with_type(SCHEMA.field(4).type))
    yield _attack("column-type", "schema", _other_schema(wider), "item int64", **error)
    error["clauses"] = ("S-4",)
    for number, name in ((2, "v3"), (5, "v6")):
        about = f"a schema of metadata version {name.upper()}"
        yield _attack(f"schema-{name}", "schema", older_schema(number), about, **error)


def future() -> Iterator[Attack]:
    """Yield messages of versions that do not exist yet."""
    second = SCHEMA.with_metadata({VERSION_KEY: b"2"})
    error = {"error": "VersionError"}
    clauses = ("S-3", "E-6")
    data = _other_schema(second)
    yield _attack("version-2", "version", data, "version 2, as 1 else", clauses=clauses, **error)
    more = SCHEMA.append(SCHEMA.field(1).with_name("digest")).with_metadata(second.metadata)
    data = _other_schema(more)
    yield _attack("version-2-column", "version", data, "a new column", clauses=clauses, **error)
    late = SCHEMA.with_metadata({VERSION_KEY: b"123456789012345678901"})
    data = _other_schema(late)
    yield _attack("version-far", "version", data, "a number over 64 bits", clauses=clauses, **error)
    data = schema_message(second) + b"no Arrow message of today"
    yield _attack("version-2-framing", "version", data, "new framing", clauses=clauses, **error)


def _laid_out() -> Iterator[Attack]:
    metadata, body_at = metadata_of(_PLAIN)
    flat = list(metadata.buffers)
    integrity: dict[str, Any] = {"error": "IntegrityError"}

    def placed(index: int, value: int) -> bytes:
        changed = [*flat]
        changed[index] = value
        return message(with_metadata(_PLAIN, buffers=tuple(changed)))

    yield _attack("overlap", "layout", placed(-2, flat[-4]), "two tensors, one place", **integrity)
    yield _attack("unaligned", "layout", placed(-2, flat[-2] + 4), "a tensor 4 off", **integrity)
    yield _attack("outside", "layout", placed(-2, 2**40), "a tensor beyond the body", **integrity)
    yield _attack("negative", "layout", placed(-1, -1), "a buffer of -1 bytes", **integrity)
    yield _attack("negative-at", "layout", placed(6, -64), "a buffer at -64", **integrity)
    body = _PLAIN[body_at:] + bytes(64)
    hole = [*flat[:-2], flat[-2] + 64, flat[-1]]
    data = with_metadata(_PLAIN, body, buffers=tuple(hole), body_nbytes=len(body))
    yield _attack("hole", "layout", message(data), "64 bytes that nothing names", **integrity)
    data = with_metadata(_PLAIN, body, body_nbytes=len(body))
    yield _attack("body-longer", "layout", message(data), "64 bytes behind the last", **integrity)
    swapped = [*flat[:-4], *flat[-2:], *flat[-4:-2]]
    data = with_metadata(_PLAIN, buffers=tuple(swapped))
    yield _attack("swapped", "layout", message(data), "two tensors exchanged", **integrity)
    schema: dict[str, Any] = {"error": "SchemaError"}
    data = with_metadata(_PLAIN, buffers=metadata.buffers[:-2])
    yield _attack("buffer-missing", "array-count", message(data), "a buffer less", **schema)
    data = with_metadata(_PLAIN, nodes=metadata.nodes[:-2])
    yield _attack("array-missing", "array-count", message(data), "an array less", **schema)
    data = with_metadata(_PLAIN, length=1)
    yield _attack("rows", "array-count", message(data), "1 row announced, 2 there", **schema)
    data = with_metadata(_PLAIN, variadic=(1,))
    yield _attack("variadic", "array-count", message(data), "1 data buffer announced", **schema)
    data = with_metadata(_PLAIN, nodes=(2, 1, *metadata.nodes[2:]))
    yield _attack("null-item", "array-length", message(data), "an item that is null")
    data = with_metadata(_PLAIN, nodes=(*metadata.nodes[:-2], -1, 0))
    yield _attack("array-negative", "array-length", message(data), "an array of -1")
    data = with_metadata(_PLAIN, nodes=(*metadata.nodes[:-2], 2**31 - 1, 0))
    yield _attack("array-huge", "array-length", message(data), "2**31 - 1 chunks announced")
    data = with_metadata(_PLAIN, nodes=(*metadata.nodes[:-2], 3, 0))
    yield _attack("array-length", "buffer-length", message(data), "3 chunks, views for 2")


def _columns() -> Iterator[Attack]:
    def wrong(buffer: int, at: int, new: bytes) -> bytes:
        return message(patched(_PLAIN, at, new, buffer=buffer))

    yield _attack("offsets-fall", "offsets", wrong(3, 4, struct.pack("<i", 99)), "text beyond")
    yield _attack("offsets-start", "offsets", wrong(30, 0, struct.pack("<i", 1)), "not from 0")
    yield _attack(
        "offsets-negative", "offsets", wrong(27, 4, struct.pack("<i", -1)), "a list to -1"
    )
    yield _attack("offsets-end", "offsets", wrong(46, 8, struct.pack("<i", 1)), "a chunk left over")
    yield _attack("utf8", "utf8", wrong(31, 0, b"\xff\xfe"), "a name that is no UTF-8")
    yield _attack("nulls", "nulls", wrong(8, 0, b"\x03"), "2 nulls announced, none there")
    yield _attack("nulls-behind", "nulls", wrong(8, 0, b"\x30"), "bits behind the last row")
    none = batch()
    nodes = metadata_of(none)[0].nodes
    data = with_metadata(none, nodes=(*nodes[:5], 1, *nodes[6:]))
    yield _attack("nulls-empty", "nulls", message(data), "1 null among 0 rows")
    yield _attack("view-prefix", "view-prefix", wrong(48, 4, b"\xff"), "other first bytes")
    yield _attack("view-index", "view", wrong(48, 8, b"\x01"), "data buffer 1 twice")
    yield _attack("view-far", "view", wrong(48, 8, b"\xff\xff\xff\x7f"), "data buffer 2**31 - 1")
    yield _attack("view-offset", "view", wrong(48, 12, b"\x04"), "a view from byte 4")
    yield _attack("view-length", "view", wrong(48, 0, b"\x21"), "33 bytes of 32")
    yield _attack("view-negative", "view", wrong(48, 0, b"\xff\xff\xff\xff"), "-1 bytes")
    yield _attack(
        "view-inline",
        "view",
        wrong(48, 0, b"\x04\0\0\0"),
        "inline, and its data buffer is left over",
    )
    small = batch(item(0, tensor(dtype="int8", shape=(3,))))
    data = patched(small, 8, b"\x01", buffer=48)
    yield _attack("inline-padding", "inline", message(data), "a byte behind 3 inline bytes")


def _compressed() -> Iterator[Attack]:
    zeros = tensor(dtype="uint8", shape=(4096,), data=[bytes(4096)])
    plain = batch(item(0, attributes={"feature": {"$ndarray": "feature"}}))
    packed = batch(item(0, zeros, **_NONE), compressed=True)
    integrity: dict[str, Any] = {"error": "IntegrityError", "clauses": ("Z-2", "Z-3")}

    def claimed(nbytes: int) -> bytes:
        return message(plain, patched(packed, 0, struct.pack("<q", nbytes), buffer=49))

    at, nbytes = place_of(packed, 49)
    yield _attack("lz4-bomb", "compression", claimed(2**40), "1 TiB claimed", **integrity)
    yield _attack("lz4-negative", "compression", claimed(-2), "-2 bytes claimed", **integrity)
    yield _attack("lz4-short", "compression", claimed(4000), "4000 of 4096", **integrity)
    index = patched(packed, 0, struct.pack("<q", 400), buffer=1)
    yield _attack(
        "lz4-column", "buffer-length", message(plain, index), "400 bytes claimed for one int32"
    )
    frame = bytearray(packed)
    frame[at + 8 : at + 12] = b"\0\0\0\0"
    data = message(plain, bytes(frame))
    yield _attack("lz4-magic", "compression", data, "no LZ4 frame", **integrity)
    frame = bytearray(packed)
    frame[at + 22 : at + nbytes - 8] = b"\xff" * (nbytes - 30)
    yield _attack("lz4-corrupt", "compression", message(plain, bytes(frame)), "noise", **integrity)
    yield _attack("lz4-long", "compression", claimed(4097), "4097 of 4096", **integrity)
    limits = {"decompressed_nbytes": 4096}
    data = message(plain, packed)
    yield _attack("lz4-limit", "limit", data, "over the limit", error="LimitError", limits=limits)
    data = _with_buffer(packed, 49, b"\x01\0\0\0")
    short = {**integrity, "error": "TruncatedError"}
    yield _attack("lz4-no-length", "compression", message(plain, data), "4 bytes", **short)
    body_at = metadata_of(packed)[1]
    head = packed[8:body_at]
    # BodyCompression is last, with both fields absent; here it has a codec, 1: ZSTD.
    place = head.rindex(struct.pack("<HHi", 4, 4, 4))
    zstd = head[:place] + struct.pack("<HHHxxib", 6, 9, 4, 8, 1)
    zstd = patched(zstd, 76, struct.pack("<I", place + 8 - 76))
    data = encapsulated(zstd) + packed[body_at:]
    yield _attack("zstd", "compression-codec", message(plain, data), "ZSTD")


def _with_buffer(data: bytes, index: int, stored: bytes) -> bytes:
    """Return a compressed batch in which one buffer is another, laid out anew."""
    metadata, _ = metadata_of(data)
    pieces = []
    for at in range(len(metadata.buffers) // 2):
        start, nbytes = place_of(data, at)
        pieces.append(stored if at == index else data[start : start + nbytes])
    flat: list[int] = []
    body = b""
    for at, piece in enumerate(pieces):
        body += bytes(-len(body) % (64 if at >= 49 else 8))
        flat += (len(body), len(piece))
        body += piece
    body += bytes(-len(body) % 64)
    return with_metadata(data, body, buffers=tuple(flat), body_nbytes=len(body))


def _value_attack(name: str, code: str, *rows: Row, about: str, **rest: Any) -> Attack:
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
    yield _value_attack(
        "rows-swapped", "row-order", item(1), item(0), about="1 before 0", **integrity
    )
    yield _value_attack("rows-gap", "row-order", item(0), item(2), about="no item 1", **integrity)
    yield _value_attack("rows-twice", "row-order", item(0), item(0), about="0 twice", **integrity)
    yield _value_attack(
        "request-first", "row-order", request, item(0), about="request first", **integrity
    )
    yield _value_attack(
        "requests", "row-order", request, request, about="two requests", **integrity
    )
    yield _value_attack("item-negative", "row-order", item(-2), about="item -2", **integrity)
    yield _value_attack("request-image", "row-order", item(-1), about="-1 is an image", **integrity)
    named = item(0, modality="REQUEST")
    yield _value_attack("item-request", "row-order", named, about="0 is the request", **integrity)
    hashed = Row(-1, "REQUEST", hash="1", attributes="{}")
    yield _value_attack(
        "request-hash", "request-row", hashed, about="a request's hash", **integrity
    )
    yield _value_attack("modality", "modality", item(0, modality="SMELL"), about="no such modality")
    yield _value_attack("format", "modality", item(0, format="raw"), about="no such format")
    yield _value_attack("format-null", "modality", item(0, format=None), about="no format")
    for name, text in (("text", "0x1f"), ("empty", ""), ("space", " 1"), ("script", "\u0661")):
        yield _value_attack(f"hash-{name}", "hash", item(0, hash=text), about=f"hash {text!r}")
    yield _value_attack("hash-long", "hash", item(0, hash="9" * 1235), about="1235 digits")
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
    yield _value_attack("items", "limit", item(0), item(1), item(2), about="over a limit", **items)


def _tensors() -> Iterator[Attack]:
    integrity: dict[str, Any] = {"error": "IntegrityError"}
    limit: dict[str, Any] = {"error": "LimitError"}
    twice = item(0, tensor(), tensor())
    yield _value_attack(
        "name-twice", "tensor-names", twice, about="one name, two tensors", **integrity
    )
    lost = item(0, attributes={"feature": {"$tensor": "feature"}})
    yield _value_attack("tensor-lost", "tensor-names", lost, about="no such tensor", **integrity)
    left = item(0, tensor(), attributes={})
    yield _value_attack(
        "tensor-left", "tensor-names", left, about="nobody asks for it", **integrity
    )
    again = item(0, tensor(), attributes={"feature": [{"$tensor": "feature"}] * 2})
    yield _value_attack("tensor-again", "tensor-names", again, about="asked for twice", **integrity)
    data = [bytes(32)]
    yield _value_attack(
        "dtype", "dtype", item(0, tensor(dtype="float7", data=data)), about="float7"
    )
    yield _value_attack(
        "dtype-object", "dtype", item(0, tensor(dtype="object", data=data)), about="object"
    )
    yield _value_attack(
        "encoding", "encoding", item(0, tensor(encoding="zip")), about="encoding zip"
    )
    negative = item(0, tensor(shape=(-2, -4), data=data))
    yield _value_attack("shape-negative", "shape", negative, about="two extents below 0")
    short = item(0, tensor(shape=(2, 5), data=data))
    yield _value_attack(
        "shape-short", "shape-bytes", short, about="40 bytes, 32 there", **integrity
    )
    long = item(0, tensor(shape=(7,), data=data))
    yield _value_attack("shape-long", "shape-bytes", long, about="28 bytes, 32 there", **integrity)
    none = item(0, tensor(data=[]))
    yield _value_attack("shape-none", "shape-bytes", none, about="no chunk", **integrity)
    # 2**32 * 2**32 * 4 is 0 in 64 bits, and 2**62 * 4 * 2 + 32 is 32.
    wraps = item(0, tensor(shape=(2**32, 2**32), data=[]))
    clauses = {**limit, "clauses": ("B-1", "T-4")}
    yield _value_attack("shape-wraps", "limit", wraps, about="0 bytes modulo 2**64", **clauses)
    zero = item(0, tensor(shape=(0, 2**62, 2**62), data=[]))
    yield _value_attack("shape-zero", "limit", zero, about="strides overflow", **clauses)
    axes = item(0, tensor(dtype="uint8", shape=(1,) * 33, data=[b"a"]))
    yield _value_attack("dimensions", "limit", axes, about="33 axes", **limit)
    parameters = item(0, tensor(parameters={}))
    yield _value_attack(
        "plain-parameters", "plain-parameters", parameters, about="plain with parameters"
    )


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
        yield _value_attack(
            f"parameters-{name}", "parameters", forged(changes), about=f"{changes!r}"
        )
    integrity: dict[str, Any] = {"error": "IntegrityError"}
    code = forged({}, code=2)
    yield _value_attack(
        "dictionary-code", "dictionary-code", code, about="code 2 of 2", **integrity
    )
    short = forged({}, table=1)
    yield _value_attack("dictionary-table", "dictionary-table", short, about="1 of 2", **integrity)
    shape = forged({}, shape=(21,))
    yield _value_attack(
        "dictionary-shape", "dictionary-shape", shape, about="21 of 20", **integrity
    )
    codes = forged({"codes": [1, 21]}, shape=(21,))
    yield _value_attack(
        "dictionary-bytes", "shape-bytes", codes, about="20 of 21 codes", **integrity
    )
    limit: dict[str, Any] = {"error": "LimitError", "clauses": ("B-1", "T-4")}
    bomb = forged({"repeat": 2**40}, shape=(20 * 2**40,))
    yield _value_attack("dictionary-bomb", "limit", bomb, about="20 codes become 80 TiB", **limit)
    zero = forged({"codes": [1, 0, 2**62], "repeat": 2**62}, shape=(0,))
    yield _value_attack("dictionary-zero", "limit", zero, about="no code, huge extents", **limit)
    axes = forged({"codes": [1] * 70 + [20]})
    yield _value_attack("dictionary-axes", "limit", axes, about="71 axes of codes", **limit)


def _attributes() -> Iterator[Attack]:
    def holding(text: str) -> Row:
        return item(0, attributes='{"model_specific_data":{"a":' + text + "}}")

    null = item(0, attributes=None)
    yield _value_attack("attributes-null", "attributes", null, about="null", clauses=("R-6",))
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
        yield _value_attack(f"attributes-{name}", "attributes", row, about=f"attributes {text!r}")
    fields = {"unknown": '{"other":1}', "list": '{"model_specific_data":[1]}'}
    fields |= {"number": '{"feature":1}', "text": '{"precomputed_embeddings":"a"}'}
    for name, text in fields.items():
        row = item(0, attributes=text)
        yield _value_attack(f"field-{name}", "attributes-field", row, about=f"attributes {text!r}")
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
        yield _value_attack(f"value-{name}", "attributes-value", row, about=text[:60], **clauses)
    limit: dict[str, Any] = {"error": "LimitError"}
    deep = holding("[" * 100 + "]" * 100)
    yield _value_attack("attributes-deep", "limit", deep, about="100 lists", **limit)
    deeper = holding("[" * 2000 + "]" * 2000)
    yield _value_attack("attributes-deeper", "limit", deeper, about="2000 lists", **limit)
