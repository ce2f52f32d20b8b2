"""Who cannot attach, or cannot create under a name, is told what would work."""

from __future__ import annotations

from pathlib import Path

import pytest

import mmformat as mm
from mmformat.errors import TransportError
from mmformat.shm import Mapping, ShmArena, ShmReader
from mmformat.shm.layout import PAGE


def _refused(target: object, **options: object) -> TransportError:
    with pytest.raises(TransportError) as caught:
        mm.Arena.attach(target, rank=0, **options)  # type: ignore[arg-type]
    assert caught.value.hint is not None
    return caught.value


def test_a_memfd_is_reached_by_its_descriptor_and_waiting_for_it_is_vain() -> None:
    with mm.Arena.create(nbytes=PAGE, ranks=1, backing="memfd") as arena:
        handle = arena.put(mm.MultimodalInputs())
        for target in (handle, bytes(handle), arena.name):
            error = _refused(target, timeout_s=3600.0)
            assert error.code == "segment-memfd"
            assert "attach_fd" in str(error.hint)
        with mm.Arena.attach_fd(arena.fileno(), rank=0) as rank:
            assert rank.get(handle).items == []


def test_a_file_is_reached_by_its_directory(tmp_path: Path) -> None:
    with mm.Arena.create(nbytes=PAGE, ranks=1, backing="file", directory=tmp_path) as arena:
        handle = arena.put(mm.MultimodalInputs())
        error = _refused(handle)
        assert error.code == "segment-gone"
        assert "directory=" in str(error.hint)
        with mm.Arena.attach(handle, rank=0, directory=tmp_path) as rank:
            assert rank.get(handle).items == []


def _taken(name: str, directory: Path) -> TransportError:
    with pytest.raises(TransportError) as caught:
        ShmArena.create(nbytes=PAGE, ranks=1, name=name, backing="file", directory=directory)
    assert caught.value.code == "segment-exists"
    return caught.value


def test_a_restart_under_a_fixed_name_is_told_who_has_it(tmp_path: Path) -> None:
    name = "mmf-fixed"
    arena = ShmArena.create(nbytes=PAGE, ranks=1, name=name, backing="file", directory=tmp_path)
    assert "its producer lives (pid" in str(_taken(name, tmp_path).hint)
    rank = ShmReader.attach(name, rank=0, directory=tmp_path)
    # As after a SIGKILL: the name stays, the lock goes.
    arena._finalizer.detach()
    arena._segment.close()
    hint = str(_taken(name, tmp_path).hint)
    assert "its producer is dead, and 1 of its ranks still hold it" in hint
    rank.close()
    with ShmArena.create(
        nbytes=PAGE, ranks=1, name=name, backing="file", directory=tmp_path
    ) as again:
        assert again.name == name


def test_a_file_of_somebody_elses_under_the_name_is_said_to_be_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "mmf-fixed").symlink_to(tmp_path / "elsewhere")
    assert "no segment of this user" in str(_taken("mmf-fixed", tmp_path).hint)


def test_a_view_that_ends_while_another_cannot_be_made_still_releases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ShmArena.create(nbytes=PAGE, ranks=1) as arena:
        with arena.reserve(PAGE) as slot:
            handle = slot.seal()
        with ShmReader.attach(handle, rank=0) as rank:
            views = [rank.map(handle)]

            def fail(*_: object, **__: object) -> None:
                views.clear()
                raise OSError(12, "Cannot allocate memory")

            monkeypatch.setattr(Mapping, "of", fail)
            with pytest.raises(TransportError, match="Cannot allocate memory"):
                rank.map(handle)
            assert arena.stats().slots_granted == 0
