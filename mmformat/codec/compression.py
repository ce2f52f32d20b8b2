"""Which tensors are compressed, in which chunks, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Final

from mmformat._arrow import codec_of, core_count, decompress_into
from mmformat.codec.batch import WORTH_RATIO
from mmformat.codec.encodings import cut
from mmformat.codec.rows import DICTIONARY, Bytes, Row, TensorEntry
from mmformat.model.compression import Compression

__all__ = ["Choice", "choices_of", "continue_large", "explained"]

PACKED_NBYTES: Final = 2**20
"""A chunk: enough of them to keep every core busy, and each so small that it stays in a cache."""

_MOST: Final = 1e12

SAMPLES: Final = 8
SAMPLE_NBYTES: Final = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Say what ``"auto"`` chose for a tensor, and by which figures.

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
        The link that was told of, and the estimates for it: crossing it, and compressing, crossing
        and decompressing on as many cores as here.
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
        """The figures in words."""
        shrinks = f"a sample shrinks {self.ratio:.3g} times"
        if self.link_gbit_s is None or self.plain_ms is None or self.lz4_ms is None:
            return f"{shrinks}, {1 / WORTH_RATIO:.3g} are asked for"
        return (
            f"{shrinks}; over {self.link_gbit_s:g} Gbit/s {self.lz4_ms:.3g} ms with LZ4, "
            f"{self.plain_ms:.3g} ms without"
        )


def continue_large(rows: Sequence[Row], options: Compression) -> tuple[list[Row], list[Choice]]:
    """Move the tensors to compress out of the rows, into rows that continue them, in chunks.

    Returns
    -------
    list of Row, list of Choice
        The continuation rows, and what "auto" chose, for each tensor over the threshold.

    Notes
    -----
    **Copies**: none. **Cost**: with "auto", 512 KiB of each tensor over the threshold are
    compressed, and decompressed where a link is told of.
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
    """Return the choices that a key tells, none when it tells anything else; nobody vouches for it.

    Examples
    --------
    >>> choices_of(explained([Choice(item=0, name="feature", codec="none", ratio=1.0)]))[0].codec
    'none'
    >>> choices_of(b"what a stranger wrote")
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
