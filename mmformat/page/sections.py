"""One item's section: pictures or sound, histograms, tensors and attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat.codec.describe import ItemDescription
from mmformat.model.item import Modality, MultimodalDataItem
from mmformat.page.bounds import Budget
from mmformat.page.html import TIMES, Markup, Part, facts, join, tag, tensor_table, value_table
from mmformat.page.pictures import Series, Sheet, data_uri, series_of, write_png
from mmformat.page.values import StoredTensor, Summary, summarize, tensors_in

__all__ = [
    "Histogram",
    "Spectrogram",
    "Waveform",
    "draw_histogram",
    "item_section",
    "number",
    "request_section",
    "spectrograms_of",
    "waveforms_of",
]

_BINS: Final = 64
_HEIGHT: Final = 64
_WIDTH: Final = 640
_LEAST_BAR: Final = 1.0
_CHANNELS: Final = ("red", "green", "blue")
_CUT: Final = 1.5
"""How much higher than nearly all others a bar is drawn."""

_STEEP: Final = 60.0
"""How much higher than the middle the highest bar may be before heights are logarithms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Hold the drawing, what its ends mean, and how it is to be read."""

    svg: Markup
    least: str
    most: str
    is_logarithmic: bool
    is_cut: bool
    has_channels: bool


def draw_histogram(summary: Summary, *, label: str) -> Histogram | None:
    """Return a histogram, or None where all values are the same or there are none.

    Notes
    -----
    Three channels are drawn over each other in their colours.
    """
    values = summary.values
    if values.size == 0 or values.min() == values.max():
        return None
    least, most = float(values.min()), float(values.max())
    whole = most / 2 - least / 2 < _BINS / 2 and bool((values == np.floor(values)).all())
    channels = 3 if summary.channels.size and summary.channels.max() == 2 else 1
    parts = [values if channels == 1 else values[summary.channels == at] for at in range(channels)]
    try:
        if whole:
            edges = np.arange(least, most + 2) - 0.5
            counts = np.stack([np.histogram(part, edges)[0] for part in parts])
        else:
            # Halves, so that the extent of the largest doubles is no infinity.
            extent = (least / 2, most / 2)
            counts = np.stack([np.histogram(part / 2, _BINS, range=extent)[0] for part in parts])
    except ValueError:  # so near to each other that there are no doubles between them
        return None
    used = counts[counts > 0]
    logarithmic = bool(used.max() > _STEEP * np.median(used))
    # One bin, as of saturated pixels, must not flatten all others.
    highest = _CUT * float(np.quantile(used, 0.95))
    cut = not logarithmic and bool(used.max() > highest)
    heights = np.log1p(counts) if logarithmic else counts.astype(np.float64)
    heights = np.minimum(heights, highest) if cut else heights
    heights = heights / heights.max() * (_HEIGHT - 2)
    svg = tag(
        "svg",
        *(
            _bars(row, class_="bar" if channels == 1 else f"bar {_CHANNELS[at]}")
            for at, row in enumerate(heights)
        ),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_="histogram",
    )
    return Histogram(
        svg=svg,
        least=number(least),
        most=number(most),
        is_logarithmic=logarithmic,
        is_cut=cut,
        has_channels=channels > 1,
    )


def _bars(heights: npt.NDArray[np.float64], *, class_: str) -> Markup:
    """Return all bars as one path; an empty bin has none, any other at least a line."""
    wide = _WIDTH / len(heights)
    gap = wide * 0.12 if class_ == "bar" else 0.0
    steps = [
        f"M{at * wide:.1f} {_HEIGHT}v-{max(height, _LEAST_BAR):.1f}h{wide - gap:.1f}V{_HEIGHT}z"
        for at, height in enumerate(heights)
        if height > 0
    ]
    return tag("path", d="".join(steps), class_=class_)


def number(value: float) -> str:
    """Return a number in at most about six characters.

    >>> number(-1.7922625), number(151655.0), number(0.0)
    ('-1.792', '151655', '0')
    """
    return str(int(value)) if value == int(value) and abs(value) < 1e7 else f"{value:.4g}"


_BANDS: Final = (40, 64, 80, 96, 128, 160, 256, 512)
_MOST_CHANNELS: Final = 8
_LEAST_SAMPLES: Final = 1000
_COLUMNS: Final = 640
_PER_COLUMN: Final = 512
_WAVE_HEIGHT: Final = 100

# From dark violet over teal to pale yellow: as bright as it is loud, in gray and to every eye.
_COLOURS: Final = np.array(
    [
        [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
        [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """Hold one channel's drawing and how many samples it has."""

    channel: int
    samples: int
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrogram:
    """Hold a drawn picture of frames and bands; the lowest band is at the bottom."""

    bands: int
    frames: int
    png: bytes
    least: float
    most: float


def waveforms_of(tensor: StoredTensor, *, label: str) -> list[Waveform]:
    """Return a waveform a channel; none when the tensor does not look like samples."""
    if tensor.table is not None or tensor.dtype.startswith(("bool", "complex")):
        return []
    shape = tensor.words.shape
    channels, samples = math.prod(shape[:-1]), shape[-1] if shape else 0
    if samples < _LEAST_SAMPLES or not 1 <= channels <= _MOST_CHANNELS:
        return []
    flat = tensor.words.reshape(channels, samples)
    return [
        Waveform(channel=at, samples=samples, svg=_waveform(tensor, flat[at], label=label))
        for at in range(channels)
    ]


def spectrograms_of(tensor: StoredTensor, *, most: int) -> list[Spectrogram]:
    """Return at most ``most`` pictures; none when the tensor does not look like frames of bands."""
    shape = tensor.words.shape
    if tensor.table is not None or len(shape) < 2 or 0 in shape or tensor.dtype == "bool":
        return []
    if shape[-2] in _BANDS:
        stack = tensor.words.reshape(-1, *shape[-2:])
    elif shape[-1] in _BANDS:
        stack = tensor.words.reshape(-1, *shape[-2:]).transpose(0, 2, 1)
    else:
        return []
    return [_spectrogram(tensor, stack[at]) for at in range(min(most, len(stack)))]


def _waveform(tensor: StoredTensor, words: npt.NDArray[Any], *, label: str) -> Markup:
    columns = min(_COLUMNS, words.size)
    edges = np.linspace(0, words.size, columns + 1).astype(np.intp)
    span = int(np.diff(edges).max())
    taken = min(span, _PER_COLUMN)
    offsets = (np.arange(taken) * span // taken)[None, :]
    at = np.minimum(edges[:-1, None] + offsets, edges[1:, None] - 1)
    values = np.nan_to_num(tensor.floats(words[at]), nan=0.0, posinf=0.0, neginf=0.0)
    least, most = values.min(axis=1), values.max(axis=1)
    peak = max(float(abs(values).max()), 1e-30)
    middle, reach = _WAVE_HEIGHT / 2, _WAVE_HEIGHT / 2 - 2
    top = middle - most / peak * reach - 0.4
    bottom = middle - least / peak * reach + 0.4
    steps = [f"{x} {y:.1f}" for x, y in enumerate(top)]
    steps += [f"{columns - 1 - x} {y:.1f}" for x, y in enumerate(bottom[::-1])]
    return tag(
        "svg",
        tag("line", x1=0, y1=middle, x2=columns - 1, y2=middle, class_="axis"),
        tag("path", d="M" + "L".join(steps) + "Z", class_="wave"),
        viewBox=f"0 0 {columns - 1} {_WAVE_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_="waveform",
    )


def _spectrogram(tensor: StoredTensor, words: npt.NDArray[Any]) -> Spectrogram:
    bands, frames = words.shape
    columns = min(_COLUMNS, frames)
    fine = max(1, min(4, frames // columns))
    at = ((np.arange(columns * fine) + 0.5) * frames / (columns * fine)).astype(np.intp)
    values = tensor.floats(words[:, at])
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=least, posinf=most, neginf=least)
    values = values.reshape(bands, columns, fine).mean(axis=2)
    extent = most - least
    levels = (values - least) / extent * 255 if extent > 0 else np.zeros_like(values)
    shades = np.linspace(0, len(_COLOURS) - 1, 256)
    palette = np.stack(
        [np.interp(shades, np.arange(len(_COLOURS)), _COLOURS[:, each]) for each in range(3)],
        axis=1,
    )
    picture = np.round(levels).astype(np.uint8)[::-1]
    png = write_png(picture, palette=palette.astype(np.uint8))
    return Spectrogram(bands=bands, frames=frames, png=png, least=least, most=most)


_OFFSETS: Final = 8
_NOUNS: Final = {Modality.VIDEO: "frame"}


def item_section(told: ItemDescription, item: MultimodalDataItem | None, budget: Budget) -> Markup:
    """Return an item's section.

    Parameters
    ----------
    told : ItemDescription
        What the columns say.
    item : MultimodalDataItem or None
        Its values; None when they could not be read.
    budget : Budget
        What may still be shown.
    """
    label = f"Item {told.index}"
    series = [] if item is None else _series_of(item)
    pictures = None
    if item is not None and item.modality is Modality.AUDIO:
        pictures = _sound(item, label, budget)
    elif item is not None:
        pictures = _pictures(series, f"{label}, {_NOUNS.get(item.modality, 'picture')}", budget)
    several = sum(each.count for each in series) > 1 or told.modality == Modality.AUDIO.value
    histograms = None
    if item is not None:
        values = [item.feature, item.precomputed_embeddings, item.model_specific_data]
        histograms = _histograms(tensors_in(values), label, budget, series)
    look = "media" if pictures is not None and not several else "media wide"
    about = tag("div", _known(told), histograms, class_="about")
    parts: list[Part] = [tag("div", pictures, about, class_=look)]
    if told.tensors:
        parts.append(tag("h3", "Tensors"))
        parts.append(tensor_table(told, budget.bounds, label=f"{label}, tensors"))
    if item is not None:
        parts.append(_attributes(item.model_specific_data, "Model-specific data", label, budget))
    heading = f"item-{told.index}-heading"
    return tag(
        "section",
        tag("h2", f"{label} ", tag("span", told.modality, class_="kind"), id=heading),
        *parts,
        id=f"item-{told.index}",
        aria_labelledby=heading,
    )


def request_section(told: ItemDescription, data: dict[str, Any] | None, budget: Budget) -> Markup:
    """Return the section of what belongs to the whole request."""
    parts: list[Part] = []
    if told.tensors:
        parts += [tag("h3", "Tensors"), tensor_table(told, budget.bounds, label="Request, tensors")]
    if data is not None:
        parts.insert(0, _histograms(tensors_in(data), "Request", budget))
        parts.append(_attributes(data, "Request data", "Request", budget))
    return tag(
        "section",
        tag("h2", "The whole request", id="request-heading"),
        *parts,
        id="request",
        aria_labelledby="request-heading",
    )


def _known(told: ItemDescription) -> Markup:
    ranges = None
    if told.offsets is not None:
        texts = [
            f"{start:,} to {end:,} ({end - start + 1:,} tokens)"
            for start, end in told.offsets[:_OFFSETS]
        ]
        more = len(told.offsets) - len(texts)
        ranges = "; ".join(texts + ([f"{more:,} more"] if more else [])) or "none"
    return facts(
        [
            ("Format", told.format),
            ("Token offsets", ranges),
            ("Identity", None if told.identity is None else tag("code", told.identity[:2000])),
            ("Hash", None if told.hash is None else tag("code", told.hash)),
            ("Pad value", None if told.pad_value is None else tag("code", str(told.pad_value))),
        ]
    )


def _series_of(item: MultimodalDataItem) -> list[Series]:
    if item.modality is Modality.AUDIO:
        return []
    is_video = item.modality is Modality.VIDEO
    return [
        series
        for tensor in tensors_in(item.feature)
        for series in series_of(tensor, item.model_specific_data, is_video=is_video)
    ]


def _pictures(all_series: list[Series], label: str, budget: Budget) -> Markup | None:
    figures = []
    for series in all_series:
        if budget.has_picture:
            figures.append(_series(series, label, budget))
    return join(*figures) if figures else None


def _series(series: Series, label: str, budget: Budget) -> Markup:
    bounds = budget.bounds
    shown = min(series.count, bounds.frames, bounds.pictures - budget.pictures)
    numbers = [at * series.count // shown for at in range(shown)]
    edge = round(bounds.edge * (0.75 if shown > 1 else 1.5))  # several stand in a row
    images: list[Part] = []
    for at in numbers:
        if not budget.has_picture:
            break
        picture = series.draw(at, edge=edge)
        text = f"{label} {at + 1} of {series.count}" if series.count > 1 else label
        images.append(
            tag(
                "img",
                src=data_uri(budget.take_picture(picture.png)),
                alt=f"{text}, {series.sheet.width} by {series.sheet.height} pixels",
                width=picture.width,
                height=picture.height,
            )
        )
    sheet = series.sheet
    told = f"{sheet.width} {TIMES} {sheet.height} pixels; {sheet.layout}; {series.scaling.told}"
    if series.count > 1:
        told = f"{len(images)} of {series.count}, numbers {_numbered(numbers)}; {told}"
    small = "pictures small" if max(sheet.height, sheet.width) < edge // 2 else "pictures"
    return tag("figure", tag("div", *images, class_=small), tag("figcaption", told + "."))


def _numbered(numbers: list[int]) -> str:
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0] + 1} to {numbers[-1] + 1}"
    return ", ".join(str(at + 1) for at in numbers)


def _sound(item: MultimodalDataItem, label: str, budget: Budget) -> Markup | None:
    figures: list[Part] = []
    for tensor in tensors_in(item.feature):
        if not budget.has_picture:
            break
        spectrograms = spectrograms_of(tensor, most=budget.bounds.frames)
        for at, each in enumerate(spectrograms):
            told = (
                f"{each.bands} bands, the lowest at the bottom; {each.frames:,} frames from left "
                f"to right; dark is {number(each.least)}, bright is {number(each.most)}."
            )
            image = tag(
                "img",
                src=data_uri(budget.take_picture(each.png)),
                alt=f"{label}, spectrogram {at + 1} of {len(spectrograms)}",
            )
            figures.append(tag("figure", image, tag("figcaption", told)))
        if spectrograms:
            continue
        for wave in waveforms_of(tensor, label=f"{label}, waveform"):
            told = f"Channel {wave.channel + 1}; {wave.samples:,} samples from left to right."
            figures.append(tag("figure", wave.svg, tag("figcaption", told)))
    return tag("div", *figures, class_="sound") if figures else None


def _histograms(
    tensors: list[StoredTensor], label: str, budget: Budget, series: Sequence[Series] = ()
) -> Markup | None:
    sheets = {id(each.tensor): each.sheet for each in series}
    figures = []
    left = 0
    for tensor in tensors:
        if math.prod(tensor.shape) <= 16:
            continue  # the table of attributes shows them all
        if not budget.take_tensor():
            left += 1
            continue
        figures.append(_histogram(tensor, label, budget, sheets.get(id(tensor))))
    if not figures and not left:
        return None
    note = f"The values of {left:,} more tensors are not shown." if left else None
    return join(
        tag("div", *figures, class_="values") if figures else None,
        None if note is None else tag("p", note, class_="note"),
    )


def _histogram(tensor: StoredTensor, label: str, budget: Budget, sheet: Sheet | None) -> Markup:
    summary = summarize(
        tensor,
        most=budget.bounds.values,
        channels=1 if sheet is None else sheet.channels,
        channel_stride=1 if sheet is None else sheet.channel_stride,
    )
    drawn = draw_histogram(summary, label=f"{label}, histogram of {tensor.name}")
    parts: list[Part] = [tag("p", tag("code", tensor.name), class_="name")]
    if drawn is not None:
        ends = tag("div", tag("span", drawn.least), tag("span", drawn.most), class_="ends")
        parts += [drawn.svg, ends]
    told = _told(summary)
    if drawn is not None and drawn.has_channels:
        told += " Red, green and blue over each other."
    if drawn is not None and drawn.is_logarithmic:
        told += " Heights are logarithmic."
    if drawn is not None and drawn.is_cut:
        told += " The highest bars are cut off."
    return tag("figure", *parts, tag("figcaption", told))


def _told(summary: Summary) -> str:
    values = summary.values
    sentences = []
    if values.size == 0:
        sentences.append("No finite values.")
    elif values.min() == values.max():
        sentences.append(f"Every value is {number(float(values[0]))}.")
    else:
        scale = float(abs(values).max())  # the largest doubles have no sum
        even = values / scale
        mean, std = float(even.mean()) * scale, float(even.std()) * scale
        sentences.append(f"Mean {number(mean)}, std {number(std)}.")
    special = [
        f"{count:,} {name}"
        for name, count in (("NaN", summary.nans), ("infinite", summary.infinities))
        if count
    ]
    if special:
        sentences.append(f"Also {' and '.join(special)}.")
    if summary.zeros and values.min() != values.max():
        share = summary.zeros / summary.looked_at
        sentences.append(f"{share:.1%} are 0." if share >= 0.001 else "Under 0.1% are 0.")
    looked = f"{summary.looked_at:,}"
    sentences.append(
        f"All {looked} stored values."
        if summary.is_whole
        else f"A sample of {looked} of {summary.total:,} stored values."
    )
    return " ".join(sentences)


def _attributes(values: dict[str, Any], caption: str, label: str, budget: Budget) -> Markup | None:
    if not values:
        return None
    return tag(
        "details",
        tag("summary", f"{caption}: {', '.join(str(key)[:40] for key in list(values)[:6])}"),
        value_table(values, budget.bounds, caption=caption, label=f"{label}, {caption.lower()}"),
    )
