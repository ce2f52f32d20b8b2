"""Choice of the tensors to compress, and their record batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Final

from mmformat._arrow import Codec, codec_of, core_count, decompress_into
from mmformat.codec.columns import DICTIONARY, Bytes, Chunk, Row, TensorEntry, write_rows
from mmformat.codec.parallel import on_all_cores
from mmformat.codec.record_batch import encapsulate, layout_of, places
from mmformat.codec.schema import ALIGNMENT, BUFFERS, CONTINUATION
from mmformat.codec.tensors import cut
from mmformat.errors import EncodeError
from mmformat.model.compression import Compression

__all__ = [
    "Choice",
    "choices_of",
    "continue_large",
    "explained",
    "write_batch",
    "write_compressed_batch",
]

WORTH_RATIO: Final = 0.9
"""A buffer that compresses to more than this share of its size is stored uncompressed."""

_ZEROS: Final = bytes(ALIGNMENT)
_STORED: Final = (-1).to_bytes(8, "little", signed=True)


def write_batch(rows: Sequence[Row], *, head_nbytes: int | None = None) -> list[Chunk]:
    """Return the frames of an uncompressed record batch: metadata and columns, then each tensor.

    Parameters
    ----------
    rows : sequence of Row
        Their tensors' data end the batch.
    head_nbytes : int, optional
        Pad the metadata until metadata and columns take this many bytes.

    Raises
    ------
    EncodeError
        If they take more.

    Notes
    -----
    **Copies**: no tensor byte. The frames begin and end on a multiple of 64 bytes when joined to a
    stream that is at one, and so does every tensor.
    """
    structure, columns, variadic = write_rows(rows)
    lengths = (*layout_of(structure).lengths, *map(len, variadic))
    prefix = encapsulate(structure, lengths)
    if head_nbytes is not None:
        prefix = _padded(prefix, head_nbytes - len(columns))
    frames: list[Chunk] = [prefix, columns]
    for tensor in variadic:
        frames.append(tensor)
        padding = -len(tensor) % ALIGNMENT
        if padding:
            frames.append(_ZEROS[:padding])
    return frames


def _padded(prefix: bytes, nbytes: int) -> bytes:
    if nbytes < len(prefix):
        raise EncodeError(
            f"metadata exceeds the reserved headroom by {len(prefix) - nbytes:,} bytes",
            hint="reserve with more headroom_nbytes",
            code="headroom",
        )
    size = (nbytes - 8).to_bytes(4, "little")
    return CONTINUATION + size + prefix[8:] + bytes(nbytes - len(prefix))


def write_compressed_batch(
    rows: Sequence[Row], codec: str = "lz4", *, worth_ratio: float = WORTH_RATIO
) -> list[Bytes]:
    """Return the frames of a record batch whose buffers are compressed (Arrow, "Compression").

    Parameters
    ----------
    rows : sequence of Row
        Each chunk of their tensors is compressed on its own.
    codec : {"lz4", "zstd"}
        Of all buffers.
    worth_ratio : float
        A buffer that compresses to more than this share is stored, with the length -1.

    Notes
    -----
    **Copies**: buffers that shrink are compressed into new memory, on all cores; others are not
    copied. **Cost**: each thread also holds the frame of one chunk.
    """
    structure, columns, variadic = write_rows(rows)
    library = codec_of(codec)
    plain = places(layout_of(structure).lengths)[0]
    buffers: list[Bytes] = [
        columns[plain[2 * at] : plain[2 * at] + plain[2 * at + 1]] for at in range(BUFFERS)
    ]
    packed = [_packed(library, buffer, worth_ratio) for buffer in buffers]
    packed += on_all_cores(lambda chunk: _packed(library, chunk, worth_ratio), variadic)
    lengths = tuple([sum(map(len, pieces)) for pieces in packed])
    frames: list[Bytes] = [encapsulate(structure, lengths, codec=codec)]
    spots, body_nbytes = places(lengths)
    end = 0
    for at, pieces in enumerate(packed):
        frames += (bytes(spots[2 * at] - end), *pieces)
        end = spots[2 * at] + lengths[at]
    frames.append(bytes(body_nbytes - end))
    return frames


def _packed(codec: Codec, buffer: Any, worth_ratio: float) -> tuple[Bytes, ...]:
    # The uncompressed length as int64, then one frame; an empty buffer stays empty.
    nbytes = len(buffer)
    if not nbytes:
        return ()
    frame = codec.compress(buffer)
    if frame.size > worth_ratio * nbytes:
        return (_STORED, buffer)
    # Joined, because the codec's buffer is as large as its worst case.
    return (memoryview(b"".join((nbytes.to_bytes(8, "little"), memoryview(frame)))),)


PACKED_NBYTES: Final = 2**20
"""Bytes of a chunk: small enough for a core's cache, and enough chunks for every core."""

_MOST: Final = 1e12

SAMPLES: Final = 8
SAMPLE_NBYTES: Final = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The choice of ``"auto"`` for a tensor, with the figures behind it.

    Parameters
    ----------
    item : int
        The item, -1 for the request.
    name : str
        The tensor's.
    codec : {"lz4", "none"}
        What was chosen.
    ratio : float
        Bytes of a sample for each byte of its LZ4 frames.
    link_gbit_s, plain_ms, lz4_ms : float or None
        The given link, and the estimated times for it: to transfer the plain bytes, and to
        compress, transfer and decompress them on as many cores as this host has.
    """

    item: int
    name: str
    codec: str
    ratio: float
    link_gbit_s: float | None = None
    plain_ms: float | None = None
    lz4_ms: float | None = None

    @property
    def reason(self) -> str:
        """The reason as text."""
        shrinks = f"a sample shrinks {self.ratio:.3g} times"
        if self.link_gbit_s is None or self.plain_ms is None or self.lz4_ms is None:
            return f"{shrinks}; the threshold is {1 / WORTH_RATIO:.3g}"
        return (
            f"{shrinks}; over {self.link_gbit_s:g} Gbit/s {self.lz4_ms:.3g} ms with LZ4, "
            f"{self.plain_ms:.3g} ms without"
        )


def continue_large(rows: Sequence[Row], options: Compression) -> tuple[list[Row], list[Choice]]:
    """Move the tensors to compress out of the rows, in chunks, into continuation rows.

    Returns
    -------
    list of Row, list of Choice
        The continuation rows, and the choice of "auto" for each tensor over the threshold.

    Notes
    -----
    **Copies**: none. **Cost**: with "auto", 512 KiB of each tensor over the threshold are
    compressed, and decompressed if a link is given.
    """
    continuations: list[Row] = []
    choices: list[Choice] = []
    for row in rows:
        large: list[TensorEntry] = []
        small: list[TensorEntry] = []
        for entry in row.tensors:
            is_large = bool(entry.data) and entry.stored_nbytes > options.threshold_nbytes
            if is_large and options.codec == "auto":
                choices.append(_choice(row.item, entry, options.link_gbit_s))
                is_large = choices[-1].codec != "none"
            if is_large:
                large.append(_in_chunks(entry))
            else:
                small.append(entry)
        if large:
            row.tensors = small
            continuations.append(Row(row.item, row.modality, tensors=large))
    return continuations, choices


def _in_chunks(entry: TensorEntry) -> TensorEntry:
    tables = 1 if entry.encoding == DICTIONARY else 0
    chunks = [piece for chunk in entry.data[tables:] for piece in cut(chunk, PACKED_NBYTES)]
    return entry._replace(data=[*entry.data[:tables], *chunks])


def _choice(item: int, entry: TensorEntry, link_gbit_s: float | None) -> Choice:
    codec = codec_of("lz4")
    samples = _samples(entry.data[-1])
    start_s = perf_counter()
    frames = [codec.compress(sample) for sample in samples]
    packed_s = perf_counter() - start_s
    nbytes = sum(map(len, samples))
    ratio = nbytes / max(1, sum([frame.size for frame in frames]))
    if link_gbit_s is None:
        name = "lz4" if ratio >= 1 / WORTH_RATIO else "none"
        return Choice(item=item, name=entry.name, codec=name, ratio=round(ratio, 3))
    room = memoryview(bytearray(SAMPLE_NBYTES))
    start_s = perf_counter()
    for sample, frame in zip(samples, frames, strict=True):
        decompress_into(frame, room[: len(sample)], "lz4")
    unpacked_s = perf_counter() - start_s
    cores = min(core_count(), -(-entry.stored_nbytes // PACKED_NBYTES))
    plain_s = entry.stored_nbytes * 8 / (link_gbit_s * 1e9)
    lz4_s = entry.stored_nbytes / nbytes * (packed_s + unpacked_s) / cores + plain_s / ratio
    return Choice(
        item=item,
        name=entry.name,
        codec="lz4" if lz4_s < plain_s else "none",
        ratio=round(ratio, 3),
        link_gbit_s=link_gbit_s,
        plain_ms=round(plain_s * 1e3, 3),
        lz4_ms=round(lz4_s * 1e3, 3),
    )


def _samples(chunk: Bytes) -> list[memoryview]:
    view = memoryview(chunk)
    step = max(SAMPLE_NBYTES, len(view) // SAMPLES)
    return [view[start : start + SAMPLE_NBYTES] for start in range(0, len(view), step)]


def explained(choices: Sequence[Choice]) -> bytes:
    """Return the choices as the value of the schema's key ``mmformat.compression``."""
    told = [{k: v for k, v in asdict(each).items() if v is not None} for each in choices]
    return json.dumps({"codec": "auto", "tensors": told}, separators=(",", ":")).encode()


def choices_of(text: bytes) -> tuple[Choice, ...]:
    """Return the choices in the schema's key, unverified; none if it holds anything else.

    Examples
    --------
    >>> choices_of(explained([Choice(item=0, name="feature", codec="none", ratio=1.0)]))[0].codec
    'none'
    >>> choices_of(b"anything else")
    ()
    """
    try:
        told = json.loads(text)["tensors"]
        return tuple([_checked(Choice(**each)) for each in told])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()


def _checked(choice: Choice) -> Choice:
    estimates = (choice.link_gbit_s, choice.plain_ms, choice.lz4_ms)
    numbers: list[Any] = [choice.ratio, *(each for each in estimates if each is not None)]
    if (
        type(choice.item) is not int
        or type(choice.name) is not str
        or choice.codec not in ("lz4", "none")
        # An int of any length compares with a float, but does not become one.
        or not all(type(each) in (int, float) and abs(each) < _MOST for each in numbers)
    ):
        raise ValueError("no choice")
    return choice
