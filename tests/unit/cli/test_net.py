"""mmformat net and serve-dataset, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import mmformat as mm
from mmformat.cli import main
from mmformat.net import MirrorClient, Publisher


def inputs() -> mm.MultimodalInputs:
    item = mm.MultimodalDataItem(modality="IMAGE", feature=np.arange(10_000, dtype=np.float32))
    return mm.MultimodalInputs(items=[item])


def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    command = [sys.executable, "-m", "mmformat", *arguments, "--json"]
    made = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        line = made.stdout.readline()
        assert line
        text += line
    return made, json.loads(text)


def stop(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(20) == 0
    assert process.stdout is not None
    process.stdout.close()


def test_the_doctor_measures_a_link_and_decides(capsys: Any) -> None:
    with mm.Arena.create(nbytes=2**20, ranks=1) as arena, Publisher(arena) as publisher:
        assert main(["net", "doctor", f"127.0.0.1:{publisher.port}", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main(["net", "doctor", f"127.0.0.1:{publisher.port}"]) == 0
        assert "bandwidth" in capsys.readouterr().out
    assert 0 < found["latency_s"] <= found["latency_worst_s"] < 1
    assert found["bandwidth"] > 1e7 and found["lz4_write"] > 1e7
    plain = found["latency_s"] + 25_800_000 / found["bandwidth"]
    assert abs(found["plain_s"] - plain) < 1e-9
    assert len(found["advice"]) == 2


def test_a_mirror_serves_the_processes_of_its_host(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    socket = tmp_path / "mirror"
    process, said = start("net", "mirror", "--arena", "16MiB", "--socket", str(socket))
    with (
        mm.Arena.create(nbytes=2**20, ranks=1) as arena,
        Publisher(arena) as publisher,
        MirrorClient(socket) as client,
    ):
        handle = client.fetch(publisher.publish(inputs()), rank=0)
        assert handle.name == said["arena"]
        with mm.Arena.attach(handle, rank=0) as reader:
            feature = reader.get(handle, library="numpy").items[0].feature
            assert np.array_equal(feature, inputs().items[0].feature)
            del feature
    stop(process)
    assert not socket.exists()


def test_a_folder_is_served_until_the_process_is_told(tmp_path: Path) -> None:
    mm.open_dataset(tmp_path / "folder", create=True).add(inputs())
    process, said = start("serve-dataset", str(tmp_path / "folder"), "--listen", "127.0.0.1:0")
    dataset = mm.open_dataset(said["url"], cache=tmp_path / "cache")
    assert np.array_equal(dataset[0].items[0].feature, inputs().items[0].feature)
    stop(process)


def test_a_folder_is_not_served_to_strangers(tmp_path: Path, capsys: Any) -> None:
    mm.open_dataset(tmp_path / "folder", create=True)
    assert main(["serve-dataset", str(tmp_path / "folder"), "--listen", "0.0.0.0:0"]) == 3
    assert "can be reached by other hosts" in capsys.readouterr().err
