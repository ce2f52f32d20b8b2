"""Every promise of the specification that a message breaks, each with its clause."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mmformat._arrow import validate_stream
from mmformat.codec.canonical import filled_gaps, hidden_values, misspelt_int, misspelt_json
from mmformat.codec.clauses import CALLER_CODES, CLAUSES
from mmformat.codec.decode import RowReader, gather
from mmformat.codec.rows import DICTIONARY, Row, TensorEntry
from mmformat.codec.schema import REQUEST
from mmformat.codec.spans import Spans, open_spans
from mmformat.codec.stream import columns_in, find_batches, read_batches, structure_in
from mmformat.errors import IntegrityError, MMFormatError
from mmformat.model.limits import Limits

__all__ = ["Finding", "verify"]


class Finding(NamedTuple):
    """Name one broken promise.

    Parameters
    ----------
    clause : str
        The clause of SPEC.md, as ``L-9``.
    code : str
        The stable name; that of the error which ``decode`` raises, where it does.
    path : str
        Where, as ``$.items[2].feature`` or ``$.buffers[3]``.
    message : str
        What was expected and what is there.
    refused : bool
        Whether ``decode`` refuses the message for it.
    """

    clause: str
    code: str
    path: str
    message: str
    refused: bool


def verify(source: Any, *, limits: Limits | None = None) -> list[Finding]:
    """Return every promise of the format that a message breaks; an empty list means none.

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
        After a broken promise of the stream nothing behind it is looked at.

    Raises
    ------
    DecodeError
        When the source cannot be opened; never for what is in it.

    Notes
    -----
    **Copies**: frames are joined, compressed batches decompressed. **Cost**: every byte is read.

    References
    ----------
    SPEC.md, "Reading"; :data:`mmformat.codec.clauses.CLAUSES`.

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
    spans = open_spans(source)
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

    reader = RowReader(limits, make)
    try:
        if row.modality == REQUEST:
            reader.values(row, path, ("request_data",))
        else:
            reader.item(row, path)
    except MMFormatError as error:
        yield _refusal(error)
        return
    if row.hash is not None and misspelt_int(row.hash):
        yield _promise("json", f"{path}.hash", f"expected no zeros before {int(row.hash)}")
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
        yield _promise("bool", path, "expected bytes 0 and 1 for bool")


def _largest(chunk: Any) -> int:
    return int(np.frombuffer(chunk, np.uint8).max()) if len(chunk) else -1


def _batch_findings(spans: Spans, limits: Limits) -> Iterator[Finding]:
    for number, batch in enumerate(find_batches(spans, limits)):
        path = f"$.batches[{number}]"
        for at in filled_gaps(spans, batch):
            yield _promise("padding", path, f"expected zeros at byte {at:,} of the message")
        structure, lengths = structure_in(spans, batch, limits)
        columns = columns_in(spans, batch, structure, lengths)
        for at in hidden_values(structure, columns):
            yield _promise("null-value", f"{path}.buffers[{at}]", "expected no value under a null")


def _arrow_findings(spans: Spans) -> Iterator[Finding]:
    try:
        validate_stream(spans.read(0, spans.nbytes))
    except (pa.ArrowException, OSError) as error:
        yield _promise("arrow", "$", f"expected what Arrow's full validation accepts, got: {error}")
