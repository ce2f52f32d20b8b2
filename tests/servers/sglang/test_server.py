"""A real SGLang 0.5.23 server on the CPU, stock and with the adapter (`make sglang-server`)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

pytest.importorskip("sglang", reason="make sglang-server builds an environment with SGLang")

from tests.servers import chat_requests, tiny_qwen2_vl

pytestmark = pytest.mark.timeout(900)

STUBS = Path(__file__).with_name("stubs")
ARENA = "64MiB"
FLAGS = [
    "--device",
    "cpu",
    "--attention-backend",
    "torch_native",
    "--mm-attention-backend",
    "sdpa",
    "--sampling-backend",
    "pytorch",
    "--grammar-backend",
    "none",
    "--disable-cuda-graph",
    "--disable-overlap-schedule",
    "--max-total-tokens",
    "32768",
    "--context-length",
    "8192",
    "--max-running-requests",
    "16",
    "--skip-server-warmup",
    "--sleep-on-idle",
    "--enable-metrics",
]


class Server:
    """A running server: its port, its log and its processes."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.process = process
        self._log = log

    def lines(self, text: str) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if text in line]

    def schedulers(self) -> list[int]:
        """Return the process ids of the scheduler ranks, TP0 first."""
        listed = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        found = [line.split(None, 1) for line in listed.splitlines()]
        return [
            int(pid)
            for pid, args in sorted(found, key=lambda pair: pair[1])
            if args.startswith("sglang::scheduler")
        ]

    def metric(self, name: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", follow_redirects=True).text
        return sum(
            float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " ")
        )


def ours() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("mmf-*")}


def wait_until(is_true: object, *, timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if is_true():  # type: ignore[operator]
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_qwen2_vl.write(folder)
    return folder


_PORTS = iter(range(30200, 30300, 10))


@contextmanager
def running(
    model: Path, log: Path, *flags: str, arena: str | None = ARENA, tp: int = 2
) -> Iterator[Server]:
    port = next(_PORTS)
    environment = {
        **os.environ,
        "SGLANG_USE_CPU_ENGINE": "1",
        "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join((str(STUBS), os.environ.get("PYTHONPATH", ""))),
    }
    environment.pop("MMFORMAT_SGLANG_ARENA_NBYTES", None)
    if arena is not None:
        environment["MMFORMAT_SGLANG_ARENA_NBYTES"] = arena
    command = [sys.executable, "-W", "ignore", "-m", "sglang.launch_server"]
    command += ["--model-path", str(model), "--served-model-name", "tiny", "--tp-size", str(tp)]
    command += ["--host", "127.0.0.1", "--port", str(port), *FLAGS, *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    server = Server(port, process, log)

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        assert wait_until(is_up, timeout_s=240), log.read_text()[-4000:]
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def test_tokens_logprobs_and_errors_equal_stock(model: Path, tmp_path: Path) -> None:
    def everything(server: Server) -> tuple[object, ...]:
        first = asyncio.run(chat_requests.answers(server.port))
        second = asyncio.run(chat_requests.answers(server.port))
        return first, second, asyncio.run(chat_requests.odd_requests(server.port))

    with running(model, tmp_path / "stock.log", arena=None) as server:
        stock = everything(server)
        assert not server.lines("mmformat is o")
    before = ours()
    with running(model, tmp_path / "adapter.log") as server:
        adapter = everything(server)
        assert len(server.lines("mmformat is on in tokenizer")) == 1
        assert len(server.lines("mmformat is on in scheduler")) == 2
        assert server.metric("mmformat_handles_total") >= 2 * len(chat_requests.SETS)
        assert server.metric("mmformat_bytes_total") > 0
        assert server.metric("mmformat_fallbacks_total") == 0
        _, gone, failed = asyncio.run(chat_requests.aborts(server.port, count=60, within_s=4))
        assert gone and not failed
        # Idle gives every slot back: the whole arena is free for the next request.
        assert wait_until(lambda: server.metric("mmformat_slots_granted") == 0, timeout_s=20), (
            server.metric("mmformat_slots_granted")
        )
        # Every rank has attached: the memory has no name, and goes with the last process.
        assert ours() == before
    assert adapter == stock


@pytest.mark.parametrize("victim", ["tokenizer", "TP1"])
def test_nothing_is_left_after_a_kill(model: Path, tmp_path: Path, victim: str) -> None:
    before = ours()
    with running(model, tmp_path / "kill.log") as server:
        asyncio.run(chat_requests.answers(server.port))
        ranks = server.schedulers()
        assert len(ranks) == 2
        os.kill(server.process.pid if victim == "tokenizer" else ranks[1], signal.SIGKILL)
        server.process.wait(60)
        assert wait_until(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), timeout_s=60
        )
        assert ours() == before


def test_a_removed_name_is_survived(model: Path, tmp_path: Path) -> None:
    before = ours()
    with running(model, tmp_path / "lost.log") as server:
        (name,) = ours() - before
        Path("/dev/shm", name).unlink()
        assert [part["status"] for part in asyncio.run(chat_requests.answers(server.port))] == [
            200
        ] * len(chat_requests.SETS)
        assert server.metric("mmformat_arenas_lost_total") == 1


def test_each_tokenizer_worker_has_an_arena(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path / "workers.log", "--tokenizer-worker-num", "2") as server:
        replies = asyncio.run(chat_requests.answers(server.port, concurrent=4))
        assert {part["status"] for part in replies} == {200}
        assert len(server.lines("mmformat is on in tokenizer")) == 2


def test_data_parallel_ranks_turn_it_off_with_a_line(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path / "dp.log", "--dp-size", "2", tp=1) as server:
        replies = asyncio.run(chat_requests.answers(server.port))
        assert {part["status"] for part in replies} == {200}
        assert server.lines("mmformat is off in tokenizer")
        assert not server.lines("mmformat is on")
