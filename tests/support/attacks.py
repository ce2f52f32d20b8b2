"""Invalid golden vectors: each breaks one promise of the stream, its layout or its columns."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmformat._arrow import Schema
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

__all__ = ["Attack", "future", "stream_attacks"]


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
