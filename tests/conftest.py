"""What every test obeys: no shared memory left behind, known randomness, skips that say why."""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SHM = Path("/dev/shm")
HERE = Path(__file__).parent

# ci: the same examples at every run, so that a red run can be looked into. explore: new ones.
# deadline=None: on a shared machine a slow example says nothing about the code.
settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


class _SkipWithoutExtra(MetaPathFinder):
    """Skip the test, or the whole module, that imports an optional package which is missing.

    Only where ``MMFORMAT_BASE_INSTALL=1`` says that nothing optional is meant to be installed;
    elsewhere a missing package is an error. An import by the package itself is left alone.
    """

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename and frame.f_back is not None:
            frame = frame.f_back
        if "." not in name and Path(frame.f_code.co_filename).is_relative_to(HERE):
            pytest.skip(f"{name} is not installed", allow_module_level=True)


BASE_INSTALL = os.environ.get("MMFORMAT_BASE_INSTALL") == "1"
if BASE_INSTALL:
    sys.meta_path.append(_SkipWithoutExtra())
    # These two make processors, which need Pillow, while they are imported.
    collect_ignore = ["unit/cli/test_messages.py", "unit/media/test_bad_input.py"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """On a base install, skip the test that finds out within that it needs an extra."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if not BASE_INSTALL:
            raise
        pytest.skip(f"{error.name} is not installed")
    except ImportError as error:
        if not BASE_INSTALL or type(error).__name__ != "MissingExtraError":
            raise
        pytest.skip(str(error))


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
    """Skip what cannot run, with the reason."""
    for item in items:
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
