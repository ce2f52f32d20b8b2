"""SGLang 0.5.23's own plugin registry installs the adapter where it is asked for."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import pytest

from mmformat.adapters.sglang.plugin import VARIABLE, register
from tests.integration.engines.real import has, module, needs

needs("sglang")
if not hasattr(module("sglang.srt.managers.mm_utils"), "wrap_shm_features"):
    pytest.skip("SGLang 0.5.5 has no plugins", allow_module_level=True)

pytestmark = pytest.mark.timeout(600)

managers = module("sglang.srt.managers.tokenizer_manager")
schedulers = module("sglang.srt.managers.scheduler")
receivers = module("sglang.srt.managers.scheduler_components.request_receiver")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give the registry, with constructors that need neither a model nor a device."""

    def manager(self: Any) -> None:
        self.server_args = types.SimpleNamespace(tp_size=2, dp_size=1, nnodes=1)
        self.send_to_scheduler = None

    def scheduler(self: Any) -> None:
        self.server_args = types.SimpleNamespace(dp_size=1, nnodes=1)
        self.model_config = types.SimpleNamespace(requires_mm_token_modalities=False)
        self.tp_rank = 1

    monkeypatch.setattr(managers.TokenizerManager, "__init__", manager)
    monkeypatch.setattr(schedulers.Scheduler, "__init__", scheduler)
    registry = module("sglang.srt.plugins.hook_registry").HookRegistry
    registry.reset()
    yield registry
    registry.reset()


def test_a_server_that_asks_for_it_has_it(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(2**20))
    wrap, has_shm = managers.wrap_shm_features, receivers.has_shm_features
    register()
    registry.apply_hooks()
    manager, scheduler = managers.TokenizerManager(), schedulers.Scheduler()
    installed = manager.mmformat
    arena = installed.announcer.arena
    assert arena.stats().nbytes >= 2**20
    assert managers.wrap_shm_features is not wrap
    assert receivers.has_shm_features is not has_shm
    scheduler.mmformat.remove()
    installed.remove()
    arena.close()
    assert (managers.wrap_shm_features, receivers.has_shm_features) == (wrap, has_shm)


def test_a_server_that_does_not_is_left_alone(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert has("sglang")
    monkeypatch.delenv(VARIABLE, raising=False)
    wrap = managers.wrap_shm_features
    register()
    registry.apply_hooks()
    assert not hasattr(managers.TokenizerManager(), "mmformat")
    assert managers.wrap_shm_features is wrap
    assert not registry._hooks
