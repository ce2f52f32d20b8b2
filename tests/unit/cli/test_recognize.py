"""A command that is given something else says what it is and which command takes it."""

from __future__ import annotations

import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc, parquet

import mmformat as mm
from mmformat.cli.front import main
from tests.unit.cli.commands import COMMAND


def _photo(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return path


def _foreign(folder: Path, kind: str) -> Path:
    path = folder / f"x.{kind}"
    table = pa.table({"a": [1, 2]})
    if kind in {"jpg", "png", "webp", "gif", "tiff"}:
        return _photo(path)
    if kind == "pkl":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind == "pt":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", b"")
    elif kind == "arrow":
        with pa.OSFile(str(path), "wb") as sink, ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif kind == "parquet":
        parquet.write_table(table, path)
    elif kind == "wav":
        path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    return path


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize(
    "what",
    [
        ("jpg", "a JPEG image", "mmformat encode"),
        ("png", "a PNG image", "mmformat encode"),
        ("webp", "a WebP image", "mmformat encode"),
        ("gif", "a GIF image", "mmformat encode"),
        ("tiff", "a TIFF image", "mmformat encode"),
        ("pkl", "a pickle", "mmformat convert"),
        ("pt", "a zip file", "mmformat convert"),
        ("arrow", "an Arrow file", "open_file"),
        ("parquet", "a Parquet file", "read_table"),
        ("wav", "a sound", "materialize"),
    ],
)
def test_what_is_no_message_is_named(
    command: str, what: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, noun, hint = what
    path = _foreign(tmp_path, kind)
    assert main([command, str(path)]) == 3
    text = capsys.readouterr().err
    assert f"error: {path} is {noun}" in text
    assert hint in text.partition("hint: ")[2]


def test_the_command_that_is_named_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _photo(tmp_path / "photo.jpg")
    assert main(["inspect", str(path)]) == 3
    hint = capsys.readouterr().err.partition("hint: mmformat ")[2].split()
    assert main(hint) == 0
    assert main(["inspect", "photo.arrows"]) == 0


@pytest.mark.parametrize(
    ("arguments", "noun"),
    [
        (["encode", "x.pkl", "-o", "y.arrows"], "a pickle, not an image"),
        (["convert", "x.jpg", "-o", "out"], "a JPEG image, not a pickle"),
    ],
)
def test_encode_and_convert_know_each_other(
    arguments: list[str],
    noun: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    _foreign(tmp_path, arguments[1].partition(".")[2])
    assert main(arguments) == 2
    assert noun in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [arguments[1]]


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "absent"],
        ["verify", "absent"],
        ["encode", "absent", "-o", "x.arrows"],
        ["convert", "absent", "-o", "out"],
        ["export", "absent", "-o", "x.arrow"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_missing_file_is_three_everywhere(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 3
    assert capsys.readouterr().err == "error: absent: no such file or folder\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["inspct", "x"], "inspect"),
        (["verfy", "x"], "verify"),
        (["inspect", "--jsn", "x"], "--json"),
        (["shm", "docter"], "doctor"),
    ],
)
def test_a_slip_of_the_pen_is_answered(
    arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert f"hint: did you mean {meant}?" in capsys.readouterr().err


def test_encode_reads_stdin(tmp_path: Path) -> None:
    photo, target = _photo(tmp_path / "x.png"), tmp_path / "x.arrows"
    subprocess.run(
        [*COMMAND, "encode", "-", "-o", target], input=photo.read_bytes(), timeout=100, check=True
    )
    piped = mm.decode(target, library="numpy").items[0]
    assert main(["encode", str(photo), "-o", str(target)]) == 0
    assert mm.decode(target, library="numpy").items[0].identity == piped.identity


def test_the_doctor_prints_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    main(["shm", "doctor", "--request-size", "64MiB", "--requests", "16", "--tp", "2"])
    text = capsys.readouterr().out
    assert "ranks=2" in text
    assert "--shm-size=2g" in text
    assert "sizeLimit: 2Gi" in text
    assert main(["shm", "doctor", "--request-size", "64XB"]) == 2
    assert "8GiB" in capsys.readouterr().err
