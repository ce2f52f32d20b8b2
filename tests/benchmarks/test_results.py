"""Results keep every sample, and the report tells first where something else is faster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import write_report
from benchmarks.results import Result, load
from benchmarks.scenarios import SCENARIOS
from mmformat.bench.measure import Cell
from mmformat.errors import MMFormatError


def _result(**medians_ms: float) -> Result:
    result = Result(scenario="codec", settings={"rounds": 3})
    for name, value in medians_ms.items():
        cell = Cell(payload="image-small", method=name.replace("_", "-"), wire_nbytes=1000)
        for factor in (0.9, 1.0, 1.3):
            cell.add(
                encode_ns=1e5,
                decode_ns=1e5,
                touch_ns=1e5,
                touched_ns=value * factor * 1e6,
                faults_count=3,
            )
        result.cells.append(cell)
    return result


def test_the_file_has_every_raw_sample(tmp_path: Path) -> None:
    path = tmp_path / "codec.json"
    result = SCENARIOS["codec"].run(
        payloads=["image-small"], methods=["mmformat", "memcpy"], rounds=2
    )
    result.save(path)
    read = load(path)
    assert read == json.loads(json.dumps(result.to_json()))
    assert read["scenario"] == "codec"
    assert [method["name"] for method in read["arms"]] == ["mmformat", "memcpy"]
    for cell in read["cells"]:
        samples = cell["metrics"]["touched_ns"]
        assert samples["unit"] == "ns"
        assert len(samples["samples"]) == samples["n"] == 2 * 19
        assert cell["metrics"]["cold_touched_ns"]["n"] == 2
        assert cell["correct"]
        for part in ("encode_ns", "decode_ns", "touch_ns"):
            assert all(value >= 0 for value in cell["metrics"][part]["samples"])
    assert read["environment"]["packages"]["numpy"]


def test_put_is_measured_beside_memcpy() -> None:
    result = SCENARIOS["put"].run(payloads=["image-small"], quick=True)
    assert {cell.method for cell in result.cells} == {"arena-put", "memcpy", "memcpy-slice"}
    assert all(cell.metrics["put_ns"].n == 3 for cell in result.cells)
    assert result.is_correct


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mmformat_bench": 99}'])
def test_what_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(MMFormatError, match="expected a benchmark's JSON"):
        load(path)


def test_the_report_begins_with_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "codec.json"
    _result(mmformat=2.0, msgspec_oob=1.0, pickle5=10.0, memcpy=0.5).save(path)
    text = write_report([path])
    lost = text.partition("## Where something else is faster")[2].partition("\n## ")[0]
    assert "msgspec" in lost
    assert "| 2.00 |" in lost
    assert "pickle" not in lost  # slower
    assert "memcpy" not in lost  # a control, not a rival
    beside = text.partition("<summary>Beside mmformat, frames")[2].partition("</details>")[0]
    assert "| 5.00 |" in beside  # pickle over ours
    assert "10.0 (9.500-11.5, n=3)" in beside
    assert "2.000 (1.900-2.300, n=3)" in beside


def test_a_wrong_byte_shows_in_the_report(tmp_path: Path) -> None:
    result = _result(mmformat=2.0, pickle5=1.0)
    result.cells[1].correct = False
    result.save(tmp_path / "codec.json")
    assert "WRONG BYTES" in write_report([tmp_path / "codec.json"])


def test_pictures_are_drawn_and_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "docs").mkdir()
    _result(mmformat=2.0, pickle5=10.0).save(tmp_path / "codec.json")
    plots = tmp_path / "docs" / "plots"
    text = write_report([tmp_path / "codec.json"], plots=plots, beside=tmp_path / "docs")
    assert "![codec](plots/codec.png)" in text
    assert (plots / "codec.png").read_bytes().startswith(b"\x89PNG")
