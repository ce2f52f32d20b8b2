"""What the valid golden vectors are made from."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat._extras import require
from mmformat.codec import encode
from mmformat.model import (
    Compression,
    DictionaryTensor,
    InputFormat,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
)
from mmformat.model.tensors import ITEMSIZE, numpy_dtype, torch_dtype
from tests.support.forged_samples import (
    batches,
    chunks,
    explained_choice,
    foreign,
    headroom,
    older_schema,
    packed_chunks,
)
from tests.support.forgery import (
    batch,
    bytes_of,
    item,
    message,
    metadata_of,
    place_of,
    tensor,
    with_metadata,
)

__all__ = ["Sample", "samples"]

_ALL: Final = Compression(codec="lz4", threshold_nbytes=512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Hold what a valid vector is made from.

    Parameters
    ----------
    name, about : str
        As in the manifest.
    clauses : str
        Clauses of SPEC.md that it is an example of, separated by spaces.
    make : callable
        Returns the message.
    reproducible : bool
        Whether it is the same bytes whatever library compressed it.
    optional : str, optional
        The code by which a reader may refuse it that lacks what it needs.
    """

    name: str
    about: str
    clauses: str
    make: Callable[[], bytes]
    reproducible: bool = True
    optional: str | None = None


def array(dtype: str, *shape: int, seed: int = 1) -> npt.NDArray[Any]:
    """Return an array of such bytes; of 0 and 1 for bool."""
    count = int(np.prod(shape, dtype=np.int64))
    raw = bytes_of(count * ITEMSIZE[dtype], seed)
    if dtype == "bool":
        raw &= np.uint8(1)
    return raw.view(numpy_dtype(dtype)).reshape(shape)


def _torch(dtype: str, *shape: int, seed: int = 1) -> Any:
    torch = require("torch", extra="torch")
    count = int(np.prod(shape, dtype=np.int64))
    raw = bytes_of(count * ITEMSIZE[dtype], seed)
    if dtype == "bool":
        raw &= np.uint8(1)
    return torch.from_numpy(raw).view(torch_dtype(dtype)).view(shape)


def _image(**fields: Any) -> MultimodalDataItem:
    return MultimodalDataItem(modality=Modality.IMAGE, **fields)


def _message(
    *items: MultimodalDataItem, compression: Compression | None = None, **request: Any
) -> bytes:
    inputs = MultimodalInputs(items=list(items), request_data=request)
    return bytes(encode(inputs, compression))


def _dtypes() -> bytes:
    return _message(
        _image(model_specific_data={d: array(d, 3, 2) for d in ITEMSIZE}),
        _image(model_specific_data={d: _torch(d, 3, 2, seed=2) for d in ITEMSIZE}),
    )


def _float8() -> bytes:
    every = np.arange(256, dtype=np.uint8)
    kinds = [name for name in ITEMSIZE if name.startswith("float8")]
    return _message(
        _image(model_specific_data={name: every.view(numpy_dtype(name)) for name in kinds}),
        _image(feature=np.arange(512, dtype="<u2").view(numpy_dtype("bfloat16"))),
    )


def _tags() -> bytes:
    return _message(
        _image(feature=array("uint8", 4, 4)),
        none=None,
        true=True,
        text='line\n"quoted" \\ \u00e9 \U0001f600 \ud800',
        integers=[0, -1, 2**53, -(2**53), 2**53 + 1, -(2**200)],
        floats=[0.0, -0.0, 1.0, 0.1, 5e-324, 1.7976931348623157e308],
        special=[float("nan"), float("inf"), float("-inf")],
        complexes=[complex(1, -0.0), complex(float("inf"), float("nan"))],
        octets=[b"", b"\x00\xff", bytearray(b"abc")],
        tuples=((), (1, (2, [3])), []),
        dicts=[{}, {"a": {"b": {}}}, {"$tensor": "a key, no tag"}, {1: "int", None: "none"}],
        keys={(1, "a"): 1.0, b"k": 2, 2.5: 3, False: 4},
        tensor=array("float32", 2, 3),
        tensors=[_torch("int64", 4), (_torch("float16", 2, 2), array("int8", 3))],
    )


def _scalars() -> bytes:
    return _message(scalars=[array(name, 1, seed=7)[0] for name in ITEMSIZE])


def _nan_payloads() -> bytes:
    quiet, signalling = 0x7FC00000, 0x7F800001
    bits = [quiet, quiet | 0x1234, 0xFFC00001, signalling, 0x80000000, 0x00000001, 0x807FFFFF]
    doubles = [0x7FF8000000000000, 0xFFF4DEADBEEF0001, 0x8000000000000000, 1]
    return _message(
        _image(feature=np.array(bits, "<u4").view(np.float32)),
        _image(feature=np.array(doubles, "<u8").view(np.float64)),
        _image(feature=np.array([0x7E01, 0xFFFF, 0x8000, 1], "<u2").view(np.float16)),
    )


def _dictionary() -> bytes:
    codes = bytes_of(4 * 6 * 8).reshape(4, 6, 8) % np.uint8(7)
    table = array("float32", 6, 7, seed=3)
    return _message(
        _image(feature=DictionaryTensor(codes, table, axis=1)),
        _image(feature=DictionaryTensor(codes, table[:1], axis=2)),
        _image(feature=DictionaryTensor(codes[:0], table, axis=1)),
    )


def _repeat() -> bytes:
    codes = bytes_of(3 * 4 * 10, 5).reshape(3, 4, 10)
    table = _torch("bfloat16", 3, 256)
    made = DictionaryTensor(codes, table, axis=0, repeat_axis=2, repeat=2)
    rows = DictionaryTensor(codes, table, axis=0, repeat_axis=0, repeat=3, shape=(9, 40))
    flat = DictionaryTensor(codes, table, axis=0, repeat_axis=3, repeat=2, shape=(240,))
    return _message(_image(feature=[made, rows, flat]))


def _unicode() -> bytes:
    names = ["\u5f62\u72b6", "caf\u00e9", "'quoted' \"twice\"", "tab\tnew\nline", "", "\U0001f600"]
    data = {name: array("int16", 9, seed=at) for at, name in enumerate(names)}
    return _message(_image(model_specific_data=data, identity="\u00fc" * 8))


def _offsets() -> bytes:
    ranges: list[Any] = [None, [], [(0, 0)], [(3, 1228), (1230, 1300)], [(-(2**63), 2**63 - 1)]]
    return _message(*[_image(offsets=pairs) for pairs in ranges])


def _hashes() -> bytes:
    hashes = [None, 0, -1, 2**64 - 1, -(2**63), 2**300 + 7]
    values = [None, 0, -1, 2**63 - 1, -(2**63), 1_000_000]
    return _message(
        *[_image(hash=h, pad_value=v) for h, v in zip(hashes, values, strict=True)],
        _image(identity=""),
        _image(identity="ab" * 32),
    )


def _kinds() -> bytes:
    return _message(
        *[
            MultimodalDataItem(modality=modality, format=form, precomputed_embeddings=value)
            for modality in Modality
            for form, value in zip(
                InputFormat, (None, array("float32", 4), [array("float16", 8)]), strict=True
            )
        ]
    )


def _nested() -> bytes:
    value: Any = array("float32", 2, 2)
    for depth in range(10):
        value = {"deeper": [value], "depth": depth} if depth % 2 else ([value], depth)
    deep: list[Any] = []
    for _ in range(59):
        deep = [deep]
    return _message(
        _image(feature=[array("float32", 5), (array("uint8", 20), [array("int8", 13)])]),
        nested=value,
        deep=deep,
    )


def _inline() -> bytes:
    sizes = [*range(18), 63, 64, 65]
    return _message(_image(model_specific_data={f"n{n}": array("uint8", n) for n in sizes}))


def _many() -> bytes:
    items = [_image(hash=n, model_specific_data={"n": np.full(4, n, "<i4")}) for n in range(16)]
    return _message(*items, count=16)


def _lz4() -> bytes:
    ramp = (np.arange(4096) // 64).astype(np.uint8)
    return _message(
        _image(feature=ramp.reshape(64, 64), model_specific_data={"small": array("int64", 3)}),
        _image(feature=array("float32", 8)),
        _image(feature=[array("uint8", 600), ramp]),
        compression=_ALL,
        table=np.zeros((16, 16), np.float32),
    )


def _stored() -> bytes:
    # A writer may leave a buffer of a compressed batch as it is: its length is then -1.
    row = item(0, tensor(shape=(40,), data=[bytes(range(160))]), attributes=None, format=None)
    plain = item(0, attributes={"feature": {"$ndarray": "feature"}})
    packed = batch(row, compressed=True)
    at, nbytes = place_of(packed, 49)
    if nbytes - 8 < 160:
        raise AssertionError(f"expected a frame with room for 160 bytes, got {nbytes}")
    # An LZ4 frame of bytes that do not shrink: replace it by themselves behind -1.
    raw = struct.pack("<q", -1) + bytes(range(160))
    metadata, body_at = metadata_of(packed)
    buffers = (*metadata.buffers[:-1], len(raw))
    body = packed[body_at:at] + raw
    body += bytes(-len(body) % 64)
    again = with_metadata(packed, body, buffers=buffers, body_nbytes=len(body))
    return message(batch(plain), again)


def samples() -> Iterator[Sample]:
    """Yield what every valid vector is made from."""
    rows: list[tuple[str, Callable[[], bytes], str, str]] = [
        ("empty", _message, "L-1 L-13", "no item and no request data"),
        ("no-batch", message, "L-1", "a schema and the end of the stream"),
        ("request-only", lambda: _message(x=1, t=array("int32", 4)), "R-2", "a request row alone"),
        ("dtypes", _dtypes, "T-2 T-7 T-8", "every dtype, made by numpy and by torch"),
        ("float8-bits", _float8, "T-2 T-7", "every bit pattern of float8, many of bfloat16"),
        ("nan-payloads", _nan_payloads, "T-7", "NaN payloads, -0.0 and subnormal numbers"),
        (
            "zero-size",
            lambda: _message(
                _image(feature=array("float32", 0, 3)), a=array("int8", 0), b=_torch("bool", 2, 0)
            ),
            "T-3 V-5",
            "extents of 0",
        ),
        (
            "zero-dim",
            lambda: _message(_image(feature=array("float64")), a=_torch("bfloat16")),
            "T-3 V-1",
            "no axes: one element",
        ),
        ("inline", _inline, "V-1 V-2 L-9", "tensors of 0 to 17 and about 64 bytes"),
        ("nested", _nested, "A-1 A-3", "tensors in lists, tuples and dicts; 60 levels of lists"),
        ("tags", _tags, "A-1 A-3 A-6 A-7", "every tag and every kind of JSON value"),
        ("scalars", _scalars, "A-3", "a numpy scalar of every dtype"),
        (
            "int-keys",
            lambda: _message(_image(model_specific_data={1: array("int8", 20), "a": {2: [3]}})),
            "A-3 T-1",
            "mappings with integer keys",
        ),
        ("unicode-names", _unicode, "L-15 T-1 A-7 R-7", "names in several scripts, and quotes"),
        ("offsets", _offsets, "R-8 L-14 L-16 L-17", "null, empty and many token ranges"),
        ("hashes", _hashes, "R-5 R-7 L-16", "hashes negative and huge, pad values, identities"),
        ("kinds", _kinds, "R-4", "every modality with every format"),
        ("many-items", _many, "R-1 L-12", "16 items and a request row"),
        ("dictionary", _dictionary, "D-1 D-2 D-4 D-5", "a table a channel, one for all, no codes"),
        ("dictionary-repeat", _repeat, "D-4", "a repeated axis, and other shapes"),
        ("chunks", chunks, "V-4 V-2", "tensors and codes in chunks of odd sizes, some empty"),
        ("batches", batches, "R-3", "three batches, continuation rows without compression"),
        ("foreign-schema", foreign, "S-5 E-5", "another key in the schema's metadata"),
        ("schema-v4", older_schema, "S-4 S-5", "a schema of metadata version V4"),
        ("headroom", headroom, "L-8", "more metadata padding than is needed"),
    ]
    for name, make, clauses, about in rows:
        yield Sample(name=name, about=about, clauses=clauses, make=make)
    yield Sample(
        name="lz4",
        about="a plain batch, and a compressed one with continuation rows",
        clauses="Z-1 Z-2 Z-4 R-3",
        make=_lz4,
        reproducible=False,
    )
    yield Sample(
        name="lz4-stored",
        about="a compressed batch that holds a buffer as it is",
        clauses="Z-2",
        make=_stored,
        reproducible=False,
    )
    yield Sample(
        name="lz4-chunks",
        about="compressed tensors in chunks: shrunk, stored, inline, empty; and a dictionary's",
        clauses="Z-2 Z-4 V-4",
        make=lambda: packed_chunks("lz4"),
        reproducible=False,
    )
    yield Sample(
        name="zstd-chunks",
        about="the same, by Zstandard",
        clauses="Z-1 Z-2 Z-4 Z-6",
        make=lambda: packed_chunks("zstd"),
        reproducible=False,
        optional="compression-codec",
    )
    yield Sample(
        name="compression-key",
        about="why a writer compressed nothing",
        clauses="Z-5 S-5",
        make=explained_choice,
    )
