"""Two hosts as network namespaces: rates, bytes on the wire and times at bounded rates.

``sudo python -m benchmarks.net.hosts [--repeats 9] [--output FILE]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.net.fleet import Program
from tests.net.namespaces import Network
from tests.support.certificates import make_certificates

MODULE = "benchmarks.net.peer"


def summary(values: list[float]) -> dict[str, float]:
    """Return median, quartiles and number."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "q1": low, "q3": high, "n": len(values)}


class Pair:
    """Hold a source and a sink on two hosts."""

    def __init__(self, network: Network, *, ranks: int, kinds: list[str], **more: Any) -> None:
        here, there = network.hosts
        options = {"role": "source", "address": here.address, "kinds": kinds}
        self.source = Program(here, MODULE, options | more)
        options = {"role": "sink", "address": there.address, "ranks": ranks}
        self.sink = Program(there, MODULE, options | more)
        assert self.source.process.stdout is not None
        self.port = self.source.said["port"]

    def fetch(self, kind: str, **more: Any) -> dict[str, Any]:
        published = self.source.ask(do="publish", kind=kind)
        before = self.sink.host.received_nbytes()
        took = self.sink.ask(do="fetch", remote=published["remote"], within_s=120, **more)
        wire = self.sink.host.received_nbytes() - before
        return took | {"wire_nbytes": wire, "nbytes": published["nbytes"]}

    def socket(self, kind: str, nbytes: int) -> float:
        asked = {"do": "socket", "host": self.source.host.address, "port": self.port}
        return float(self.sink.ask(**asked, kind=kind, nbytes=nbytes, within_s=120)["fetch_s"])

    def epd(self, kind: str, ranks: int) -> dict[str, Any]:
        endpoints = self.sink.ask(do="listen", ranks=ranks)["endpoints"]
        before = self.sink.host.received_nbytes()
        self.sink.tell(do="pull")
        self.source.tell(do="epd", kind=kind, endpoints=endpoints)
        took = self.sink.hear(120)
        self.source.hear(120)
        return took | {"wire_nbytes": self.sink.host.received_nbytes() - before}

    def stop(self) -> None:
        self.source.stop()
        self.sink.stop()


def rates(network: Network, repeats: int) -> dict[str, Any]:
    """Fetch 200 MB beside a bare socket, plain and over TLS, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        make_certificates(Path(folder), addresses=tuple(h.address for h in network.hosts))
        plain = Pair(network, ranks=0, kinds=["large"])
        secure = Pair(network, ranks=0, kinds=["large"], certificates=folder)
        took: dict[str, list[float]] = {"socket": [], "plain": [], "tls": []}
        for number in range(repeats + 2):
            one = {
                "socket": plain.socket("large", 200_000_000),
                "plain": plain.fetch("large")["fetch_s"],
                "tls": secure.fetch("large")["fetch_s"],
            }
            if number >= 2:
                for name, value in one.items():
                    took[name].append(value)
        state = plain.sink.ask(do="state")
        plain.stop()
        secure.stop()
    medians = {name: summary(values) for name, values in took.items()}
    ratio = medians["socket"]["median"] / medians["plain"]["median"]
    tls = medians["socket"]["median"] / medians["tls"]["median"]
    return {
        "seconds": medians,
        "plain_of_socket": ratio,
        "tls_of_socket": tls,
        "mirror_grown_mb": state["grown_kib"] / 1024,
        "samples": took,
    }


def wire(network: Network) -> dict[str, Any]:
    """Count bytes on the interface: ranks, codes, and what SGLang's EPD sends."""
    found: dict[str, Any] = {}
    for ranks in (1, 2, 4, 8):
        pair = Pair(network, ranks=ranks, kinds=["patches", "codes"])
        pair.fetch("codes")
        one = pair.fetch("patches")
        found[f"tp{ranks}"] = one["wire_nbytes"] / one["nbytes"]
        if ranks == 4:
            codes = pair.fetch("codes")
            epd = pair.epd("patches", ranks)
            found["codes_nbytes"] = codes["wire_nbytes"]
            found["epd_nbytes"] = epd["wire_nbytes"]
            found["epd_over_codes"] = epd["wire_nbytes"] / codes["wire_nbytes"]
        pair.stop()
    return found


def bounded(network: Network, rate: str, repeats: int) -> dict[str, Any]:
    """Time until the last of four remote ranks touched every page, at a bounded rate."""
    pair = Pair(network, ranks=4, kinds=["patches", "codes"])
    for host in network.hosts:
        host.slow(rate)
    took: dict[str, list[float]] = {"plain": [], "codes": [], "codes_expanded": [], "epd": []}
    for number in range(repeats + 1):
        one = {
            "plain": pair.fetch("patches")["last_s"],
            "codes": pair.fetch("codes")["last_s"],
            "codes_expanded": pair.fetch("codes", expand=True)["last_s"],
            "epd": pair.epd("patches", 4)["last_s"],
        }
        if number:
            for name, value in one.items():
                took[name].append(value)
    pair.stop()
    medians = {name: summary(values) for name, values in took.items()}
    return {
        "seconds": medians,
        "codes_of_plain": medians["codes"]["median"] / medians["plain"]["median"],
        "codes_of_epd": medians["codes"]["median"] / medians["epd"]["median"],
        "samples": took,
    }


def leases(network: Network) -> float:
    """Return the bytes of one lease, from 4,000 of one message."""
    pair = Pair(network, ranks=0, kinds=["codes"])
    remote = pair.source.ask(do="publish", kind="codes", hosts=10**6)["remote"]
    grown = pair.source.ask(do="leases", remotes=[remote], count=4000)["nbytes"]
    pair.stop()
    return float(grown / 4000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=("rates", "wire", "1gbit", "10gbit", "leases"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"cores": os.cpu_count(), "kernel": os.uname().release}
    runs = {
        "rates": lambda network: rates(network, arguments.repeats),
        "wire": wire,
        "1gbit": lambda network: bounded(network, "1gbit", arguments.repeats),
        "10gbit": lambda network: bounded(network, "10gbit", arguments.repeats),
        "leases": leases,
    }
    for name, run in runs.items():
        if arguments.only in (None, name):
            with Network(2, mtu=9000) as network:
                found[name] = run(network)
            shown = found[name]
            if isinstance(shown, dict):
                shown = {key: value for key, value in shown.items() if key != "samples"}
            print(name, json.dumps(shown, indent=1), flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
