"""Segments that are not what they say: every check at attach has a file that fails it."""

from __future__ import annotations

import dataclasses
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmformat.errors import StaleHandleError, TransportError
from mmformat.shm import Handle, ShmArena, ShmReader
from mmformat.shm.layout import _FIXED, HEADER_NBYTES, PAGE

Spoil = Callable[[Path], None]


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[ShmArena]:
    with ShmArena.create(
        nbytes=8 * PAGE, ranks=2, slots=8, backing="file", directory=tmp_path
    ) as arena:
        yield arena


def _seal(arena: ShmArena, content: bytes = b"hello") -> Handle:
    with arena.reserve(len(content)) as slot:
        slot.view[:] = content
        return slot.seal()


def _attach(arena: ShmArena, tmp_path: Path, reader: int = 0) -> ShmReader:
    return ShmReader.attach(arena.name, rank=reader, directory=tmp_path)


def _patch(at: int, data: bytes, *, sign: bool = True) -> Spoil:
    def spoil(path: Path) -> None:
        with path.open("r+b") as file:
            header = bytearray(file.read(HEADER_NBYTES))
            header[at : at + len(data)] = data
            if sign:
                header[_FIXED.size :] = struct.pack("<I", zlib.crc32(header[: _FIXED.size]))
            file.seek(0)
            file.write(header)

    return spoil


def _truncate(nbytes: int) -> Spoil:
    return lambda path: os.truncate(path, nbytes)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        pytest.param(_patch(0, b"X"), "segment-magic", id="magic"),
        pytest.param(_patch(8, b"\x02"), "segment-version", id="version"),
        pytest.param(_patch(30, b"\xff", sign=False), "segment-crc", id="checksum"),
        pytest.param(_patch(12, struct.pack("<I", PAGE * 2)), "segment-size", id="page"),
        pytest.param(_patch(16, struct.pack("<I", 0)), "segment-size", id="no readers"),
        pytest.param(_patch(16, struct.pack("<I", 65)), "segment-size", id="many readers"),
        pytest.param(_patch(20, struct.pack("<I", 2**31)), "segment-size", id="many slots"),
        pytest.param(_patch(24, struct.pack("<Q", 2**63)), "segment-size", id="much data"),
        pytest.param(_patch(24, struct.pack("<Q", 9 * PAGE)), "segment-size", id="more data"),
        pytest.param(_truncate(0), "segment-creating", id="empty"),
        pytest.param(_truncate(50), "segment-creating", id="half a header"),
        pytest.param(_truncate(PAGE), "segment-size", id="header only"),
        pytest.param(_truncate(9 * PAGE), "segment-size", id="a page short"),
        pytest.param(_truncate(2**20), "segment-size", id="longer"),
        pytest.param(lambda path: path.chmod(0o644), "segment-unsafe", id="readable by others"),
        pytest.param(lambda path: path.chmod(0o660), "segment-unsafe", id="writable by a group"),
        pytest.param(lambda path: path.unlink(), "segment-gone", id="gone"),
    ],
)
def test_a_spoiled_segment_is_refused(
    arena: ShmArena, tmp_path: Path, spoil: Spoil, code: str
) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    # A copy under another name: the arena's own pages must not be cut under its feet.
    copy = tmp_path / "mmf-copy"
    copy.write_bytes((tmp_path / arena.name).read_bytes())
    copy.chmod(0o600)
    spoil(copy)
    with pytest.raises(TransportError) as caught:
        ShmReader.attach("mmf-copy", rank=0, directory=tmp_path)
    assert caught.value.code == code
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_symlink_is_refused(arena: ShmArena, tmp_path: Path) -> None:
    (tmp_path / "mmf-link").symlink_to(tmp_path / arena.name)
    with pytest.raises(TransportError) as caught:
        ShmReader.attach("mmf-link", rank=0, directory=tmp_path)
    assert caught.value.code == "segment-unsafe"


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mmf-odd"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    else:
        path.mkdir(0o700)
    with pytest.raises(TransportError) as caught:
        ShmReader.attach("mmf-odd", rank=0, directory=tmp_path)
    assert caught.value.code == "segment-unsafe"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_segment_is_refused(arena: ShmArena, tmp_path: Path) -> None:
    copy = tmp_path / "mmf-theirs"
    copy.write_bytes((tmp_path / arena.name).read_bytes())
    copy.chmod(0o600)
    os.chown(copy, 12345, -1)
    with pytest.raises(TransportError) as caught:
        ShmReader.attach("mmf-theirs", rank=0, directory=tmp_path)
    assert caught.value.code == "segment-unsafe"
    assert "user 12345" in str(caught.value)


def test_a_copy_that_nobody_produces_is_refused(arena: ShmArena, tmp_path: Path) -> None:
    copy = tmp_path / "mmf-copy"
    copy.write_bytes((tmp_path / arena.name).read_bytes())
    copy.chmod(0o600)
    with pytest.raises(TransportError) as caught:
        ShmReader.attach("mmf-copy", rank=0, directory=tmp_path)
    assert caught.value.code == "producer-gone"


@pytest.mark.parametrize("name", ["../mmf-x", "mmf-../../x", "/etc/passwd", "x", ""])
def test_names_that_leave_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TransportError) as caught:
        ShmReader.attach(name, rank=0, directory=tmp_path)
    assert caught.value.code == "segment-name"


@pytest.mark.parametrize("reader", [-1, 2, 64, 1000])
def test_a_rank_that_there_is_not_is_refused(arena: ShmArena, tmp_path: Path, reader: int) -> None:
    with pytest.raises(TransportError) as caught:
        _attach(arena, tmp_path, reader)
    assert caught.value.code == "reader"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"slot": 8}, "handle"),
        ({"slot": 2**32 - 1}, "handle"),
        ({"offset": 0}, "handle"),
        ({"offset": PAGE}, "handle"),
        ({"offset": 2**63}, "handle"),
        ({"nbytes": 2**63}, "handle"),
        ({"nbytes": 6}, "handle"),
        ({"generation": 2}, "stale-handle"),
        ({"generation": 2**64 - 1}, "stale-handle"),
        ({"slot": 0}, "stale-handle"),
        ({"segment_id": bytes(16)}, "stale-handle"),
        ({"holders": 0b10}, "stale-handle"),
    ],
)
def test_a_forged_handle_is_refused(
    arena: ShmArena, tmp_path: Path, change: dict[str, object], code: str
) -> None:
    unsealed = arena.reserve(5)
    good = _seal(arena)
    unsealed.abandon()
    forged = Handle.from_bytes(bytes(dataclasses.replace(good, **change)))
    with _attach(arena, tmp_path) as reader:
        for verb in (reader.map, reader.release):
            with pytest.raises(TransportError) as caught:
                verb(forged)
            assert caught.value.code == code
        assert bytes(reader.map(good)) == b"hello"


def test_attaching_by_the_handle_of_another_segment_is_refused(
    arena: ShmArena, tmp_path: Path
) -> None:
    forged = dataclasses.replace(_seal(arena), segment_id=bytes(16))
    with pytest.raises(StaleHandleError):
        ShmReader.attach(forged, rank=0, directory=tmp_path)
