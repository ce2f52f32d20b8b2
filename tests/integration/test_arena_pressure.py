"""Memory that runs out: an error before it is taken, an error when it is refused, never a kill.

Limits are real: a control group with a limit (version 1 or 2, made for the test and removed), an
address space that is too small, a file size that is bounded. Each runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmformat.shm.cgroup import memory_left_nbytes

ROOT = Path(__file__).parents[2]
GROUPS = Path("/sys/fs/cgroup")
MIB = 2**20
PRELUDE = """
import errno, os, resource, sys
import numpy as np
import pyarrow
import mmformat as mm
from mmformat.errors import *
from mmformat.shm import *
MIB = 2**20
def bound(what, nbytes):
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (nbytes, hard))
def size_nbytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * 4096
def ours():
    return [name for name in os.listdir("/dev/shm") if f"-{os.getpid()}-" in name]
def inputs(nbytes, seed=0):
    feature = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)
    return mm.MultimodalInputs(items=[mm.MultimodalDataItem(modality="IMAGE", feature=feature)])
"""


def _run(script: str, *arguments: object, group: Path | None = None) -> str:
    """Run a script, within a control group if one is given, and return what it prints."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, arguments)]
    if group is not None:
        enter = f'echo $$ > {group / "cgroup.procs"} && exec "$@"'
        command = ["sh", "-c", enter, "sh", *command]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=100
    )
    assert ran.returncode == 0, f"{ran.returncode}: {ran.stderr}"
    return ran.stdout


def _new_group(name: str) -> tuple[Path, str]:
    """Make a control group of the memory controller; return it and its limit's name."""
    if (GROUPS / "memory" / "memory.limit_in_bytes").exists():
        group, limit = GROUPS / "memory" / name, "memory.limit_in_bytes"
    else:
        group, limit = GROUPS / name, "memory.max"
    group.mkdir()
    return group, limit


def _why_no_groups() -> str | None:
    try:
        group, limit = _new_group(f"mmf-probe-{os.getpid()}")
    except OSError as error:
        return f"needs the right to make a control group: {error}"
    there = (group / limit).exists()
    group.rmdir()
    return None if there else f"needs the memory controller at {group.parent}"


NO_GROUPS = _why_no_groups()
needs_groups = pytest.mark.skipif(NO_GROUPS is not None, reason=str(NO_GROUPS))


@pytest.fixture
def limited() -> Iterator[Callable[[int], Path]]:
    """Return a function that makes a group with a limit; the groups are gone afterwards."""
    made: list[Path] = []

    def make(nbytes: int) -> Path:
        group, limit = _new_group(f"mmf-test-{os.getpid()}-{len(made)}")
        made.append(group)
        (group / limit).write_text(str(nbytes))
        return group

    yield make
    for group in made:
        group.rmdir()


@needs_groups
def test_an_arena_over_what_is_left_of_the_limit_is_refused_and_a_smaller_one_works(
    limited: Callable[[int], Path],
) -> None:
    """The limit would hold the arena; what the process took already makes it too much."""
    printed = _run(
        """
        taken = np.ones(300 * MIB, np.uint8)
        for backing in ("shm", "memfd"):
            try:
                ShmArena.create(nbytes=300 * MIB, ranks=1, backing=backing)
            except ArenaFullError as error:
                print(error.code, "memory to be left" in str(error), f"{512 * MIB:,}" in str(error))
                print("--memory" in error.hint, "backing='file'" in error.hint, ours())
        del taken
        sent = inputs(40 * MIB)
        with mm.Arena.create(nbytes=300 * MIB, ranks=1) as arena:
            handle = arena.put(sent)
            with mm.Arena.attach(handle, rank=0) as rank:
                print((rank.get(handle).items[0].feature == sent.items[0].feature).all())
        """,
        group=limited(512 * MIB),
    )
    refused = ["arena-full True True", "True True []"]
    assert printed.splitlines() == [*refused, *refused, "True"]


@needs_groups
def test_a_file_on_a_disk_may_be_larger_than_the_limit(
    limited: Callable[[int], Path], tmp_path: Path
) -> None:
    """Pages of a file are written back and dropped where a tmpfs's would have to be killed for."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True
    ).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        pytest.skip(f"needs a directory on a disk, got {kind} at {tmp_path}")
    printed = _run(
        """
        options = {"backing": "file", "directory": sys.argv[1]}
        with mm.Arena.create(nbytes=320 * MIB, ranks=1, **options) as arena:
            handles = [arena.put(inputs(100 * MIB, seed)) for seed in range(3)]
            with mm.Arena.attach(handles[0], rank=0, directory=sys.argv[1]) as rank:
                for seed, handle in enumerate(handles):
                    found = rank.get(handle).items[0].feature
                    print((found == inputs(100 * MIB, seed).items[0].feature).all())
        """,
        tmp_path,
        group=limited(450 * MIB),
    )
    assert printed.split() == ["True"] * 3


@needs_groups
def test_a_rank_reads_more_than_its_own_limit_allows_it_to_have(
    limited: Callable[[int], Path],
) -> None:
    """The pages are the producer's: a rank that only reads them takes no memory of its group."""
    printed = _run(
        """
        import subprocess
        with mm.Arena.create(nbytes=600 * MIB, ranks=1) as arena:
            handle = arena.put(inputs(500 * MIB))
            total = int(inputs(500 * MIB).items[0].feature.sum(dtype=np.int64))
            ran = subprocess.run([*sys.argv[1:], bytes(handle).hex()], capture_output=True)
            print(ran.returncode, int(ran.stdout) == total)
        """,
        "sh",
        "-c",
        f'echo $$ > {limited(200 * MIB) / "cgroup.procs"} && exec "$@"',
        "sh",
        sys.executable,
        "-c",
        PRELUDE
        + textwrap.dedent(
            """
            handle = bytes.fromhex(sys.argv[1])
            with mm.Arena.attach(handle, rank=0) as rank:
                print(int(rank.get(handle).items[0].feature.sum(dtype=np.int64)))
            """
        ),
    )
    assert printed.split() == ["0", "True"]


def test_a_rank_without_address_space_gets_an_error_and_then_the_message() -> None:
    printed = _run(
        """
        with mm.Arena.create(nbytes=256 * MIB, ranks=1) as arena:
            handle = arena.put(inputs(200 * MIB))
            with mm.Arena.attach(handle, rank=0) as rank:
                bound(resource.RLIMIT_AS, size_nbytes() + 64 * MIB)
                for _ in range(3):
                    try:
                        rank.get(handle)
                    except TransportError as error:
                        print(error.code, "Cannot allocate memory" in str(error))
                bound(resource.RLIMIT_AS, resource.RLIM_INFINITY)
                print(rank.get(handle).items[0].feature.nbytes == 200 * MIB)
            print(arena.wait_released(timeout_s=5.0))
        """
    )
    assert printed.splitlines() == ["map True"] * 3 + ["True", "True"]


@pytest.mark.parametrize("backing", ["shm", "memfd"])
def test_a_producer_without_address_space_leaves_nothing(backing: str) -> None:
    printed = _run(
        """
        descriptors = len(os.listdir("/proc/self/fd"))
        bound(resource.RLIMIT_AS, size_nbytes() + 64 * MIB)
        try:
            ShmArena.create(nbytes=256 * MIB, ranks=1, backing=sys.argv[1])
        except TransportError as error:
            print(error.code, "Cannot allocate memory" in str(error), ours())
        print(len(os.listdir("/proc/self/fd")) == descriptors)
        """,
        backing,
    )
    assert printed.splitlines() == ["segment-create True []", "True"]


def test_a_rank_that_cannot_attach_for_want_of_memory_may_try_again() -> None:
    printed = _run(
        """
        with mm.Arena.create(nbytes=MIB, ranks=1, slots=65536) as arena:
            handle = arena.put(inputs(1000))
            bound(resource.RLIMIT_AS, size_nbytes() + 4096)
            try:
                mm.Arena.attach(handle, rank=0)
            except TransportError as error:
                print("Cannot allocate memory" in str(error))
            bound(resource.RLIMIT_AS, resource.RLIM_INFINITY)
            with mm.Arena.attach(handle, rank=0) as rank:
                print(rank.get(handle).items[0].feature.nbytes)
        """
    )
    assert printed.splitlines() == ["True", "1000"]


def test_a_bounded_file_size_is_a_full_arena_and_no_signal() -> None:
    printed = _run(
        """
        bound(resource.RLIMIT_FSIZE, MIB)
        try:
            ShmArena.create(nbytes=64 * MIB, ranks=1)
        except ArenaFullError as error:
            print(error.code, "File too large" in str(error), ours())
        """
    )
    assert printed.split() == ["arena-full", "True", "[]"]


def test_what_is_left_is_what_the_tightest_group_or_the_machine_leaves(tmp_path: Path) -> None:
    def left(groups: str, files: dict[str, str], meminfo: str = "") -> int | None:
        (tmp_path / "cgroup").write_text(groups)
        (tmp_path / "meminfo").write_text(meminfo)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return memory_left_nbytes(
            cgroups=tmp_path / "cgroup", mount=tmp_path / "fs", machine=tmp_path / "meminfo"
        )

    stat = "active_file 5\ninactive_file 7\nshmem 50\n"
    files = {"a/memory.max": "100\n", "a/memory.current": "80\n", "a/memory.stat": stat}
    assert left("0::/a\n", files) == 100 - 80 + 12
    assert left("0::/a\n", files, "MemAvailable: 1 kB\nSwapFree: 0 kB\n") == 32
    assert left("", {}, "MemTotal: 9 kB\nMemAvailable: 2 kB\nSwapFree: 1 kB\n") == 3072
    assert left("", {}) is None
    old = {
        "memory/b/memory.limit_in_bytes": "100\n",
        "memory/b/memory.usage_in_bytes": "120\n",
        "memory/b/memory.stat": "total_active_file 1\ntotal_inactive_file 2\n",
    }
    assert left("4:memory:/b\n", old) == 0
