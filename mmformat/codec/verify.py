"""Validate a message against every clause of the specification."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from mmformat._arrow import validate_stream
from mmformat.codec.attributes import SAFE_INT
from mmformat.codec.chained_buffer import ChainedBuffer, open_chained
from mmformat.codec.columns import DICTIONARY, Bytes, Row, TensorEntry
from mmformat.codec.decode import RowReader, gather
from mmformat.codec.record_batch import Structure, layout_of
from mmformat.codec.schema import ARRAYS, REQUEST
from mmformat.codec.stream import Batch, columns_in, find_batches, read_batches, structure_in
from mmformat.errors import IntegrityError, MMFormatError
from mmformat.model.limits import Limits

__all__ = [
    "CALLER_CODES",
    "CLAUSES",
    "VERIFY_CODES",
    "Finding",
    "filled_gaps",
    "hidden_values",
    "misspelt_int",
    "misspelt_json",
    "verify",
]

CLAUSES: Final[dict[str, str]] = {
    # the stream
    "no-schema": "L-1",
    "marker": "L-2",
    "truncated": "L-3",
    "trailing-bytes": "L-4",
    "metadata-version": "L-5",
    "message-type": "L-6",
    "metadata": "L-7",
    "alignment": "L-8",
    "layout": "L-9",
    "padding": "L-10",
    "array-count": "L-11",
    "array-length": "L-12",
    "buffer-length": "L-13",
    "offsets": "L-14",
    "utf8": "L-15",
    "nulls": "L-16",
    "null-value": "L-17",
    "arrow": "L-18",
    # the schema
    "schema": "S-1",
    "no-version": "S-2",
    "version": "S-3",
    # rows
    "row-order": "R-1",
    "request-row": "R-2",
    "continuation": "R-3",
    "modality": "R-4",
    "hash": "R-5",
    # tensors and their chunks
    "tensor-names": "T-1",
    "dtype": "T-2",
    "shape": "T-3",
    "shape-bytes": "T-4",
    "encoding": "T-5",
    "plain-parameters": "T-6",
    "bool": "T-8",
    "inline": "V-1",
    "view": "V-2",
    "view-prefix": "V-3",
    # dictionary encoding
    "parameters": "D-1",
    "dictionary-table": "D-2",
    "dictionary-code": "D-3",
    "dictionary-shape": "D-5",
    # compression
    "compression-codec": "Z-1",
    "compression": "Z-2",
    # attributes
    "attributes": "A-1",
    "attributes-field": "A-2",
    "attributes-value": "A-3",
    "json": "A-6",
    # what a reader allows
    "limit": "B-1",
}
"""The clause of schemas/v1/SPEC.md that a code of a finding or of a decoding error names."""

VERIFY_CODES: Final = frozenset({"arrow", "bool", "json", "null-value", "padding"})
"""Violations that decoding does not check, because they are harmless to it."""

CALLER_CODES: Final = frozenset(
    {"attributes-depth", "headroom", "missing-extra", "model", "not-materialized", "source"}
)
"""Codes about the caller's arguments, not about a message."""


_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')


def filled_gaps(spans: ChainedBuffer, batch: Batch) -> Iterator[int]:
    """Yield the offset of each gap between buffers that holds a byte other than zero."""
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
    for array in ARRAYS:
        bitmap = values[layout.slices[array.buffer].start] if array.nullable else b""
        if not bitmap:
            continue
        bits = int.from_bytes(bitmap, "little")
        under: Sequence[int] = values[layout.slices[array.buffer + 1]]
        if array.kind in ("text", "list"):  # a null has no bytes, and no ranges
            under = [end - start for start, end in pairwise(under)]
        if any(value and not bits >> index & 1 for index, value in enumerate(under)):
            yield array.buffer


def misspelt_int(text: str) -> bool:
    """Return whether a checked decimal text is not the shortest form of its number."""
    return str(int(text)) != text


def misspelt_json(text: str) -> Iterator[str]:
    """Yield each deviation of checked attributes from canonical JSON."""
    if re.search(r"\s", _STRING.sub('""', text)):
        yield "JSON must have no white space between tokens"
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
                yield f"unused bits after the last byte of {key} must be zero"
        elif key == "$int":
            if misspelt_int(part) or -SAFE_INT <= int(part) <= SAFE_INT:
                yield "$int must hold an int over 2**53 in its shortest form"
        else:
            yield from _misspelt(part)


class Finding(NamedTuple):
    """A violation of the specification.

    Parameters
    ----------
    clause : str
        The clause of SPEC.md, as ``L-9``.
    code : str
        The stable name; that of the error which ``decode`` raises, where it does.
    path : str
        Where, as ``$.items[2].feature`` or ``$.buffers[3]``.
    message : str
        The rule, and the offending value.
    refused : bool
        Whether ``decode`` refuses the message for it.
    """

    clause: str
    code: str
    path: str
    message: str
    refused: bool


def verify(source: Any, *, limits: Limits | None = None) -> list[Finding]:
    """Return every violation of the specification in a message; an empty list if it is valid.

    Parameters
    ----------
    source : EncodedMessage, bytes, buffer, list of frames, or path
        The message; a path is mapped.
    limits : Limits, optional
        What the message may ask for.

    Returns
    -------
    list of Finding
        Where one has ``refused``, ``decode`` raises an error of the first such finding's code.
        After a violation in the stream's framing, the rest is not examined.

    Raises
    ------
    DecodeError
        If the source cannot be opened; never for its content.

    Notes
    -----
    **Copies**: frames are joined, compressed batches decompressed. **Cost**: every byte is read.

    References
    ----------
    SPEC.md, "Reading"; :data:`mmformat.codec.verify.CLAUSES`.

    Examples
    --------
    >>> import mmformat as mm
    >>> message = bytes(mm.encode(mm.MultimodalInputs()))
    >>> verify(message)
    []
    >>> verify(message[:-8])[0].clause
    'L-3'
    """
    bounds = Limits.of(limits)
    spans = open_chained(source)
    try:
        items, request = gather(read_batches(spans, bounds), bounds)
    except MMFormatError as error:
        return [_refusal(error)]
    rows = items if request is None else [*items, (request, "$")]
    findings = [finding for row, path in rows for finding in _row_findings(row, path, bounds)]
    findings += _batch_findings(spans, bounds)
    if not findings:
        findings += _arrow_findings(spans)
    return findings


def _refusal(error: MMFormatError) -> Finding:
    if error.code in CALLER_CODES:
        raise error
    return Finding(CLAUSES[error.code], error.code, error.path or "$", error.reason, True)


def _promise(code: str, path: str, message: str) -> Finding:
    return Finding(CLAUSES[code], code, path, message, False)


def _row_findings(row: Row, path: str, limits: Limits) -> Iterator[Finding]:
    made: list[tuple[TensorEntry, str]] = []

    def make(entry: TensorEntry, torch: bool, path: str) -> object:
        if entry.encoding == DICTIONARY:
            _check_codes(entry, path)
        made.append((entry, path))
        return (entry.name,)  # hashable, so that it may be a key

    reader = RowReader(limits, make, makes_scalars=False)
    try:
        if row.modality == REQUEST:
            reader.values(row, path, ("request_data",))
        else:
            reader.item(row, path)
    except MMFormatError as error:
        yield _refusal(error)
        return
    if row.hash is not None and misspelt_int(row.hash):
        yield _promise(
            "json", f"{path}.hash", f"the hash {int(row.hash)} must have no leading zeros"
        )
    for message in misspelt_json(row.attributes or "{}"):
        yield _promise("json", path, message)
    for entry, where in made:
        yield from _value_findings(entry, where)


def _check_codes(entry: TensorEntry, path: str) -> None:
    entries = json.loads(entry.parameters or "")["entries"]
    largest = max(map(_largest, entry.data[1:]), default=-1)
    if largest >= entries:
        raise IntegrityError(
            f"expected codes below {entries}, got {largest}", path=path, code="dictionary-code"
        )


def _value_findings(entry: TensorEntry, path: str) -> Iterator[Finding]:
    values = entry.data[:1] if entry.encoding == DICTIONARY else entry.data
    if entry.dtype == "bool" and max(map(_largest, values), default=0) > 1:
        yield _promise("bool", path, "a bool tensor must hold only the bytes 0 and 1")


def _largest(chunk: Any) -> int:
    return int(np.frombuffer(chunk, np.uint8).max()) if len(chunk) else -1


def _batch_findings(spans: ChainedBuffer, limits: Limits) -> Iterator[Finding]:
    for number, batch in enumerate(find_batches(spans, limits)):
        path = f"$.batches[{number}]"
        for at in filled_gaps(spans, batch):
            yield _promise(
                "padding", path, f"the padding at byte {at:,} of the message must be zeros"
            )
        structure, lengths = structure_in(spans, batch, limits)
        columns = columns_in(spans, batch, structure, lengths)
        for at in hidden_values(structure, columns):
            yield _promise("null-value", f"{path}.buffers[{at}]", "a null must not have a value")


def _arrow_findings(spans: ChainedBuffer) -> Iterator[Finding]:
    try:
        validate_stream(spans.read(0, spans.nbytes))
    except (pa.ArrowException, OSError) as error:
        yield _promise("arrow", "$", f"Arrow's full validation fails: {error}")
