"""The ruler: statistics, turns, faults, memory, and the record of the machine."""

from __future__ import annotations

import gc
import json
import mmap
import socket
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmformat.bench.measure import (
    Case,
    Samples,
    environment,
    interleaved,
    memory,
    minor_faults,
    turns,
    without_collection,
)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50))
def test_statistics_are_numpys(values: list[int]) -> None:
    samples = Samples("ns", [float(value) for value in values])
    first, third = samples.quartiles
    assert samples.n == len(values)
    assert samples.median == pytest.approx(np.median(values))
    assert first == pytest.approx(np.percentile(values, 25))
    assert third == pytest.approx(np.percentile(values, 75))
    assert samples.iqr == pytest.approx(third - first)


def test_raw_samples_are_kept_in_order() -> None:
    kept = json.loads(json.dumps(Samples("ns", [3, 1, 2]).to_json()))
    assert kept["samples"] == [3, 1, 2]
    assert (kept["unit"], kept["n"], kept["median"]) == ("ns", 3, 2)


def test_no_samples_have_no_median() -> None:
    assert np.isnan(Samples("ns").median)


def test_turns_are_fair() -> None:
    """Each case runs once a round, and none is always the first or behind the same other one."""
    names = ["a", "b", "c"]
    order = list(turns(names, rounds=6, warmup=1))
    assert [turn.number for turn in order if not turn.is_recorded] == [-1] * 3
    rounds = [[turn.name for turn in order if turn.number == number] for number in range(6)]
    assert all(sorted(each) == names for each in rounds)
    assert {each[0] for each in rounds} == set(names)
    before = Counter((one, two) for each in rounds for one, two in pairwise(each))
    assert len(before) == 6


def test_interleaved_records_what_ran_and_hands_over_results() -> None:
    seen: list[str] = []
    checked: list[str] = []
    cases = [
        Case(name=name, run=lambda name=name: seen.append(name) or name, after=checked.append)
        for name in ("a", "b")
    ]
    samples = interleaved(cases, rounds=3, warmup=2, repeats=4)
    assert {name: each.n for name, each in samples.items()} == {"a": 12, "b": 12}
    assert all(value > 0 for value in samples["a"].values)
    assert Counter(seen) == {"a": 20, "b": 20}
    assert checked == seen


def test_the_collector_is_off_inside_the_clock_and_on_again_after_an_error() -> None:
    found: list[bool] = []
    interleaved([Case(name="a", run=lambda: found.append(gc.isenabled()))], rounds=1, warmup=0)
    assert found == [False]
    with pytest.raises(ZeroDivisionError), without_collection():
        1 / 0  # noqa: B018
    assert gc.isenabled()


def test_faults_are_counted() -> None:
    pages = 512
    mapping = mmap.mmap(-1, pages * mmap.PAGESIZE)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    before = minor_faults()
    for page in range(pages):
        mapping[page * mmap.PAGESIZE] = 1
    # The kernel may give several pages for one fault.
    assert minor_faults() - before >= pages // 32
    mapping.close()


def test_memory_sees_what_is_touched() -> None:
    nbytes = 2**25
    before = memory()
    mapping = mmap.mmap(-1, nbytes)
    mapping.write(b"x" * nbytes)
    after = memory()
    mapping.close()
    assert after.pss_nbytes - before.pss_nbytes > nbytes // 2
    assert after.pss_shmem_nbytes - before.pss_shmem_nbytes > nbytes // 2  # anonymous, but shared


def test_memory_of_a_process_that_is_gone() -> None:
    with pytest.raises(OSError):
        memory(2**22 + 1)


def test_the_environment_names_no_host() -> None:
    text = json.dumps(environment())
    found = json.loads(text)
    assert found["cores"] >= found["cores_usable"] >= 1
    assert found["packages"]["numpy"] == np.__version__
    assert found["shm_nbytes"] > 0
    assert len(found["load"]) == 3
    host = socket.gethostname()
    assert len(host) < 4 or host not in text
