"""The section of one item: pictures or sound, what it is known by, tensors, values, attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from mmformat.codec.describe import ItemDescription
from mmformat.model.item import MultimodalDataItem
from mmformat.model.modality import Modality
from mmformat.page.bounds import Budget
from mmformat.page.histogram import draw_histogram, number
from mmformat.page.layouts import Sheet
from mmformat.page.markup import TIMES, Markup, Part, join, tag
from mmformat.page.pictures import Series, series_of
from mmformat.page.png import data_uri
from mmformat.page.reading import StoredTensor, tensors_in
from mmformat.page.sampling import Summary, summarize
from mmformat.page.sound import spectrograms_of, waveforms_of
from mmformat.page.tables import facts, tensor_table, value_table

__all__ = ["item_section", "request_section"]

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
