"""Every example runs, as its own text says, in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
import yaml

from mmformat._sizes import parse_nbytes
from mmformat.shm.doctor import needed_nbytes

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def _start(name: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-u", EXAMPLES / name, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )


def _end(process: subprocess.Popen[str]) -> str:
    try:
        text, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0, text
    return text


def test_two_terminals(photos: dict[str, Path], tmp_path: Path) -> None:
    socket = tmp_path / "s"
    chosen = [photos["rocket-640x427.jpg"], photos["astronaut-face-224.png"]]
    producer = _start("producer.py", *chosen, "--ranks", 2, "--socket", socket)
    assert producer.stdout is not None
    first = producer.stdout.readline()
    if "start 2 times" not in first:
        raise AssertionError(first + _end(producer))
    ranks = [_start("rank.py", "--socket", socket) for _ in range(2)]
    seen = [_end(rank) for rank in ranks]
    told = _end(producer)
    digests = [{line.split()[-1] for line in text.splitlines()} for text in seen]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2, "two photographs"
    for digest in digests[0]:
        assert f"{{'{digest}'}}" in told


def test_the_tokenizer(photos: dict[str, Path]) -> None:
    chosen = [photos["rocket-640x427.jpg"], photos["astronaut-face-224.png"]] * 3
    text = _end(_start("tokenizer.py", *chosen))
    assert "6 requests" in text
    assert text.count("rocket") == text.count("astronaut") == 3


def test_the_service(photos: dict[str, Path], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "examples.service:app", "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
    url = f"http://127.0.0.1:{port}/images"
    try:
        deadline_s = time.monotonic() + 60
        while True:
            try:
                answer = httpx.post(url, content=photos["rocket-640x427.jpg"].read_bytes())
                break
            except httpx.ConnectError:
                assert server.poll() is None, "the service ended"
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert len(told["ranks"]) == 2
        assert len(set(told["ranks"])) == 1, "both ranks saw the same"
        assert told["handle_nbytes"] < 256
        refused = httpx.post(url, content=b"this is no image")
        assert refused.status_code == 422
        assert httpx.post(url, content=bytes(17 * 2**20)).status_code == 413
    finally:
        server.terminate()
        server.wait(timeout=60)


def test_tables(photos: dict[str, Path], tmp_path: Path) -> None:
    message = tmp_path / "x.arrows"
    encode = [sys.executable, "-m", "mmformat", "encode", photos["rocket-640x427.jpg"]]
    subprocess.run([*encode, "-o", message], check=True, env=ENVIRONMENT, timeout=100)
    text = _end(_start("tables.py", message))
    assert text.count("IMAGE") == 2


def test_the_containers_have_room_for_the_demo() -> None:
    compose = yaml.safe_load((EXAMPLES / "compose" / "compose.yaml").read_text())
    needed = needed_nbytes(requests=32, request_nbytes=25_800_000)
    assert parse_nbytes(compose["services"]["server"]["shm_size"]) > needed
    pod = yaml.safe_load((EXAMPLES / "kubernetes" / "server.yaml").read_text())
    (shm,) = pod["spec"]["volumes"]
    assert parse_nbytes(shm["emptyDir"]["sizeLimit"]) > needed


@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_the_manifest_is_valid(version: str) -> None:
    pod = yaml.safe_load((EXAMPLES / "kubernetes" / "server.yaml").read_text())
    kubernetes_validate.validate(pod, version, strict=True)
    pod["spec"]["volumes"][0]["emptyDir"]["sizelimit"] = "2Gi"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, version, strict=True)


def test_the_notebook_is_the_tutorial(
    photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [sys.executable, ROOT / "docs" / "site" / "notebook.py", "--check"]
    assert subprocess.run(made, check=False, timeout=60).returncode == 0, "run: make notebook"
    book = json.loads((EXAMPLES / "tutorial.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5
    shutil.copy(photos["rocket-640x427.jpg"], tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        exec(compile(cell, "tutorial.ipynb", "exec"), namespace)
