"""Where compression pays: its medians put beside plain bytes on links of several rates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.report.plots import figure_class, save
from benchmarks.report.tables import cells_of, markdown

__all__ = ["arrival_s", "links_section", "pays_below_gbit_s", "plot_links"]

LINKS_GBIT_S: Final = (1, 10, 25, 100)
_COLOURS: Final = {
    "mmformat-lz4": "#1f6f8b",
    "mmformat-zstd": "#5e81ac",
    "arrow-lz4": "#d08770",
    "arrow-zstd": "#ebb36b",
    "lz4-frame": "#8f5e99",
    "blosc2": "#6a8f5e",
}


def arrival_s(cell: dict[str, Any], link_gbit_s: float) -> float:
    """Return the seconds to compress, to cross a link and to decompress, one after the other."""
    both_ns: float = cell["metrics"]["encode_ns"]["median"] + cell["metrics"]["decode_ns"]["median"]
    crossing_s: float = cell["wire_nbytes"] * 8 / (link_gbit_s * 1e9)
    return both_ns / 1e9 + crossing_s


def pays_below_gbit_s(cell: dict[str, Any], nbytes: int) -> float:
    """Return the rate of the link on which it takes as long as plain bytes; 0 when on none.

    Examples
    --------
    >>> times = {"encode_ns": {"median": 3e6}, "decode_ns": {"median": 1e6}}
    >>> pays_below_gbit_s({"metrics": times, "wire_nbytes": 5_000_000}, 10_000_000)
    10.0
    """
    both_ns: float = cell["metrics"]["encode_ns"]["median"] + cell["metrics"]["decode_ns"]["median"]
    saved: float = max(0, nbytes - cell["wire_nbytes"]) * 8
    return saved / both_ns


def _cells(result: dict[str, Any], payload: str) -> dict[str, dict[str, Any]]:
    found = {cell["arm"]: cell for cell in cells_of(result, payload)}
    return {method: found[method] for method in _COLOURS if method in found}


def links_section(result: dict[str, Any]) -> Iterator[str]:
    """Yield the Markdown of both tables: below which rate each pays, and times on some links."""
    titles = {each["name"]: each["title"] for each in result["arms"]}
    methods = [method for method in _COLOURS if method in titles]
    yield "**Where it pays**"
    yield ""
    yield (
        "Computed from the medians: compress, send, decompress, one after the other, beside "
        "sending the plain bytes, which need neither. Gbit/s of the link below which each is there "
        "sooner:"
    )
    yield ""
    rows = []
    for subject in result["payloads"]:
        cells = _cells(result, subject["name"])
        rates = [pays_below_gbit_s(cells[method], subject["nbytes"]) if method in cells else None
                 for method in methods]  # fmt: skip
        rows.append([subject["title"], *["" if rate is None else _rate(rate) for rate in rates]])
    yield from markdown(["payload", *[titles[method] for method in methods]], rows)
    yield ""
    yield (
        "Milliseconds until the tensor is there by ours; and how often as fast as plain bytes, "
        "where below 1 it would be there sooner as it is:"
    )
    yield ""
    rows = []
    for subject in result["payloads"]:
        for method, cell in _cells(result, subject["name"]).items():
            if not method.startswith("mmformat"):
                continue  # the table above has them
            row = [subject["title"], titles[method]]
            for link_gbit_s in LINKS_GBIT_S:
                plain_s = subject["nbytes"] * 8 / (link_gbit_s * 1e9)
                ours_s = arrival_s(cell, link_gbit_s)
                row.append(f"{ours_s * 1e3:.1f} ({plain_s / ours_s:.2f})")
            rows.append(row)
    links = [f"{link_gbit_s} Gbit/s" for link_gbit_s in LINKS_GBIT_S]
    yield from markdown(["payload", "way", *links], rows)
    yield ""


def _rate(gbit_s: float) -> str:
    return "never" if gbit_s == 0 else f"{gbit_s:.2g}"


def plot_links(result: dict[str, Any], path: Path) -> None:
    """Draw for each payload how many times as fast as plain bytes each is, by the link's rate.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.
    """
    from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

    titles = {each["name"]: each["title"] for each in result["arms"]}
    subjects = result["payloads"]
    rows = -(-len(subjects) // 3)
    figure = figure_class()(figsize=(8.2, 2.5 * rows + 0.5))
    panels = figure.subplots(rows, 3, squeeze=False, sharex=True, sharey=True)
    panels = list(panels.flat)
    links = [10 ** (step / 20) for step in range(-10, 54)]
    for panel, subject in zip(panels, subjects, strict=False):
        for method, cell in _cells(result, subject["name"]).items():
            times = [subject["nbytes"] * 8 / (link * 1e9) / arrival_s(cell, link) for link in links]
            panel.plot(links, times, lw=1.4, color=_COLOURS[method], label=titles[method])
        panel.axhline(1, color="#bf616a", lw=1)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_ylim(0.02, 15)
        panel.xaxis.set_major_locator(FixedLocator([*LINKS_GBIT_S, 400]))
        panel.xaxis.set_minor_locator(FixedLocator([]))
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
        panel.tick_params(labelsize=7)
        panel.grid(True, lw=0.2)
        panel.set_title(subject["title"], fontsize=7, loc="left")
        panel.set_xlabel("link, Gbit/s", fontsize=7)
    for rest in panels[len(subjects) :]:
        rest.set_visible(False)
    first = figure.axes[0]
    first.legend(fontsize=6)
    environment = result["environment"]
    figure.suptitle(
        "compress, send and decompress: times as fast as sending plain bytes; over the red line it "
        f"pays\n{environment['cpu']}, {environment['cores_usable']} cores, "
        f"{environment['time_utc'][:10]}; computed from medians",
        fontsize=9,
    )
    figure.tight_layout()
    save(figure, path)
