"""Promises that no reader depends on: zeros in gaps, nothing under nulls, one spelling of JSON."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from mmformat.codec.attributes import SAFE_INT
from mmformat.codec.columns import NULLABLE
from mmformat.codec.layout import Structure, layout_of
from mmformat.codec.rows import Bytes
from mmformat.codec.spans import Spans
from mmformat.codec.stream import Batch

__all__ = ["filled_gaps", "hidden_values", "misspelt_int", "misspelt_json"]

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_PAD_VALUE: Final = 11


def filled_gaps(spans: Spans, batch: Batch) -> Iterator[int]:
    """Yield the byte of the message at which each gap begins that is not all zeros."""
    flat = batch.metadata.buffers
    places = [*zip(flat[::2], flat[1::2], strict=True), (batch.metadata.body_nbytes, 0)]
    end = 0
    for offset, nbytes in places:
        if any(spans.read(batch.body_at + end, offset - end)):
            yield batch.body_at + end
        end = offset + nbytes


def hidden_values(structure: Structure, columns: Bytes) -> Iterator[int]:
    """Yield the validity buffer of each column that holds a value under a null."""
    layout = layout_of(structure)
    values = layout.columns.unpack_from(columns)
    for at in NULLABLE:
        bitmap = values[layout.slices[at].start]
        if not bitmap:
            continue
        bits = int.from_bytes(bitmap, "little")
        under: Sequence[int] = values[layout.slices[at + 1]]
        if at != _PAD_VALUE:  # offsets: a null has no bytes, and no ranges
            under = [end - start for start, end in pairwise(under)]
        if any(value and not bits >> index & 1 for index, value in enumerate(under)):
            yield at


def misspelt_int(text: str) -> bool:
    """Say whether a checked decimal text is not the shortest one of its number."""
    return str(int(text)) != text


def misspelt_json(text: str) -> Iterator[str]:
    """Yield what is wrong with the spelling of checked attributes."""
    if re.search(r"\s", _STRING.sub('""', text)):
        yield "expected no white space between tokens"
    yield from _misspelt(json.loads(text))


def _misspelt(value: Any) -> Iterator[str]:
    if type(value) is list:
        for part in value:
            yield from _misspelt(part)
    if type(value) is not dict:
        return
    for key, part in value.items():
        encoded = part[1] if key == "$scalar" else part
        if key in ("$bytes", "$bytearray", "$scalar"):
            if base64.b64encode(base64.b64decode(encoded)).decode() != encoded:
                yield f"expected zero bits behind the last byte of {key}"
        elif key == "$int":
            if misspelt_int(part) or -SAFE_INT <= int(part) <= SAFE_INT:
                yield "expected $int for ints over 2**53 alone, in their shortest spelling"
        else:
            yield from _misspelt(part)
