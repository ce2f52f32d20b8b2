"""What every test obeys: no shared memory left behind, known randomness, skips that say why."""

from __future__ import annotations

import functools
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SHM = Path("/dev/shm")

# ci: the same examples at every run, so that a red run can be looked into. explore: new ones.
# deadline=None: on a shared machine a slow example says nothing about the code.
settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@functools.cache
def _why_no_gpu() -> str | None:
    """Return why the `gpu` tests cannot run, or None. Costs an import of torch."""
    try:
        import torch
    except ImportError:
        return "needs a CUDA device: torch is not installed"
    if torch.cuda.is_available():
        return None
    build = "built without CUDA" if torch.version.cuda is None else "finds no device"
    return f"needs a CUDA device: torch {torch.__version__} {build}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot or may not run, with the reason."""
    skip_slow = os.environ.get("MMFORMAT_SKIP_SLOW") == "1"
    for item in items:
        if skip_slow and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow, and MMFORMAT_SKIP_SLOW=1"))
        if item.get_closest_marker("gpu") and (reason := _why_no_gpu()):
            item.add_marker(pytest.mark.skip(reason=reason))


def _ours() -> set[str]:
    """Return the names in /dev/shm that are this user's and this library's."""
    found = set()
    for path in SHM.glob("mmf*"):
        try:
            if path.stat().st_uid == os.getuid():
                found.add(path.name)
        except FileNotFoundError:  # its maker removed it between the two calls
            continue
    return found


def _ancestors(pid: int) -> list[int]:
    """Return the processes above a living process; none for one that is gone."""
    found: list[int] = []
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def _of_another_run(name: str) -> bool:
    """Return whether a segment's maker lives and does not descend from us.

    Names are ``mmf-<uid>-<pid>-<start time>-<random>``. Two runs on one machine must not blame
    each other; a segment whose maker is dead is a leak, whoever made it.
    """
    match = re.match(r"mmf-[0-9]+-([0-9]+)-", name)
    if match is None or (pid := int(match.group(1))) == os.getpid():
        return False
    above = _ancestors(pid)
    return bool(above) and os.getpid() not in above


def _left_since(before: set[str]) -> set[str]:
    return {name for name in _ours() - before if not _of_another_run(name)}


AT_START = _ours()


@pytest.fixture(autouse=True)
def no_shared_memory_left() -> Iterator[None]:
    """Fail the test that leaves a segment of ours in /dev/shm, and remove it for the next one."""
    before = _ours()
    yield
    left = _left_since(before)
    deadline = time.monotonic() + 2.0
    while left and time.monotonic() < deadline:  # a child that was told to end may still be at it
        time.sleep(0.02)
        left = _left_since(before)
    for name in left:
        _remove(SHM / name)
    if left:
        pytest.fail(f"left in /dev/shm: {', '.join(sorted(left))}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run when anything is left that no single test was seen to leave, as by a doctest."""
    left = _left_since(AT_START)
    if left:
        for name in left:
            _remove(SHM / name)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        raise pytest.UsageError(f"left in /dev/shm by this run: {', '.join(sorted(left))}")


@pytest.fixture(scope="session")
def photos() -> dict[str, Path]:
    """Return every photograph of the repository by file name."""
    from tests.support.photos import FOLDERS, PHOTOS

    if len(PHOTOS) < 20:
        pytest.fail(f"only {len(PHOTOS)} of 20 photographs are in {FOLDERS}")
    return PHOTOS
