"""A folder on another host: fetched once, compared with its digest, kept within a capacity."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmformat as mm
from mmformat.dataset.remote import DatasetServer
from mmformat.errors import IntegrityError, LimitError, ModelError, TransportError

KB = 1000


def inputs(seed: int, nbytes: int = 100 * KB) -> mm.MultimodalInputs:
    feature = np.random.default_rng(seed).integers(0, 255, nbytes, dtype=np.uint8)
    item = mm.MultimodalDataItem(modality="IMAGE", feature=feature, identity=f"image-{seed}")
    return mm.MultimodalInputs(items=[item])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "served"
    dataset = mm.open_dataset(path, create=True)
    for seed in range(5):
        dataset.add(inputs(seed))
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[DatasetServer]:
    with DatasetServer(folder) as made:
        yield made


def test_it_reads_as_the_folder_itself(server: DatasetServer, folder: Path, tmp_path: Path) -> None:
    here, there = mm.open_dataset(folder), mm.open_dataset(server.url, cache=tmp_path / "cache")
    assert there.names == here.names and set(there.identities) == set(here.identities)
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.items[0].feature, other.items[0].feature)
    item: Any = there.get("image-3")
    assert np.array_equal(item.feature, inputs(3).items[0].feature)
    assert list(there.verify()) == []
    for refused in (lambda: there.add(inputs(9)), there.to_table):
        with pytest.raises(ModelError):
            refused()


def test_what_was_read_is_there_when_the_server_is_not(
    server: DatasetServer, tmp_path: Path
) -> None:
    dataset = mm.open_dataset(server.url, cache=tmp_path / "cache", timeout_s=1)
    first = dataset[0].items[0].identity
    server.close()
    assert dataset[0].items[0].identity == first
    with pytest.raises(TransportError):
        dataset[1]


def test_new_messages_are_seen_after_a_refresh(
    server: DatasetServer, folder: Path, tmp_path: Path
) -> None:
    dataset = mm.open_dataset(server.url, cache=tmp_path / "cache")
    mm.open_dataset(folder).add(inputs(7))
    assert "image-7" not in dataset
    dataset.refresh()
    assert "image-7" in dataset and dataset.get("image-7") is not None


def test_the_least_recently_read_goes_first_and_readers_keep_theirs(
    server: DatasetServer, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    dataset = mm.open_dataset(server.url, cache=cache, capacity_nbytes=320 * KB)
    kept = [dataset[0], dataset[1], dataset[2]]
    for number, file in enumerate(sorted(cache.rglob("*.arrows"), key=lambda p: p.stat().st_mtime)):
        os.utime(file, ns=(number, number))
    dataset[0]  # read again: the second is now the oldest
    dataset[3]
    stems = {path.name for path in cache.rglob("*.arrows")}
    names = [Path(name).name for name in dataset.names]
    assert stems == {names[0], names[2], names[3]}
    assert sum(path.stat().st_size for path in cache.rglob("*.arrows")) <= 320 * KB
    expected = dataset.get(kept[1].items[0].identity)
    assert np.array_equal(kept[1].items[0].feature, expected.feature)
    small = mm.open_dataset(server.url, cache=cache, capacity_nbytes=KB)
    with pytest.raises(LimitError):
        small[4]


def test_processes_and_threads_share_a_cache(server: DatasetServer, tmp_path: Path) -> None:
    cache, wrong = tmp_path / "cache", []

    def read() -> None:
        dataset = mm.open_dataset(server.url, cache=cache, capacity_nbytes=250 * KB)
        for _ in range(4):
            for number, inputs_ in enumerate(dataset):
                seed = int(str(inputs_.items[0].identity).removeprefix("image-"))
                if not np.array_equal(inputs_.items[0].feature, inputs(seed).items[0].feature):
                    wrong.append(number)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not list(cache.glob(".partial-*"))


def test_a_file_that_is_not_its_name_is_refused(
    server: DatasetServer, folder: Path, tmp_path: Path
) -> None:
    dataset = mm.open_dataset(server.url, cache=tmp_path / "cache")
    path = folder / dataset.names[0]
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError) as caught:
        dataset[0]
    assert caught.value.code == "net-digest"
    assert not list((tmp_path / "cache").glob(".partial-*"))


def test_a_foreign_name_is_fetched_by_the_servers_digest(folder: Path, tmp_path: Path) -> None:
    mm.encode(inputs(11)).save(folder / "by hand.arrows")
    with DatasetServer(folder) as server:
        dataset = mm.open_dataset(server.url, cache=tmp_path / "cache")
        assert np.array_equal(dataset.get("image-11").feature, inputs(11).items[0].feature)


def test_nothing_outside_the_folder_is_served(server: DatasetServer, tmp_path: Path) -> None:
    (tmp_path / "secret.arrows").write_bytes(bytes(mm.encode(inputs(1))))
    dataset: Any = mm.open_dataset(server.url, cache=tmp_path / "cache", timeout_s=2)
    entry = dataset._entries[0]
    for name in ("../secret.arrows", str(tmp_path / "secret.arrows"), "x" * 4000, "\0"):
        with pytest.raises(TransportError) as caught:
            dataset._decoded(entry._replace(name=name))
        assert caught.value.code == "net-protocol"


@pytest.mark.parametrize("url", ["mmf+flight://", "mmf+flight:///x", "mmf+flightx://a:1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises((ModelError, TransportError)):
        mm.open_dataset(url)


def test_who_listens_and_who_asks_beyond_this_host_needs_tls(folder: Path) -> None:
    for make in (
        lambda: DatasetServer(folder, "0.0.0.0:0"),
        lambda: mm.open_dataset("mmf+flight://10.1.2.3:4712"),
    ):
        with pytest.raises(TransportError) as caught:
            make()
        assert caught.value.code == "net-insecure"
    with pytest.raises(ModelError):
        mm.open_dataset(folder, cache=folder)
