"""Producers and consumers in namespaces, driven by lines of JSON."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from typing import Any

from blake3 import blake3

from tests.net.namespaces import Host
from tests.net.producer import payload

__all__ = ["Program", "consumer", "digest_of", "producer"]

MIB = 2**20


class Program:
    """Hold one process of a host, and ask it for one thing after the other."""

    def __init__(self, host: Host, module: str, options: dict[str, Any]) -> None:
        self.host = host
        self._module, self._options = module, options
        self.process: subprocess.Popen[str]
        self.pid = 0
        self.said: dict[str, Any] = {}
        self.start()

    def start(self) -> None:
        """Start it, at first or after a kill."""
        self.process = self.host.start(self._module, json.dumps(self._options))
        self.said = self.hear(60)
        self.pid = self.said["pid"]

    def tell(self, **asked: Any) -> None:
        """Ask without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()

    def hear(self, timeout_s: float = 60) -> dict[str, Any]:
        """Wait for one answer."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        assert ready, f"{self._module} said nothing for {timeout_s} s"
        line = self.process.stdout.readline()
        assert line, f"{self._module} ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, *, within_s: float = 60, **asked: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.tell(**asked)
        return self.hear(within_s)

    def kill(self) -> None:
        """End it by SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> None:
        """Let it end, and see that it ended well."""
        self.tell(do="stop")
        assert self.process.wait(30) == 0


def producer(host: Host, **options: Any) -> Program:
    """Start a producing host."""
    defaults = {"address": host.address, "nbytes": 256 * MIB}
    return Program(host, "tests.net.producer", defaults | options)


def consumer(host: Host, **options: Any) -> Program:
    """Start a consuming host with its ranks."""
    return Program(host, "tests.net.consumer", {"nbytes": 256 * MIB, "ranks": 4} | options)


def digest_of(seed: int, nbytes: int) -> str:
    """Return what each rank must see."""
    return str(blake3(payload(seed, nbytes).items[0].feature.data).hexdigest())


def until(holds: Any, timeout_s: float = 10) -> bool:
    """Ask again until it holds."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True
