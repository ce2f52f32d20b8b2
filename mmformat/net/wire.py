"""What crosses Flight besides the bytes: the schema, the actions, and errors by their codes."""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np
import pyarrow as pa

from mmformat._extras import require
from mmformat.errors import MMFormatError, StaleHandleError, TransportError, TransportTimeoutError
from mmformat.net.remote_handle import CHUNK_NBYTES

__all__ = [
    "ACK",
    "ECHO",
    "FIND",
    "HOLD",
    "SCHEMA",
    "STATS",
    "batch_of",
    "bytes_of",
    "flight",
    "from_flight",
    "pack_probe",
    "to_flight",
    "told_by",
    "unpack_probe",
]

SCHEMA: Final = pa.schema([pa.field("bytes", pa.large_binary(), nullable=False)])
"""A chunk is a record batch of one row, so that any Flight client can read a message."""

ACK, HOLD, FIND = "mmformat.ack", "mmformat.hold", "mmformat.find"
ECHO, STATS = "mmformat.echo", "mmformat.stats"
"""Actions: I have it; I will come for it; what has this key; send this back; what did you do."""

MAX_ECHO_NBYTES: Final = 2**16
MAX_PROBE_NBYTES: Final = 2**30
_PROBE: Final = struct.Struct("<4sQ")
_PREFIX: Final = b"mmformat:"
_FULL: Final = pa.py_buffer(np.array([0, CHUNK_NBYTES], np.int64))


def flight() -> Any:
    """Return ``pyarrow.flight``.

    Raises
    ------
    MissingExtraError
        When this pyarrow was built without it.
    """
    return require("pyarrow.flight", extra="net")


def batch_of(chunk: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """Return the record batch of a chunk; no byte is copied, and the batch keeps the chunk."""
    offsets = _FULL if chunk.size == CHUNK_NBYTES else pa.py_buffer(np.array([0, chunk.size]))
    values = pa.py_buffer(chunk)
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, values])
    return pa.RecordBatch.from_arrays([column], schema=SCHEMA)


def bytes_of(batch: Any, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the bytes of a received batch, which must be one row of exactly so many.

    Raises
    ------
    TransportError
        With code ``net-protocol``. The offsets are never used: they are the sender's.
    """
    if batch is None or batch.num_rows != 1 or not batch.schema.equals(SCHEMA):
        raise _protocol("a chunk must be one row of one large_binary")
    column = batch.column(0)
    values = column.buffers()[2] if column.offset == 0 else None
    if values is None or values.size != nbytes:
        got = "none" if values is None else f"{values.size:,}"
        raise _protocol(f"the chunk must have {nbytes:,} bytes, got {got}")
    return np.frombuffer(values, np.uint8)


def pack_probe(nbytes: int) -> bytes:
    """Return the ticket that asks for random bytes, to measure a link."""
    return _PROBE.pack(b"mmfp", nbytes)


def unpack_probe(ticket: bytes) -> int | None:
    """Return how many random bytes a ticket asks for; None when it is another ticket.

    Raises
    ------
    TransportError
        With code ``net-ticket`` when these are too many.
    """
    if len(ticket) != _PROBE.size or not ticket.startswith(b"mmfp"):
        return None
    nbytes: int = _PROBE.unpack(ticket)[1]
    if not 1 <= nbytes <= MAX_PROBE_NBYTES:
        raise TransportError(
            f"a probe asks for 1 to {MAX_PROBE_NBYTES:,} bytes, got {nbytes:,}", code="net-ticket"
        )
    return nbytes


def to_flight(error: MMFormatError) -> Exception:
    """Return the Flight error that carries one of ours to the other host."""
    told = f"{type(error).__name__}:{error.code}".encode()
    made: Exception = flight().FlightServerError(error.reason, _PREFIX + told)
    return made


def told_by(error: Exception) -> tuple[str, str, str]:
    """Return the class, the code and the text of an error of ours; no code in any other."""
    extra = getattr(error, "extra_info", None) or b""
    said = str(error).removeprefix("Flight returned error: ").partition(". Detail: ")[0]
    said = "".join(c if c.isprintable() else "?" for c in said)[:200]
    if not extra.startswith(_PREFIX):
        return "", "", said
    name, _, code = extra[len(_PREFIX) :].decode("ascii", "replace").partition(":")
    return name, code[:40], said


def from_flight(error: Exception, location: str) -> TransportError:
    """Return what a Flight or Arrow error means to the caller; its text is the other host's.

    The code tells whether trying again can help: ``net-unreachable`` and ``net-busy`` may pass,
    ``net-refused``, ``net-protocol`` and a stale handle do not.
    """
    api = flight()
    _, code, said = told_by(error)
    if code == StaleHandleError.code:
        return StaleHandleError(
            f"{location} no longer publishes the message", hint="announce it anew"
        )
    if code == "net-busy":
        return TransportError(f"{location} is busy", code="net-busy")
    if isinstance(error, (api.FlightUnauthenticatedError, api.FlightUnauthorizedError)):
        return TransportError(
            f"{location} refused us: {said}", hint="give the publisher's token=", code="net-refused"
        )
    if isinstance(error, api.FlightTimedOutError):
        return TransportTimeoutError(f"{location} did not answer in time")
    if code:
        return TransportError(f"{location} refused the request: {said}", code="net-protocol")
    passing = (api.FlightUnavailableError, api.FlightCancelledError, api.FlightInternalError)
    if isinstance(error, passing):
        return TransportError(
            f"{location} cannot be reached: {said}",
            hint="does the publisher run, and do both sides use TLS or neither?",
            code="net-unreachable",
        )
    return TransportError(f"{location} sent something else: {said}", code="net-protocol")


def _protocol(message: str) -> TransportError:
    return TransportError(message, code="net-protocol")
