"""A file is written whole or not at all, and nothing but a file is ever replaced."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mmformat as mm
from mmformat._files import written_whole
from mmformat.cli.front import main
from mmformat.legacy.batch.conversion import convert_files

MESSAGE = mm.encode(mm.MultimodalInputs(request_data={"a": 1}))


@pytest.fixture
def message(tmp_path: Path) -> Path:
    path = tmp_path / "message.arrows"
    item = mm.MultimodalDataItem(modality="IMAGE", feature=np.ones((4, 8), np.float32))
    mm.encode(mm.MultimodalInputs(items=[item])).save(path)
    return path


def _save(source: Path, target: Path) -> None:
    MESSAGE.save(target)


def _page(source: Path, target: Path) -> None:
    if main(["inspect", str(source), "--html", str(target)]):
        raise mm.TransportError("the command failed")


def _export(source: Path, target: Path) -> None:
    if main(["export", str(source), "-o", str(target)]):
        raise mm.TransportError("the command failed")


def _convert(source: Path, target: Path) -> None:
    pickled = source.with_name("source.pkl")
    pickled.write_bytes(b"\x80\x04}\x8c\x01nK\x07s.")
    summary = convert_files([pickled], target, force=True, isolated=False)
    if not summary.ok:
        error = summary.results[0].error
        raise mm.TransportError(str(error and error["message"]))


# Each way that a user names a file to write, with the end that its name must have.
WRITERS = pytest.mark.parametrize(
    ("write", "suffix"),
    [(_save, ""), (_page, ""), (_export, ".arrow"), (_export, ".parquet"), (_convert, ".arrows")],
    ids=["save", "page", "arrow", "parquet", "convert"],
)
Write = Callable[[Path, Path], None]


@WRITERS
def test_a_file_keeps_its_mode_and_a_new_one_is_private(
    write: Write, suffix: str, message: Path, tmp_path: Path
) -> None:
    new, old = tmp_path / f"new{suffix}", tmp_path / f"old{suffix}"
    old.touch()
    old.chmod(0o644)
    for target in (new, old):
        write(message, target)
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert stat.S_IMODE(old.stat().st_mode) == 0o644
    assert new.stat().st_size == old.stat().st_size > 0


@WRITERS
def test_a_link_stands_for_its_target(
    write: Write, suffix: str, message: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / f"target{suffix}", tmp_path / f"link{suffix}"
    target.touch()
    link.symlink_to(target)
    write(message, link)
    assert link.is_symlink()
    assert target.stat().st_size > 0
    dangling = tmp_path / f"dangling{suffix}"
    dangling.symlink_to(tmp_path / "elsewhere" / f"later{suffix}")
    write(message, dangling)
    assert dangling.is_symlink()
    assert (tmp_path / "elsewhere" / f"later{suffix}").stat().st_size > 0


@WRITERS
def test_a_pipe_is_written_through(
    write: Write, suffix: str, message: Path, tmp_path: Path
) -> None:
    target, plain = tmp_path / f"fifo{suffix}", tmp_path / f"plain{suffix}"
    write(message, plain)
    os.mkfifo(target)
    # A writer of ours holds the pipe open, so that the reader meets no early end.
    reading = os.open(target, os.O_RDONLY | os.O_NONBLOCK)
    holding = os.open(target, os.O_WRONLY)
    os.set_blocking(reading, True)
    seen: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as file:
            seen.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        write(message, target)
    finally:
        os.close(holding)
        reader.join(timeout=60)
    assert stat.S_ISFIFO(target.lstat().st_mode)
    if suffix != ".parquet":
        assert seen == [plain.read_bytes()]
    assert seen[0]


def test_a_pipe_that_nobody_reads_is_no_wait(tmp_path: Path) -> None:
    target = tmp_path / "fifo"
    os.mkfifo(target)
    with pytest.raises(mm.TransportError, match="cannot write"):
        MESSAGE.save(target)
    assert stat.S_ISFIFO(target.lstat().st_mode)


@WRITERS
@pytest.mark.skipif(os.geteuid() != 0, reason="making a device needs root")
def test_a_device_stays_one(write: Write, suffix: str, message: Path, tmp_path: Path) -> None:
    node = tmp_path / f"null{suffix}"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        node.open("wb").close()
    except PermissionError:
        pytest.skip("this container makes no devices")
    write(message, node)
    assert stat.S_ISCHR(node.lstat().st_mode)


@pytest.mark.parametrize("kind", ["folder", "socket", "no-parent"])
def test_what_cannot_be_written_is_refused_and_stays(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "x"
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "folder":
            target.mkdir()
        elif kind == "socket":
            listener.bind(os.fspath(target))
        else:
            target = tmp_path / "absent" / "x"
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(mm.TransportError, match="cannot write") as caught:
            MESSAGE.save(target)
        assert str(target) in str(caught.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_failure_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(target) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_without_force_a_file_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_text("old")
    with (
        pytest.raises(mm.TransportError, match="exists") as caught,
        written_whole(target, force=False),
    ):
        pass
    assert caught.value.code == "file-exists"
    assert target.read_text() == "old"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
def test_bench_writes_through_a_link_and_keeps_the_mode(message: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch()
    target.chmod(0o640)
    link.symlink_to(target)
    assert main(["bench", str(message), "--quick", "--ranks", "1", "--json", str(link)]) == 0
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert json.loads(target.read_text())
