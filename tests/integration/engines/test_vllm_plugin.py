"""vLLM's plugin hooks, around the real classes with constructors that start no engine."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest

import mmformat as mm
from mmformat.adapters.vllm import plugin
from mmformat.adapters.vllm.shared import ARENA_VARIABLE
from tests.integration.engines.real import module, needs

needs("vllm")  # first: the next module is skipped half-way where vLLM is absent

from tests.integration.engines.test_vllm import picture, request  # noqa: E402

clients = module("vllm.v1.engine.core_client")
core = module("vllm.v1.engine.core")
workers = module("vllm.v1.worker.worker_base")
serial = module("vllm.v1.serial_utils")

pytestmark = [
    pytest.mark.timeout(600),
    # vLLM's own decoder over bytes that may not be written to.
    pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning"),
]


def config(**changes: Any) -> Any:
    """Return the parts of a VllmConfig that the plugin reads."""
    media = {
        "mm_processor_cache_gb": 4.0,
        "mm_processor_cache_type": "lru",
        "mm_tensor_ipc": "direct_rpc",
    }
    parallel = {
        "world_size": 2,
        "data_parallel_size": 1,
        "data_parallel_external_lb": False,
        "nnodes": 1,
        "distributed_executor_backend": "mp",
        "_api_process_count": 1,
    }
    for name, value in changes.items():
        (media if name in media else parallel)[name] = value
    multimodal = types.SimpleNamespace(**media)
    return types.SimpleNamespace(
        model_config=types.SimpleNamespace(
            multimodal_config=multimodal,
            supports_multimodal_inputs=True,
            get_multimodal_config=lambda: multimodal,
        ),
        parallel_config=types.SimpleNamespace(**parallel),
    )


@pytest.fixture
def sent() -> list[Any]:
    return []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, sent: list[Any]) -> Iterator[None]:
    """Install the plugin around constructors that start no process, and take it out again."""

    def start(client: Any, asyncio_mode: bool, vllm_config: Any) -> None:
        client.encoder = serial.MsgpackEncoder()

    async def add(client: Any, each: Any) -> None:
        sent.append((threading.current_thread(), client.encoder.encode(each)))

    monkeypatch.setattr(clients.MPClient, "__init__", start)
    monkeypatch.setattr(clients.MPClient, "shutdown", lambda _client: None)
    monkeypatch.setattr(clients.AsyncMPClient, "add_request_async", add)
    monkeypatch.setattr(clients.MPClient, plugin._MARK, False, raising=False)
    monkeypatch.setattr(core, "MsgpackDecoder", core.MsgpackDecoder)
    wrapper = workers.WorkerWrapperBase
    monkeypatch.setattr(wrapper, "init_device", wrapper.init_device)
    owner = plugin._cache_choice()
    monkeypatch.setattr(owner, plugin._CACHE_CHOICE, getattr(owner, plugin._CACHE_CHOICE))
    monkeypatch.setenv(plugin.VARIABLE, "16MiB")
    monkeypatch.setenv(ARENA_VARIABLE, "")
    monkeypatch.setenv(plugin.INLINE_VARIABLE, "100kB")
    plugin.register()
    return


def client_of(vllm_config: Any) -> Any:
    client = object.__new__(clients.AsyncMPClient)
    clients.MPClient.__init__(client, asyncio_mode=True, vllm_config=vllm_config)
    return client


def test_without_the_variable_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plugin.VARIABLE, raising=False)
    before = clients.MPClient.__init__, core.MsgpackDecoder
    plugin.register()
    assert (clients.MPClient.__init__, core.MsgpackDecoder) == before


def test_a_variable_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.VARIABLE, "much")
    with pytest.raises(mm.ModelError, match="MMFORMAT_VLLM_ARENA_NBYTES"):
        plugin.register()


@pytest.mark.usefixtures("server")
def test_a_request_is_put_outside_the_event_loop_and_sent_as_a_handle(
    sent: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="vllm.mmformat"):
        client = client_of(config())
    assert f"mmformat is on: arena {client.mmformat.name}" in caplog.text
    assert os.environ[ARENA_VARIABLE] == client.mmformat.name
    putting = []
    share = client.encoder.share

    def shared(each: Any) -> Any:
        putting.append(threading.current_thread())
        return share(each)

    client.encoder.share = shared
    asyncio.run(clients.AsyncMPClient.add_request_async(client, request(picture())))
    asyncio.run(clients.AsyncMPClient.add_request_async(client, request(picture(rows=2))))
    (large_thread, large), (_, small) = sent
    assert large_thread is threading.main_thread()
    assert [thread.name for thread in putting] == ["mmformat-put_0"]
    made = core.MsgpackDecoder(module("vllm.v1.engine").EngineCoreRequest)
    item = made.decode([bytes(frame) for frame in large]).mm_features[0].data
    assert item.handle
    inline = made.decode([bytes(frame) for frame in small]).mm_features[0].data
    assert not hasattr(inline, "handle")
    assert client.mmformat.stats().slots_granted == 1
    name = client.mmformat.name
    clients.MPClient.shutdown(client)
    with pytest.raises(mm.TransportError):
        mm.Arena.attach(name, rank=0)


@pytest.mark.usefixtures("server")
def test_the_processor_cache_keeps_its_items_in_the_api_server() -> None:
    owner = plugin._cache_choice()
    choose = getattr(owner, plugin._CACHE_CHOICE)
    assert choose(config()) == "processor_only"
    assert choose(config(mm_processor_cache_gb=0)) is None
    assert choose(config(mm_tensor_ipc="torch_shm")) == "lru"


OFF = [
    ({"data_parallel_size": 2}, "data parallel"),
    ({"nnodes": 2}, "several hosts"),
    ({"distributed_executor_backend": "ray"}, "'ray'"),
    ({"mm_tensor_ipc": "torch_shm"}, "--mm-tensor-ipc"),
    ({"mm_processor_cache_type": "shm"}, "--mm-processor-cache-type shm"),
    ({"world_size": 65}, "at most 64 ranks"),
]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("changes", "reason"), OFF)
def test_what_is_not_supported_turns_it_off_with_a_reason(
    changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(config(**changes))
    assert type(client.encoder._encode_mm_item).__name__ == "method"  # vLLM's own
    assert not hasattr(client, "mmformat")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "vllm.mmformat"]
    assert line.startswith("mmformat is off: ")
    assert reason in line


@pytest.mark.usefixtures("server")
def test_metrics_count_items_by_the_way_they_took() -> None:
    import prometheus_client

    def items(way: str) -> float:
        value = prometheus_client.REGISTRY.get_sample_value("mmformat_items_total", {"way": way})
        return value or 0.0

    client = client_of(config())
    before = {way: items(way) for way in ("handle", "hit", "inline", "fallback")}
    for item in (picture(), picture(), picture(rows=2), picture(rows=9000)):
        client.encoder.encode(client.encoder.share(request(item)))
    assert {way: items(way) - count for way, count in before.items()} == {
        "handle": 1,
        "hit": 1,
        "inline": 1,
        "fallback": 1,
    }
    clients.MPClient.shutdown(client)
