"""Collections: by number and identity, mapped, atomic under crashes and two writers, verified."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mmformat as mm
from mmformat.dataset.index import LOG
from mmformat.testing import assert_inputs_equal, golden_vectors
from tests.unit.dataset import dataset_processes
from tests.unit.dataset.dataset_processes import digest, digests, inputs

ROOT = Path(__file__).parents[3]


@pytest.fixture
def dataset(tmp_path: Path) -> mm.Dataset:
    made = mm.open_dataset(tmp_path / "features", create=True)
    for seed in range(5):
        made.add(inputs(seed))
    return made


def test_numbers_and_identities(dataset: mm.Dataset) -> None:
    assert len(dataset) == len(list(dataset)) == len(dataset.names) == 5
    assert_inputs_equal(dataset[0], inputs(0))
    assert_inputs_equal(dataset[-1], inputs(4))
    assert set(dataset.identities) == {f"seed-{seed}" for seed in range(5)}
    assert "seed-3" in dataset
    assert "seed-5" not in dataset
    item = dataset.get("seed-3")
    assert item is not None
    assert digest(item) == digest(inputs(3).items[0])
    assert dataset.get("seed-5") is None
    assert dataset.get("seed-5", 7) == 7
    with pytest.raises(IndexError):
        dataset[5]


def test_opened_again_it_is_the_same_in_the_order_of_names(dataset: mm.Dataset) -> None:
    again = mm.open_dataset(dataset.folder)
    assert list(again.names) == sorted(dataset.names)
    assert sorted(digests(again)) == sorted(digests(dataset))


def test_an_item_among_several_is_found(tmp_path: Path) -> None:
    dataset = mm.open_dataset(tmp_path)
    both = mm.MultimodalInputs(items=[*inputs(1).items, *inputs(2).items])
    dataset.add(both)
    found = dataset.get("seed-2")
    assert found is not None
    assert digest(found) == digest(inputs(2).items[0])


def _mapped(address: int) -> str:
    """Return what /proc says of the memory at an address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in re.split("[- ]", line)[:2])
        if start <= address < end:
            return line
    raise AssertionError("nowhere")


def test_tensors_lie_where_the_file_is_mapped(dataset: mm.Dataset) -> None:
    feature = dataset[0].items[0].feature
    assert _mapped(feature.ctypes.data).endswith(dataset.names[0])
    item = dataset.get("seed-1")
    assert item is not None
    assert str(dataset.folder) in _mapped(item.feature.ctypes.data)
    assert feature.ctypes.data % 64 == 0
    # Private pages: what is written to them is nobody else's.
    feature[:] = 0
    assert digest(dataset[0].items[0]) == digest(inputs(0).items[0])


def test_opening_reads_no_message_that_the_log_knows(
    dataset: mm.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    from mmformat.dataset import index as dataset_index

    real = dataset_index.describe
    monkeypatch.setattr(
        dataset_index, "describe", lambda path, **_: (read.append(path), real(path))[1]
    )
    mm.open_dataset(dataset.folder)
    assert read == []
    (dataset.folder / LOG).unlink()
    assert sorted(mm.open_dataset(dataset.folder).identities) == sorted(dataset.identities)
    assert len(read) == 5
    mm.open_dataset(dataset.folder)
    assert len(read) == 5, "the log was written again"


def test_the_same_bytes_are_written_once(dataset: mm.Dataset) -> None:
    before = (dataset.folder / dataset.names[2]).stat()
    assert dataset.add(inputs(2)) == dataset.names[2]
    after = (dataset.folder / dataset.names[2]).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(dataset) == 5


def test_an_identity_never_stands_for_two_contents(dataset: mm.Dataset) -> None:
    other = replace(inputs(77).items[0], identity="seed-1")
    with pytest.raises(mm.ModelError) as caught:
        dataset.add(mm.MultimodalInputs(items=[other]))
    assert caught.value.code == "identity-taken"
    # Nor through another object, nor in another library's tensors with other bytes.
    with pytest.raises(mm.ModelError):
        mm.open_dataset(dataset.folder).add(mm.MultimodalInputs(items=[other]))
    elsewhere = replace(inputs(1).items[0], offsets=[(3, 9)])
    dataset.add(mm.MultimodalInputs(items=[elsewhere]))
    assert len(dataset) == 6
    assert list(dataset.verify()) == []


def test_messages_of_others_are_taken_in(tmp_path: Path) -> None:
    """Any folder of messages is a collection; the golden vectors, for one."""
    pytest.importorskip("ml_dtypes")
    vectors = golden_vectors("valid")
    for at, vector in enumerate(vectors):
        path = tmp_path / f"part-{at % 3}" / f"{vector.name}.arrows"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(vector.read())
    dataset = mm.open_dataset(tmp_path, library="numpy")
    assert len(dataset) == len(vectors)
    assert not dataset.bad
    assert list(dataset.verify()) == []
    assert len(list(dataset)) == len(vectors)


def test_bad_files_are_named_and_stop_nobody(dataset: mm.Dataset) -> None:
    (dataset.folder / "text.arrows").write_text("not a message")
    (dataset.folder / "empty.arrows").touch()
    (dataset.folder / ".hidden.arrows").write_text("not looked at")
    (dataset.folder / "dangling.arrows").symlink_to("nowhere")
    again = mm.open_dataset(dataset.folder)
    assert len(again) == 5
    assert set(again.bad) == {"text.arrows", "empty.arrows"}
    assert {each.name for each in again.verify()} == {"text.arrows", "empty.arrows"}
    assert "2 bad" in repr(again)
    (dataset.folder / LOG).unlink()
    small = mm.open_dataset(dataset.folder, limits=mm.Limits(message_nbytes=100))
    assert len(small) == 0
    assert {small.bad[name].code for name in dataset.names} == {"limit"}


def test_limits_hold_when_a_message_is_read(dataset: mm.Dataset) -> None:
    small = mm.open_dataset(dataset.folder, limits=mm.Limits(tensor_nbytes=100))
    with pytest.raises(mm.LimitError, match=re.escape(small.names[0])):
        small[0]


def test_a_changed_byte_is_found_by_its_digest(dataset: mm.Dataset) -> None:
    path = dataset.folder / dataset.names[1]
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (finding,) = mm.open_dataset(dataset.folder).verify()
    assert (finding.name, finding.code) == (dataset.names[1], "digest")


def test_a_file_that_was_overwritten_is_not_believed(dataset: mm.Dataset) -> None:
    """The log says another item than the file has: an error, not the wrong item."""
    name = next(name for at, name in enumerate(dataset.names) if at == 0)
    status = (dataset.folder / name).stat()
    (dataset.folder / name).write_bytes((dataset.folder / dataset.names[1]).read_bytes())
    os.utime(dataset.folder / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(mm.IntegrityError) as caught:
        mm.open_dataset(dataset.folder).get("seed-0")
    assert caught.value.code == "dataset-changed"


def test_a_file_that_went_away(dataset: mm.Dataset) -> None:
    (dataset.folder / dataset.names[0]).unlink()
    with pytest.raises(mm.DecodeError, match=re.escape(dataset.names[0])):
        dataset[0]
    assert {each.name for each in dataset.verify()} == {dataset.names[0]}
    dataset.add(inputs(0))
    assert_inputs_equal(dataset[0], inputs(0))
    (dataset.folder / dataset.names[0]).unlink()
    dataset.refresh()
    assert "seed-0" not in dataset


def test_a_log_that_lies_or_is_torn(dataset: mm.Dataset) -> None:
    log = dataset.folder / LOG
    lies = [
        b'{"name":"../../etc/passwd","nbytes":1,"mtime_ns":1,"identities":["x"]}',
        b'{"name":"/etc/passwd","nbytes":1,"mtime_ns":1,"identities":["x"]}',
        b'{"name":7,"nbytes":1,"mtime_ns":1,"identities":[]}',
        b'{"name":"a","nbytes":1,"mtime_ns":1,"identities":[[]]}',
        b"[" * 100_000,
        b"\xff\xfe",
        b"null",
        b'{"name":"' + dataset.names[0].encode()[:20],
    ]
    log.write_bytes(log.read_bytes() + b"\n".join(lies))
    again = mm.open_dataset(dataset.folder)
    assert set(again.identities) == set(dataset.identities)
    again.add(inputs(50))
    assert "seed-50" in mm.open_dataset(dataset.folder)
    assert "x" not in again


def test_the_log_does_not_grow_without_bound(dataset: mm.Dataset) -> None:
    log = dataset.folder / LOG
    log.write_bytes(log.read_bytes() * 500)
    reader = mm.open_dataset(dataset.folder)
    assert log.read_bytes().count(b"\n") == 5
    dataset.add(inputs(8))
    reader.add(inputs(9))
    assert len(reader) == 7
    assert list(mm.open_dataset(dataset.folder).verify()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(mm.TransportError):
        mm.open_dataset(tmp_path / "absent")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(mm.TransportError):
        mm.open_dataset(file, create=True)


def test_files_are_their_owners_alone(dataset: mm.Dataset) -> None:
    for name in (LOG, *dataset.names):
        assert (dataset.folder / name).stat().st_mode & 0o077 == 0


def test_threads_of_one_process_may_add(dataset: mm.Dataset) -> None:
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(dataset.add, [inputs(seed) for seed in range(100, 140)]))
    assert len(dataset) == 45
    for seed in range(100, 140):
        item = dataset.get(f"seed-{seed}")
        assert item is not None
        assert digest(item) == digest(inputs(seed).items[0])


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    """Processes that add the same and other messages at once leave each once, and all readable."""
    context = multiprocessing.get_context("spawn")
    folder = str(tmp_path)
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        seeds = [list(range(30)), list(range(15, 45)), list(range(44, 4, -1))]
        jobs = [pool.submit(dataset_processes.add_many, folder, part) for part in seeds]
        while not all(job.done() for job in jobs):
            seen = mm.open_dataset(folder)
            assert not seen.bad
            for each in seen:
                assert digest(each.items[0])
            time.sleep(0.05)
        for job in jobs:
            job.result()
    dataset = mm.open_dataset(folder)
    assert len(dataset) == 45
    assert set(dataset.identities) == {f"seed-{seed}" for seed in range(45)}
    assert list(dataset.verify()) == []


@pytest.mark.parametrize("step", ["write", "log", "rename"])
def test_a_writer_that_dies_leaves_a_valid_dataset(dataset: mm.Dataset, step: str) -> None:
    command = [sys.executable, "-m", "tests.unit.dataset.dataset_processes", dataset.folder, step]
    result = subprocess.run(command, cwd=ROOT, timeout=100, check=False, capture_output=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    again = mm.open_dataset(dataset.folder)
    assert set(again.identities) == set(dataset.identities)
    assert not again.bad
    assert list(again.verify()) == []
    # The lock went with the process; what it left is written over.
    dataset.add(inputs(99))
    assert "seed-99" in mm.open_dataset(dataset.folder)
    assert list(mm.open_dataset(dataset.folder).verify()) == []
    assert not list(dataset.folder.rglob("*partial*"))


def test_a_writer_that_does_not_end_is_not_waited_for_for_ever(dataset: mm.Dataset) -> None:
    impatient = mm.open_dataset(dataset.folder, timeout_s=0.05)
    with dataset._index.locked(timeout_s=1.0), pytest.raises(mm.TransportTimeoutError):
        impatient.add(inputs(60))
    impatient.add(inputs(60))


def test_a_dataset_goes_to_other_processes_with_its_numbers(dataset: mm.Dataset) -> None:
    """What is added meanwhile does not shift what a worker sees."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        expected = digests(dataset)
        mm.open_dataset(dataset.folder).add(inputs(70))
        assert pool.submit(dataset_processes.digests, dataset).result() == expected


def test_a_full_disk_is_told(dataset: mm.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(mm.TransportError, match="No space"):
            dataset.add(inputs(80))
    assert not list(dataset.folder.rglob("*partial*"))
    assert "seed-80" not in dataset
    dataset.add(inputs(80))
    assert "seed-80" in dataset


def test_dictionaries_come_unexpanded_when_asked(tmp_path: Path) -> None:
    codes = np.arange(64, dtype=np.uint8).reshape(8, 8)
    table = np.linspace(0, 1, 64, dtype=np.float32)[None]
    tensor = mm.DictionaryTensor(codes, table)
    item = mm.MultimodalDataItem(modality="IMAGE", feature=tensor, identity="d")
    mm.open_dataset(tmp_path).add(mm.MultimodalInputs(items=[item]))
    plain, packed = mm.open_dataset(tmp_path), mm.open_dataset(tmp_path, expand=False)
    assert isinstance(packed[0].items[0].feature, mm.DictionaryTensor)
    np.testing.assert_array_equal(plain[0].items[0].feature, table[0][codes])


@pytest.mark.parametrize(
    "name", ["a\0b.arrows", "\ud800.arrows", ".", ".hidden.arrows", "a/../b.arrows", "/b.arrows"]
)
def test_a_name_in_the_log_that_no_scan_finds_is_no_line_of_ours(
    dataset: mm.Dataset, name: str
) -> None:
    (dataset.folder / ".hidden.arrows").write_bytes(b"1")
    status = (dataset.folder / (".hidden.arrows" if "hidden" in name else ".")).stat()
    entry = {
        "name": name,
        "nbytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "identities": [],
    }
    with (dataset.folder / LOG).open("a") as file:
        file.write(json.dumps(entry) + "\n")
    dataset.add(inputs(99))
    assert len(dataset) == 6
    assert name not in dataset.names


def test_a_link_where_a_file_is_made_is_not_followed(
    dataset: mm.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    victim.write_bytes(b"precious")
    log = dataset.folder / LOG
    (dataset.folder / ".mmformat-dataset.partial").symlink_to(victim)
    (dataset.folder / f"{LOG}.partial").symlink_to(victim)
    added = dataset.folder / dataset.add(inputs(99))
    log.write_bytes(log.read_bytes() * 400)
    mm.open_dataset(dataset.folder)
    assert len(log.read_bytes().splitlines()) == 6, "it was written anew"
    assert not added.is_symlink() and not log.is_symlink()
    assert log.stat().st_mode & 0o777 == 0o600
    log.unlink()
    log.symlink_to(victim)
    with pytest.raises(mm.TransportError):
        dataset.add(inputs(100))
    assert victim.read_bytes() == b"precious"


def test_a_pipe_where_the_log_is_is_not_waited_for(dataset: mm.Dataset) -> None:
    (dataset.folder / LOG).unlink()
    os.mkfifo(dataset.folder / LOG)
    assert len(mm.open_dataset(dataset.folder)) == 5


def test_an_identity_never_stands_for_two_contents_of_one_message(dataset: mm.Dataset) -> None:
    one, other = (replace(inputs(at).items[0], identity="new") for at in (77, 78))
    with pytest.raises(mm.ModelError) as caught:
        dataset.add(mm.MultimodalInputs(items=[one, other]))
    assert caught.value.code == "identity-taken"
    assert len(dataset) == 5
    dataset.add(mm.MultimodalInputs(items=[one, one, replace(one, offsets=[(3, 9)])]))
    assert len(dataset) == 6


def test_options_of_a_remote_address_are_refused_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(mm.ModelError, match="token"):
        mm.open_dataset(tmp_path, create=True, token="secret")
