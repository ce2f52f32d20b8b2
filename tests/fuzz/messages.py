"""Any bytes as a message: decode, describe and verify agree, and what was read encodes again."""

from __future__ import annotations

import json
import os
import random
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from mmformat.codec import decode, encode
from mmformat.codec.chained_buffer import open_chained
from mmformat.codec.columns import Row
from mmformat.codec.describe import describe
from mmformat.codec.plans import forget_plans
from mmformat.codec.record_batch import BatchMetadata
from mmformat.codec.schema import END_OF_STREAM, SCHEMA_MESSAGE
from mmformat.codec.stream import find_batches, read_batches
from mmformat.codec.verify import CLAUSES, verify
from mmformat.errors import MMFormatError
from mmformat.model import Compression, MultimodalInputs
from mmformat.testing import golden_vectors
from mmformat.testing.equality import twin_of
from tests.fuzz.attributes import changed_json
from tests.fuzz.target import EDGES, Mutate, Target, expect
from tests.support.forgery import batch, encapsulated, item, message, tensor, with_metadata
from tests.support.sweep import LIMITS

__all__ = ["CODEC", "DECODE", "SCHEMA", "check_message", "edge", "outcome"]

CODEC = ("mmformat/codec",)
_COMPRESSIONS = [Compression(codec=codec, threshold_nbytes=64) for codec in ("lz4", "zstd")]


def check_message(data: bytes) -> None:
    """Hold every reader of a message against every other one, with plans and without."""
    if zlib.crc32(data) % 64 == 0:
        forget_plans()
    code, inputs = outcome(data)
    for _ in range(2):  # a plan is made of the second, and used by the third
        later, again = outcome(data)
        expect(later == code, f"first {code}, later {later}")
        same = inputs is None or again is None or twin_of(inputs) == twin_of(again)
        expect(same, "another value the second time")
    expect(code is None or code in CLAUSES, f"expected a code of the table, got {code}")
    refused = [finding.code for finding in verify(data, limits=LIMITS) if finding.refused]
    expect(refused[:1] == ([] if code is None else [code]), f"decode: {code}, verify: {refused}")
    if inputs is None:
        return
    describe(data, limits=LIMITS)
    arrow = [str(f) for f in verify(data, limits=LIMITS) if f.clause == "L-18"]
    expect(not arrow, f"Arrow refuses what we read: {arrow}")
    expect(decode(data, limits=LIMITS, expand=False) is not None, "unexpanded")
    twin = twin_of(inputs)
    for compression in (None, _COMPRESSIONS[zlib.crc32(data) % len(_COMPRESSIONS)]):
        again = decode(bytes(encode(inputs, compression=compression)), limits=LIMITS)
        expect(twin_of(again) == twin, "encoding what was decoded gives something else")
    if zlib.crc32(data) % 8 == 0:
        frames = [data[at : at + 57] for at in range(0, len(data), 57)]
        expect(twin_of(decode(frames, limits=LIMITS)) == twin, "frames give something else")
        path = _file()
        path.write_bytes(data)
        expect(twin_of(decode(path, limits=LIMITS)) == twin, "a file gives something else")


def outcome(data: bytes) -> tuple[str | None, MultimodalInputs | None]:
    try:
        return None, decode(data, limits=LIMITS)
    except MMFormatError as error:
        return error.code, None


@cache
def _file() -> Path:
    handle, name = tempfile.mkstemp(prefix="fuzz-", suffix=".arrows")
    os.close(handle)
    return Path(name)


def vectors() -> list[bytes]:
    """Return every golden vector, valid or not; plans are made of the valid ones."""
    found = [vector.read() for vector in golden_vectors()]
    for data in found * 3:
        outcome(data)
    return found


# ---- mutation in the message's own terms ---------------------------------------------------------


def mutate_message(data: bytes, limit: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change rows, metadata, columns, the order of batches, or just bytes."""
    how: Callable[..., bytes] = chance.choice(
        (_change_rows, _change_rows, _change_metadata, _change_columns, _change_order, _change_any)
    )
    try:
        made = how(data, chance, mutate)
    except MemoryError:
        raise  # reading for the mutation took more than reading may take
    except Exception:
        # What cannot even be forged: struct and Arrow refuse it, or the input has no such part.
        made = mutate(data, limit)
    return made if len(made) <= limit else mutate(data, limit)


def _change_any(data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    return mutate(data, len(data) + 64)


def _parts(data: bytes) -> list[bytes]:
    """Cut a stream into its Arrow messages; raises where there is none."""
    found = list(find_batches(open_chained(data), LIMITS))
    cuts = [batch.start for batch in found] or [len(data) - len(END_OF_STREAM)]
    ends = [*cuts[1:], len(data) - len(END_OF_STREAM)]
    return [data[: cuts[0]], *(data[a:b] for a, b in zip(cuts, ends, strict=True) if a < b)]


def _change_order(data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    schema, *batches = _parts(data)
    other = chance.choice(_seeds())
    batches += _parts(other)[1:]
    chance.shuffle(batches)
    return message(*batches[: chance.randrange(1, 5)], schema=schema)


def edge(chance: random.Random, value: int) -> int:
    return chance.choice((chance.choice(EDGES), value + chance.choice((-64, -8, -1, 1, 8, 64))))


_METADATA = ("length", "body_nbytes", "nodes", "buffers", "variadic", "compressed")


def _change_metadata(data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    schema, *batches = _parts(data)
    which = chance.randrange(len(batches))
    found = next(iter(find_batches(open_chained(schema + batches[which] + END_OF_STREAM), LIMITS)))
    changes: dict[str, Any] = {}
    for _ in range(chance.choice((1, 1, 2))):
        name = chance.choice(
            ("length", "body_nbytes", "nodes", "buffers", "variadic", "compressed")
        )
        old = getattr(found.metadata, name)
        if name == "compressed":
            changes[name] = not old
        elif name in ("length", "body_nbytes"):
            changes[name] = edge(chance, old)
        else:
            values = list(old)
            at = chance.randrange(len(values) + 1)
            values[at : at + chance.choice((1, 1, 1, 0))] = [
                edge(chance, values[at] if at < len(values) else 0)
            ]
            changes[name] = tuple(values)
    if chance.random() < 0.3:  # the flatbuffer itself
        body_at = 8 + int.from_bytes(batches[which][4:8], "little")
        metadata = mutate(batches[which][8:body_at], body_at)
        batches[which] = encapsulated(metadata) + batches[which][body_at:]
    else:
        batches[which] = with_metadata(batches[which], **changes)
    return message(*batches, schema=schema)


def _change_columns(data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    found = chance.choice(list(find_batches(open_chained(data), LIMITS)))
    metadata: BatchMetadata = found.metadata
    pairs = [
        (metadata.buffers[i], metadata.buffers[i + 1])
        for i in range(0, len(metadata.buffers), 2)
        if 0 < metadata.buffers[i + 1] <= len(data)
    ]
    offset, nbytes = chance.choice(pairs)
    at = found.body_at + offset
    old = data[at : at + nbytes]
    if chance.random() < 0.5 and nbytes >= 4:  # an offset, a view's length, a claimed length
        place = chance.randrange(nbytes // 4) * 4
        value = edge(chance, int.from_bytes(old[place : place + 4], "little", signed=True))
        new = old[:place] + (value % 2**32).to_bytes(4, "little") + old[place + 4 :]
    else:
        new = mutate(old, nbytes).ljust(nbytes, b"\0")[:nbytes]
    return data[:at] + new + data[at + nbytes :]


def _change_rows(data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    batches = [*read_batches(open_chained(data), LIMITS)]
    rows = chance.choice([rows for rows in batches if rows])
    for _ in range(chance.choice((1, 1, 2, 4))):
        _change_row(rows, chance, mutate)
    return message(*[batch(*rows, compressed=chance.random() < 0.25) for rows in batches])


def _change_row(rows: list[Row], chance: random.Random, mutate: Mutate) -> None:
    row = chance.choice(rows)
    name = chance.choice(
        ("attributes",) * 4 + ("tensors",) * 4 + ("item", "modality", "format", "hash", "rows")
    )
    if name == "attributes":
        row.attributes = changed_json(row.attributes or "{}", chance, mutate)
    elif name == "tensors" and row.tensors:
        at = chance.randrange(len(row.tensors))
        _change_tensor(row, at, chance, mutate)
    elif name == "item":
        row.item = chance.choice((-2, -1, 0, 1, 2, len(rows), 2**31 - 1))
    elif name == "modality":
        row.modality = chance.choice(
            ("IMAGE", "VIDEO", "AUDIO", "MULTI_IMAGES", "REQUEST", "image")
        )
    elif name == "format":
        row.format = chance.choice(
            (None, "normal", "processor_output", "precomputed_embedding", "")
        )
    elif name == "hash":
        digits = "9" * chance.choice((1, 19, 20, 308, 309, 1234, 1235, 4300, 5000))
        row.hash = chance.choice(
            (None, "0", "-0", "-1", "007", digits, f"-{digits}", "1e5", "\u0661")
        )
        row.pad_value = chance.choice((None, 0, -1, 2**63 - 1, -(2**63)))
        row.identity = chance.choice((None, "", "a", "\0", "x" * 300))
        row.offsets = chance.choice((None, [], [(0, 0)], [(-1, 2**63 - 1), (5, 3)]))
    else:
        rows.insert(chance.randrange(len(rows) + 1), chance.choice(rows))


_DTYPES = "bool int8 int64 uint8 uint16 float16 float32 float64 bfloat16 float8_e4m3fn complex128"


def _change_tensor(row: Row, at: int, chance: random.Random, mutate: Mutate) -> None:
    entry = row.tensors[at]
    name = chance.choice(("shape", "data", "dtype", "encoding", "parameters", "name", "again"))
    if name == "shape":
        shape = list(entry.shape)
        place = chance.randrange(len(shape) + 1)
        shape[place : place + chance.choice((0, 1, 1))] = chance.choice(
            ([chance.choice(EDGES)], [1], [0], [], [1] * 40)
        )
        row.tensors[at] = entry._replace(shape=tuple(shape))
    elif name == "data":
        data = [bytes(chunk) for chunk in entry.data]
        place = chance.randrange(len(data) + 1)
        old = data[place] if place < len(data) else b""
        new = mutate(old, len(old) + 32) if old else bytes(chance.randrange(0, 70))
        cut = chance.randrange(len(old) + 1)
        data[place : place + 1] = chance.choice(([new], [old[:cut], old[cut:]], [], [b"", old]))
        row.tensors[at] = entry._replace(data=data)
    elif name == "dtype":
        row.tensors[at] = entry._replace(dtype=chance.choice((*_DTYPES.split(), "object", "")))
    elif name == "encoding":
        row.tensors[at] = entry._replace(encoding=chance.choice(("plain", "dictionary", "delta")))
    elif name == "parameters":
        fields = json.loads(entry.parameters or '{"axis":0,"codes":[1],"entries":2,"repeat":1}')
        key = chance.choice([*fields, "more", "repeat_axis", "table_channels"])
        fields[key] = chance.choice(
            (*EDGES, [1, 2], [], None, True, 1.0, "1", [chance.choice(EDGES)])
        )
        text = json.dumps(fields, separators=(",", ":"))
        if chance.random() < 0.3:
            text = changed_json(text, chance, mutate)
        row.tensors[at] = entry._replace(parameters=text)
    elif name == "name":
        row.tensors[at] = entry._replace(name=chance.choice(("feature", "", "a", "\0", "é")))
    else:
        row.tensors.append(entry)


@cache
def _seeds() -> list[bytes]:
    return vectors()


# ---- the one place where Arrow reads what we have not checked: the schema ------------------------

_REST = message(batch(item(0, tensor())), schema=b"")


def check_schema(data: bytes) -> None:
    """Read a schema's flatbuffer in front of a good batch."""
    check_message(encapsulated(data) + _REST)


def schema_seeds() -> list[bytes]:
    """Return the schemas of all vectors that have one of their own, and ours."""
    found = {SCHEMA_MESSAGE[8:]}
    for data in vectors():
        nbytes = int.from_bytes(data[4:8], "little")
        if data[:4] == SCHEMA_MESSAGE[:4] and 8 + nbytes <= len(data):
            found.add(data[8 : 8 + nbytes])
    return sorted(found)


def mutate_schema(data: bytes, limit: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change words of the flatbuffer, which are offsets, lengths and types, or just bytes."""
    if chance.random() < 0.4 or len(data) < 8:
        return mutate(data, limit)
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        size = chance.choice((1, 2, 4, 4))
        at = chance.randrange(len(data) // size) * size
        old = int.from_bytes(changed[at : at + size], "little")
        new = chance.choice(
            (chance.choice(EDGES), old + 4, old - 4, old ^ 1 << chance.randrange(8))
        )
        changed[at : at + size] = (new % 256**size).to_bytes(size, "little")
    return bytes(changed)


DECODE = Target(
    name="decode",
    seeds=vectors,
    check=check_message,
    mutate=mutate_message,
    max_nbytes=2**15,
    modules=CODEC,
)
SCHEMA = Target(
    name="schema",
    seeds=schema_seeds,
    check=check_schema,
    mutate=mutate_schema,
    max_nbytes=2**13,
    modules=CODEC,
)
