"""Where compression pays: the arithmetic of the links, its tables and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.links import arrival_s, links_section, pays_below_gbit_s, plot_links
from benchmarks.scenarios import SCENARIOS


def cell(encode_ms: float, decode_ms: float, wire_nbytes: int) -> dict[str, Any]:
    times = {"encode_ns": {"median": encode_ms * 1e6}, "decode_ns": {"median": decode_ms * 1e6}}
    return {"metrics": times, "wire_nbytes": wire_nbytes}


def test_on_the_link_where_it_begins_to_pay_both_arrive_together() -> None:
    nbytes = 40_000_000
    found = cell(20, 5, 10_000_000)
    rate = pays_below_gbit_s(found, nbytes)
    assert rate == pytest.approx(9.6)
    assert arrival_s(found, rate) == pytest.approx(nbytes * 8 / (rate * 1e9))
    assert arrival_s(found, rate / 2) < nbytes * 8 / (rate / 2 * 1e9)
    assert arrival_s(found, rate * 2) > nbytes * 8 / (rate * 2 * 1e9)


def test_what_does_not_shrink_never_pays() -> None:
    assert pays_below_gbit_s(cell(1, 1, 1001), 1000) == 0
    assert pays_below_gbit_s(cell(1, 1, 1000), 1000) == 0


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    methods = ["mmformat-lz4", "mmformat-zstd", "arrow-lz4", "blosc2", "memcpy"]
    names = ["clip-float32", "gaussian-bfloat16"]
    return SCENARIOS["compression"].run(payloads=names, methods=methods, rounds=1).to_json()


def test_every_arm_carries_every_bit_and_noise_does_not_shrink(measured: dict[str, Any]) -> None:
    assert all(each["correct"] for each in measured["cells"])
    ratios = {
        (each["payload"], each["arm"]): each["metrics"]["ratio_count"]["median"]
        for each in measured["cells"]
    }
    assert ratios["clip-float32", "mmformat-lz4"] > 1.5
    assert ratios["clip-float32", "mmformat-zstd"] > ratios["clip-float32", "mmformat-lz4"]
    assert 0.99 < ratios["gaussian-bfloat16", "mmformat-lz4"] < 1.01
    assert ratios["clip-float32", "memcpy"] == 1


def test_tables_and_picture(measured: dict[str, Any], tmp_path: Path) -> None:
    text = "\n".join(links_section(measured))
    assert "mmformat, Zstandard" in text
    assert "| never |" in text
    path = tmp_path / "links.png"
    plot_links(measured, path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert path.stat().st_size < 150_000
