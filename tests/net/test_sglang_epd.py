"""SGLang's encoder and receiver classes between two hosts, hooked by its own registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.net.fleet import MIB, Program
from tests.net.namespaces import Network, network_or_skip

pytest.importorskip("sglang", reason="SGLang is in an environment of its own: `make engines`")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def network() -> Iterator[Network]:
    with network_or_skip(2) as made:
        yield made


def digests(seeds: list[int], tokens: int) -> dict[str, str]:
    import torch
    from blake3 import blake3

    from tests.net.epd_encoder import embedding_of

    def one(seed: int) -> str:
        value = embedding_of(seed, tokens)
        return f"{value.dtype}{blake3(value.view(torch.uint8).numpy().tobytes()).hexdigest()}"

    return {f"r{seed}": one(seed) for seed in seeds}


def test_one_copy_crosses_for_four_ranks_and_a_burst_of_200_waits(network: Network) -> None:
    here, there = network.hosts
    environment: dict[str, Any] = {
        "MMFORMAT_EPD_LISTEN": f"{here.address}:14580",
        "MMFORMAT_EPD_INSECURE": "1",
        "MMFORMAT_EPD_ARENA_NBYTES": str(48 * MIB),
    }
    encoder = Program(here, "tests.net.epd_encoder", {"environment": environment})
    receiver = Program(
        there,
        "tests.net.epd_receiver",
        {"address": there.address, "ranks": 4, "nbytes": 48 * MIB},
    )
    target = {"ports": receiver.said["ports"], "host": there.address}
    nbytes = 4096 * 1024 * 2
    before = there.received_nbytes()
    receiver.tell(do="receive", count=1)
    encoder.ask(do="send", seeds=[0], tokens=4096, **target)
    assert receiver.hear(60)["seen"] == [digests([0], 4096)] * 4
    assert 1.0 <= (there.received_nbytes() - before) / nbytes < 1.05

    seeds = list(range(1, 201))  # 100 MiB in all, in 48 MiB on either side
    receiver.tell(do="receive", count=200)
    encoder.ask(do="send", seeds=seeds, tokens=256, within_s=120, **target)
    said = receiver.hear(120)
    assert said["seen"] == [digests(seeds, 256)] * 4
    assert said["fetched"] == 201
    encoder.stop()
    receiver.stop()
