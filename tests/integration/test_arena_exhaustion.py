"""Too little room: an error with sizes and a remedy, nothing left behind, and never a SIGBUS."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mmformat.errors import ArenaFullError
from mmformat.shm import ShmArena

ROOT = Path(__file__).parents[2]


def _why_no_mounts() -> str | None:
    if shutil.which("unshare") is None:
        return "needs unshare(1) to make a mount namespace"
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"]
    ran = subprocess.run(probe, capture_output=True, text=True, check=False)
    return None if ran.returncode == 0 else f"needs the right to mount: {ran.stderr.strip()}"


NO_MOUNTS = _why_no_mounts()
needs_mounts = pytest.mark.skipif(NO_MOUNTS is not None, reason=str(NO_MOUNTS))


def _with_shm_of(size: str, script: str) -> str:
    """Run a script whose /dev/shm is a tmpfs of this size, and return what it prints."""
    prelude = "import os\nfrom mmformat.errors import *\nfrom mmformat.shm import *\n"
    mount = f"mount -t tmpfs -o size={size} none /dev/shm"
    ran = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"),
            *(sys.executable, "-c", prelude + textwrap.dedent(script)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert ran.returncode == 0, f"{ran.returncode}: {ran.stderr}"
    return ran.stdout


@needs_mounts
@pytest.mark.parametrize(("size", "total"), [("1m", 2**20), ("64m", 2**26)])
def test_a_small_shm_is_refused_with_the_sizes_and_the_fix(size: str, total: int) -> None:
    printed = _with_shm_of(
        size,
        """
        try:
            ShmArena.create(nbytes=2**30, ranks=4)
        except ArenaFullError as error:
            print(error)
            print(error.hint)
        print(os.listdir("/dev/shm"), os.statvfs("/dev/shm").f_bfree * 4096)
        """,
    )
    error, hint, left = printed.splitlines()
    assert "expected 1,07" in error
    assert f"{total:,} free of {total:,}" in error
    assert "--shm-size" in hint
    assert "emptyDir" in hint
    assert "medium: Memory" in hint
    assert left == f"[] {total}"


@needs_mounts
@pytest.mark.parametrize(("size", "nbytes"), [("1m", 800_000), ("64m", 60 * 2**20)])
def test_what_fits_works_to_the_last_byte(size: str, nbytes: int) -> None:
    printed = _with_shm_of(
        size,
        f"""
        with ShmArena.create(nbytes={nbytes}, ranks=1, slots=16) as arena:
            with arena.reserve(arena.nbytes) as slot:
                slot.view[:] = b"x" * arena.nbytes
                handle = slot.seal()
            with ShmReader.attach(handle, rank=0) as rank:
                print(bytes(rank.map(handle)).count(b"x") == arena.nbytes)
        print(os.listdir("/dev/shm"))
        """,
    )
    assert printed.split() == ["True", "[]"]


@needs_mounts
def test_room_that_goes_while_we_look_is_the_same_error() -> None:
    """The check passes, another process fills the tmpfs, the allocation fails; nothing is left."""
    printed = _with_shm_of(
        "1m",
        """
        from mmformat.shm import failpoints as steps
        def fill(label):
            if label == "create.locked":
                open("/dev/shm/another", "wb").write(bytes(900_000))
        steps._hook = fill
        try:
            ShmArena.create(nbytes=400_000, ranks=1, slots=16)
        except ArenaFullError as error:
            print(error.code, "No space left" in str(error), "--shm-size" in error.hint)
        print(os.listdir("/dev/shm"))
        """,
    )
    assert printed.splitlines() == ["arena-full True True", "['another']"]


@needs_mounts
def test_a_rank_that_writes_everywhere_needs_no_shm() -> None:
    """Copies on write are the rank's own memory: a /dev/shm that is full cannot stop them."""
    printed = _with_shm_of(
        "1m",
        """
        with ShmArena.create(nbytes=700_000, ranks=1, slots=16) as arena:
            with arena.reserve(700_000) as slot:
                slot.view[:] = b"x" * 700_000
                handle = slot.seal()
            left = os.statvfs("/dev/shm").f_bfree * 4096
            open("/dev/shm/another", "wb").write(bytes(left))
            print(os.statvfs("/dev/shm").f_bfree)
            with ShmReader.attach(handle, rank=0) as rank:
                view = rank.map(handle)
                view[:] = b"y" * 700_000
                print(bytes(rank.map(handle)).count(b"x"))
                del view
        os.unlink("/dev/shm/another")
        """,
    )
    assert printed.split() == ["0", "700000"]


@needs_mounts
def test_the_fallbacks_that_a_caller_may_choose() -> None:
    printed = _with_shm_of(
        "1m",
        """
        import tempfile
        with tempfile.TemporaryDirectory() as directory:
            for backing in ("shm", "file", "memfd"):
                options = {"directory": directory} if backing == "file" else {}
                try:
                    arena = ShmArena.create(nbytes=2**22, ranks=1, backing=backing, **options)
                except ArenaFullError:
                    print(backing, "full")
                    continue
                with arena, arena.reserve(2**22) as slot:
                    slot.view[:] = b"x" * 2**22
                    handle = slot.seal()
                    rank = (
                        ShmReader.attach_fd(arena.fileno(), rank=0)
                        if backing == "memfd"
                        else ShmReader.attach(handle, rank=0, **options)
                    )
                    with rank:
                        print(backing, bytes(rank.map(handle)).count(b"x") == 2**22)
        """,
    )
    assert printed.splitlines() == ["shm full", "file True", "memfd True"]


def test_more_than_any_machine_has_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    with pytest.raises(ArenaFullError) as caught:
        ShmArena.create(nbytes=2**50, ranks=1, backing="file", directory=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
