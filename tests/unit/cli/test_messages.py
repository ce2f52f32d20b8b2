"""encode, inspect and verify: what they write, show and find, and what they answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import mmformat as mm
from mmformat.cli.front import main
from mmformat.media import load_image
from mmformat.media.image import FixedSizeImageProcessor, QwenVLImageProcessor
from tests.support.photos import PHOTOS
from tests.unit.cli.commands import COMMAND, run

PHOTO = PHOTOS["astronaut-face-224.png"]
LARGE = PHOTOS["retina-1411.jpg"]


def _feature(path: Path, index: int = 0) -> np.ndarray:
    return mm.decode(path, library="numpy").items[index].feature


@pytest.fixture
def message(tmp_path: Path) -> Path:
    path = tmp_path / "x.arrows"
    assert main(["encode", str(PHOTO), "-o", str(path)]) == 0
    return path


def test_encode_writes_what_the_processor_makes(message: Path) -> None:
    expected = QwenVLImageProcessor()(load_image(mm.Source(PHOTO))).feature.expand()
    np.testing.assert_array_equal(_feature(message), expected)
    item = mm.decode(message).items[0]
    assert item.identity is not None
    assert item.hash is not None


@pytest.mark.parametrize("encoding", ["plain", "dictionary"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_encode_obeys_its_options(encoding: str, dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    arguments = ["encode", PHOTO, PHOTO, "-o", path, "--processor", "clip", "--dtype", dtype]
    result = run(*arguments, "--encoding", encoding, "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["path"], answer["items"]) == (str(path), 2)
    item = mm.decode(path, library="torch", expand=False).items[1]
    assert isinstance(item.feature, mm.DictionaryTensor) == (encoding == "dictionary")
    assert str(item.feature.dtype).removeprefix("torch.") == dtype
    if dtype == "float32":
        expected = FixedSizeImageProcessor()(load_image(mm.Source(PHOTO)), encoding="plain").feature
        np.testing.assert_array_equal(_feature(path, 1), expected)


def test_encode_compresses_large_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.arrows"
    arguments = ["encode", str(LARGE), "-o", str(path), "--encoding", "plain"]
    assert main([*arguments, "--compression", "lz4"]) == 0
    assert main(["inspect", str(path), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["files"]
    (feature,) = (each for each in told["items"][0]["tensors"] if each["name"] == "feature")
    assert feature["codec"] == "lz4"
    assert feature["stored_nbytes"] < feature["nbytes"] / 2


def test_encode_weighs_a_link_and_inspect_says_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.arrows"
    arguments = ["encode", str(LARGE), "-o", str(path), "--encoding", "plain"]
    assert main([*arguments, "--compression", "auto", "--link-gbit-s", "0.001"]) == 0
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "plain, lz4" in shown
    assert "over 0.001 Gbit/s" in shown
    for wrong in (["lz4", "--link-gbit-s", "1"], ["auto", "--link-gbit-s", "-1"]):
        assert main([*arguments, "--compression", *wrong]) == 2
    assert main([*arguments, "--link-gbit-s", "1"]) == 2
    assert "link" in capsys.readouterr().err


def test_encode_to_a_pipe(tmp_path: Path) -> None:
    result = subprocess.run(
        [*COMMAND, "encode", PHOTO, "-o", "-"], capture_output=True, timeout=100, check=True
    )
    assert len(mm.decode(result.stdout).items) == 1


def test_encode_names_the_image_that_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(PHOTO.read_bytes()[:200])
    target = tmp_path / "x.arrows"
    for image in (broken, tmp_path / "absent.png"):
        assert main(["encode", str(PHOTO), str(image), "-o", str(target)]) == 3
        assert str(image) in capsys.readouterr().err
    assert not target.exists()


def test_encode_knows_its_processors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["encode", str(PHOTO), "-o", str(tmp_path / "x.arrows"), "--processor"]
    assert main([*arguments, "nonsense"]) == 2
    assert "qwen2-vl" in capsys.readouterr().err
    configuration = tmp_path / "preprocessor_config.json"
    configuration.write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    assert main([*arguments, str(configuration)]) == 0
    assert _feature(tmp_path / "x.arrows").shape == (1, 3, 224, 224)


def test_inspect_shows_items_and_tensors(message: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(message)]) == 0
    text = capsys.readouterr().out
    for expected in ("IMAGE", "feature", "float32", "256 x 1176", "dictionary", "image_grid_thw"):
        assert expected in text, expected


def test_inspect_json(message: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(message), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["files"]
    assert told["path"] == str(message)
    assert told["version"] == 1
    assert told["nbytes"] == message.stat().st_size
    (item,) = told["items"]
    feature = item["tensors"][0]
    assert (feature["name"], feature["dtype"], feature["shape"]) == (
        "feature",
        "float32",
        [256, 1176],
    )
    assert feature["chunks"][0]["at"] % 64 == 0
    assert told["tensor_nbytes"] == 256 * 1176 * 4 + 24


def test_inspect_reads_no_tensor_bytes(message: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the tensors' bytes are, it shows the same."""
    assert main(["inspect", str(message), "--json"]) == 0
    before = capsys.readouterr().out
    (told,) = json.loads(before)["files"]
    data = bytearray(message.read_bytes())
    for tensor in told["items"][0]["tensors"]:
        for chunk in tensor["chunks"]:
            # Views hold the first four bytes of what they show.
            start, end = chunk["at"] + 4, chunk["at"] + chunk["stored_nbytes"]
            data[start:end] = b"\xff" * (end - start)
    message.write_bytes(data)
    assert main(["inspect", str(message), "--json"]) == 0
    assert capsys.readouterr().out == before


def test_folders_and_many_files(
    message: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "y.arrows").write_bytes(message.read_bytes())
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(": sound") == 2
    (tmp_path / "empty").mkdir()
    assert main(["inspect", str(tmp_path / "empty")]) == 3


def test_one_bad_file_does_not_hide_the_others(
    message: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.arrows"
    bad.write_bytes(b"nonsense" * 100)
    assert main(["inspect", str(bad), str(message)]) == 3
    captured = capsys.readouterr()
    assert f"error: {bad}: " in captured.err
    assert f"{message}: version 1" in captured.out


def test_verify_names_the_clause(
    message: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.arrows"
    short.write_bytes(message.read_bytes()[:-8])
    assert main(["verify", str(message), str(short)]) == 1
    text = capsys.readouterr().out
    assert f"{message}: sound" in text
    assert "L-3" in text
    assert main(["verify", str(short), "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)["files"]
    (finding,) = told["findings"]
    assert sorted(finding) == ["clause", "code", "message", "path", "refused"]
    assert (finding["clause"], finding["code"], finding["refused"]) == ("L-3", "truncated", True)


def test_verify_of_what_cannot_be_read_is_no_answer(
    message: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(message), "/no/such/file"]) == 3
    assert "error: /no/such/file: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_message_may_come_through_a_pipe(command: str, message: Path) -> None:
    def piped(data: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*COMMAND, command, "-", "--json"], input=data, capture_output=True, check=False
        )

    good = piped(message.read_bytes())
    assert good.returncode == 0, good.stderr
    by_path = json.loads(run(command, message, "--json").stdout)["files"][0]
    assert json.loads(good.stdout)["files"] == [{**by_path, "path": "-"}]
    bad = piped(b"not a message")
    assert bad.returncode == (3 if command == "inspect" else 1)
    assert b"Traceback" not in bad.stderr


def test_a_file_called_minus_is_reached_by_its_folder(message: Path) -> None:
    message.rename(message.with_name("-"))
    assert run("verify", "./-", cwd=message.parent).stdout.endswith(": sound\n")
