"""Where everything lies in a segment: header, slot records, a row for each reader, data.

Every word that another process reads while it may change is eight bytes wide, aligned to eight
and reached through ``memoryview.cast("Q")``: CPython stores such an item with one eight-byte move.
``struct.pack_into("<Q", ...)`` does not, it writes the bytes one by one, and a reader may see half
of them; it is used here only for what is written once, before the segment is declared ready.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from mmformat.errors import TransportError

__all__ = [
    "CLOSED",
    "CREATING",
    "DIGEST_NBYTES",
    "MAX_READERS",
    "MAX_SLOTS",
    "READY",
    "RECORD_WORDS",
    "ROW_WORDS",
    "STATE_WORD",
    "Layout",
    "page_ceiling",
]

MAGIC: Final = b"MMFARENA"
VERSION: Final = 1
PAGE: Final = mmap.PAGESIZE
MAX_READERS: Final = 64
"""A set of readers is one word of 64 bits."""
MAX_SLOTS: Final = 2**20
DIGEST_NBYTES: Final = 32

# magic, version, page, readers, slots, data bytes, producer pid, its start time,
# creation time in nanoseconds, segment id, boot id; a CRC-32 of all this follows.
_FIXED: Final = struct.Struct("<8sIIIIQQQQ16s16s")
_CRC: Final = struct.Struct("<I")
HEADER_NBYTES: Final = _FIXED.size + _CRC.size

STATE_WORD: Final = 32
"""Index of the segment's state among the words: byte 256, on a cache line of its own."""
CREATING, READY, CLOSED = 0, 1, 2

RECORD_WORDS: Final = 8
"""A slot record is one cache line: generation, offset, nbytes, holders, 32 bytes of digest."""
ROW_WORDS: Final = 8
"""A row starts with one cache line (incarnation, pid, start time), then the release words."""


def page_ceiling(nbytes: int) -> int:
    """Round up to whole pages."""
    return -(-nbytes // PAGE) * PAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Describe one segment; every offset follows from the numbers in its header."""

    ranks: int
    slots: int
    data_nbytes: int
    producer_pid: int
    producer_start: int
    created_ns: int
    segment_id: bytes
    boot_id: bytes

    @property
    def records_word(self) -> int:
        """Index of the first slot record among the words; the header has a page of its own."""
        return PAGE // 8

    @property
    def rows_offset(self) -> int:
        """Byte offset of the first reader's row: whole pages, which only it maps writable."""
        return PAGE + page_ceiling(self.slots * RECORD_WORDS * 8)

    @property
    def row_nbytes(self) -> int:
        """Bytes from one reader's row to the next."""
        return page_ceiling((ROW_WORDS + self.slots) * 8)

    @property
    def data_offset(self) -> int:
        """Byte offset of the first slot."""
        return self.rows_offset + self.ranks * self.row_nbytes

    @property
    def segment_nbytes(self) -> int:
        """Bytes of the whole segment."""
        return self.data_offset + self.data_nbytes

    def row(self, rank: int) -> int:
        """Return the index of a reader's row among the words."""
        return (self.rows_offset + rank * self.row_nbytes) // 8

    def pack(self) -> bytes:
        """Return the fixed part of the header."""
        fixed = _FIXED.pack(
            MAGIC,
            VERSION,
            PAGE,
            self.ranks,
            self.slots,
            self.data_nbytes,
            self.producer_pid,
            self.producer_start,
            self.created_ns,
            self.segment_id,
            self.boot_id,
        )
        return fixed + _CRC.pack(zlib.crc32(fixed))

    @classmethod
    def unpack(cls, header: bytes, *, segment_nbytes: int) -> Layout:
        """Read and check the fixed part of a header against the size of its segment.

        Raises
        ------
        TransportError
            With code ``segment-magic``, ``segment-version``, ``segment-crc`` or ``segment-size``.
        """
        if len(header) < HEADER_NBYTES:
            raise TransportError(
                f"expected a header of {HEADER_NBYTES} bytes, got {len(header)}",
                code="segment-size",
            )
        fixed = header[: _FIXED.size]
        magic, version, page, ranks, slots, data, pid, start, created, segment, boot = (
            _FIXED.unpack(fixed)
        )
        if magic != MAGIC:
            raise TransportError(
                f"expected the magic {MAGIC!r}, got {magic!r}", code="segment-magic"
            )
        if version != VERSION:
            raise TransportError(
                f"expected segment version {VERSION}, got {version}", code="segment-version"
            )
        if _CRC.unpack_from(header, _FIXED.size)[0] != zlib.crc32(fixed):
            raise TransportError("expected a header that matches its checksum", code="segment-crc")
        layout = cls(
            ranks=ranks,
            slots=slots,
            data_nbytes=data,
            producer_pid=pid,
            producer_start=start,
            created_ns=created,
            segment_id=segment,
            boot_id=boot,
        )
        possible = 1 <= ranks <= MAX_READERS and 1 <= slots <= MAX_SLOTS and page == PAGE
        if not possible or data % PAGE or layout.segment_nbytes != segment_nbytes:
            raise TransportError(
                f"expected a segment of {layout.segment_nbytes:,} bytes for {ranks} ranks and "
                f"{slots} slots, got {segment_nbytes:,}",
                code="segment-size",
            )
        return layout
