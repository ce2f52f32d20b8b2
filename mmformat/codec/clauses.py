"""Which clause of the specification each code stands for; the one table."""

from __future__ import annotations

from typing import Final

__all__ = ["CALLER_CODES", "CLAUSES", "VERIFY_CODES"]

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
"""Broken promises that decoding does not look for, because they cannot hurt it."""

CALLER_CODES: Final = frozenset(
    {"attributes-depth", "headroom", "missing-extra", "model", "not-materialized", "source"}
)
"""Codes that speak of the caller's arguments and not of a message."""
