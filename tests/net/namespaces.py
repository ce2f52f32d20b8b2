"""Hosts of a test: network namespaces on one bridge, each with its own link and addresses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

__all__ = ["Host", "Network", "network_or_skip"]

ROOT = Path(__file__).parents[2]


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if check and done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Host:
    """Hold one namespace, its address, and the processes that run in it."""

    name: str
    address: str
    link: str
    network: Network
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python program of the tests in this host; it talks by lines."""
        command = ["ip", "netns", "exec", self.name, sys.executable, "-m", program, *arguments]
        made = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(made)
        return made

    def received_nbytes(self) -> int:
        """Bytes that the interface of this host received, frames' headers too."""
        return self._count("rx")

    def sent_nbytes(self) -> int:
        """Bytes that the interface of this host sent."""
        return self._count("tx")

    def _count(self, name: str) -> int:
        said = json.loads(_run("ip", "-n", self.name, "-s", "-j", "link", "show", "eth0"))
        return int(said[0]["stats64"][name]["bytes"])

    def partition(self) -> None:
        """Take the link down at the bridge: packets vanish, nobody is told."""
        _run("ip", "link", "set", self.link, "nomaster")

    def heal(self) -> None:
        """Join the bridge again."""
        _run("ip", "link", "set", self.link, "master", self.network.bridge)

    def slow(self, rate: str) -> None:
        """Bound the rate at which this host is sent to, and sends, as ``1gbit``."""
        for prefix, device in (((), self.link), (("ip", "netns", "exec", self.name), "eth0")):
            # A bucket of 5 ms at the rate, 64 KiB at least, or large rates are not reached.
            shape = ("root", "tbf", "rate", rate, "burst", "1mb", "latency", "400ms")
            _run(*prefix, "tc", "qdisc", "replace", "dev", device, *shape)


class Network:
    """Make hosts on one bridge, and remove them with all their processes."""

    def __init__(self, count: int, *, mtu: int = 1500) -> None:
        mark = f"{os.getpid() % 10**6}"
        self.bridge = f"mmfb{mark}"
        self.hosts: list[Host] = []
        octet = os.getpid() % 250 + 1
        try:
            _run("ip", "link", "add", self.bridge, "mtu", str(mtu), "type", "bridge")
            _run("ip", "link", "set", self.bridge, "up")
            for number in range(count):
                name, link = f"mmf{mark}n{number}", f"mmf{mark}v{number}"
                host = Host(name, f"10.77.{octet}.{number + 1}", link, self)
                _run("ip", "netns", "add", name)
                self.hosts.append(host)
                _run(
                    *("ip", "link", "add", link, "mtu", str(mtu), "type", "veth"),
                    *("peer", "name", "eth0", "mtu", str(mtu), "netns", name),
                )
                _run("ip", "link", "set", link, "master", self.bridge, "up")
                inside = ("ip", "-n", name)
                _run(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
                _run(*inside, "link", "set", "eth0", "up")
                _run(*inside, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill what still runs, by its id, and remove namespaces and bridge."""
        for host in self.hosts:
            for process in host.processes:
                with contextlib.suppress(OSError):
                    process.kill()
                process.wait(20)
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        with contextlib.suppress(OSError):
                            stream.close()
            _run("ip", "netns", "del", host.name, check=False)
            _run("ip", "link", "del", host.link, check=False)
        _run("ip", "link", "del", self.bridge, check=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def network_or_skip(count: int, **options: Any) -> Iterator[Network]:
    """Make a network of hosts, or skip by the name of what is missing."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need Debian's iproute2")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        made = Network(count, **options)
    except OSError as error:
        pytest.skip(f"this kernel makes no network namespaces: {error}")
    with made:
        yield made
