"""vLLM's encoder-cache connector between two hosts, by the real factory in the worker's order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.net.fleet import MIB, Program
from tests.net.namespaces import Network, network_or_skip

pytest.importorskip("vllm", reason="vLLM is in an environment of its own: `make engines`")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture
def network() -> Iterator[Network]:
    with network_or_skip(2) as made:
        yield made


def instances(network: Network, *, tp: int = 4, **more: Any) -> tuple[Program, Program]:
    here, there = network.hosts
    extra = {"listen": f"{here.address}:14579", "insecure": True, "arena_nbytes": 128 * MIB}
    module = "tests.net.ec_instance"
    encoder = Program(here, module, {"role": "encoder", "extra": extra | more})
    asks = {"producers": [f"grpc://{here.address}:14579"], "insecure": True} | more
    prefill = Program(there, module, {"role": "prefill", "extra": asks, "tp": tp})
    return encoder, prefill


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float8_e4m3fn"])
def test_every_worker_loads_what_crossed_once_with_its_own_dtype(
    network: Network, dtype: str
) -> None:
    encoder, prefill = instances(network)
    made = encoder.ask(do="encode", seed=1, tokens=4096, dtype=dtype, mm_hash="image")
    before = prefill.host.received_nbytes()
    said = prefill.ask(do="prefill", mm_hashes=["image"])
    assert said["seen"] == [{"image": made["digest"]}] * 4
    assert said["deferred"] > 0 and said["found"] == [True]
    assert 1.0 <= (prefill.host.received_nbytes() - before) / made["nbytes"] <= 1.04
    again = prefill.host.received_nbytes()
    assert prefill.ask(do="prefill", mm_hashes=["image"])["seen"] == said["seen"]
    assert prefill.host.received_nbytes() - again < 10_000
    encoder.stop()
    prefill.stop()


def test_a_clients_name_is_only_data_and_what_is_nowhere_is_encoded_here(
    network: Network,
) -> None:
    encoder, prefill = instances(network)
    name = "../../../tmp/evil\0\udcff"
    made = encoder.ask(do="encode", seed=2, tokens=64, dtype="bfloat16", mm_hash=name)
    said = prefill.ask(do="prefill", mm_hashes=[name, "never encoded"])
    assert said["found"] == [True, False]
    assert said["seen"] == [{name: made["digest"]}] * 4
    assert said["failed"] == []
    encoder.stop()
    prefill.stop()


def test_an_instance_without_an_encoder_fails_what_is_nowhere(network: Network) -> None:
    encoder, prefill = instances(network, fail_missing=True)
    assert prefill.ask(do="prefill", mm_hashes=["never encoded"])["failed"] == ["r"]
    encoder.stop()
    prefill.stop()


def test_the_least_recently_used_goes_when_the_encoder_is_full(network: Network) -> None:
    encoder, prefill = instances(network, tp=1, arena_nbytes=16 * MIB)
    kept = [
        encoder.ask(do="encode", seed=n, tokens=2048, dtype="bfloat16", mm_hash=f"image {n}")[
            "kept"
        ]
        for n in range(6)
    ]
    assert max(kept) == kept[-1] == 3  # of 4 MiB each, in 16 MiB
    said = prefill.ask(do="prefill", mm_hashes=["image 0", "image 5"])
    assert said["found"] == [False, True]
    encoder.stop()
    prefill.stop()
