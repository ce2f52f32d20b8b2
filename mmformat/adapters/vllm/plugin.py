"""vLLM's general plugin: one environment variable makes a server carry its media by handle."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from mmformat._extras import require
from mmformat._sizes import parse_nbytes
from mmformat.adapters.vllm.serial import mm_decoder, mm_encoder
from mmformat.adapters.vllm.shared import ARENA_VARIABLE, attach
from mmformat.arena import Arena
from mmformat.errors import MMFormatError

__all__ = ["INLINE_VARIABLE", "VARIABLE", "register", "why_off"]

VARIABLE: Final = "MMFORMAT_VLLM_ARENA_NBYTES"
"""The arena's size, as ``8GiB``; the plugin does nothing if it is not set."""

INLINE_VARIABLE: Final = "MMFORMAT_VLLM_INLINE_BELOW_NBYTES"
"""Items with fewer bytes are sent by vLLM as before; 2 MiB if it is not set."""

_INLINE_BELOW: Final = "2MiB"
_MOST_RANKS: Final = 64
_LOG: Final = logging.getLogger("vllm.mmformat")
_CACHES: Final = (
    ("vllm.multimodal.cache.factories", None),
    ("vllm.multimodal.registry", "MultiModalRegistry"),
)
"""Where versions of vLLM choose the kind of their processor cache."""

_CACHE_CHOICE: Final = "_get_cache_type"
_MARK: Final = "mmformat_installed"


def register() -> None:
    """Install the hooks in this process, if the variable is set.

    vLLM calls it in every process of a server by the entry point of the group
    ``vllm.general_plugins``. With the variable unset nothing changes.

    Raises
    ------
    ModelError
        If the variable is not a size.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return
    nbytes = parse_nbytes(text, path=VARIABLE)
    inline_below = parse_nbytes(os.environ.get(INLINE_VARIABLE) or _INLINE_BELOW)
    clients = require("vllm.v1.engine.core_client", extra="vllm")
    core = require("vllm.v1.engine.core", extra="vllm")
    workers = require("vllm.v1.worker.worker_base", extra="vllm")
    if getattr(clients.MPClient, _MARK, False):
        return
    missing = [
        name
        for owner, name in (
            (clients, "MPClient.__init__"),
            (clients, "MPClient.shutdown"),
            (clients, "AsyncMPClient.add_request_async"),
            (core, "MsgpackDecoder"),
            (workers, "WorkerWrapperBase.init_device"),
        )
        if not _has(owner, name)
    ]
    if missing:
        _LOG.warning("mmformat is off: this vLLM has no %s", ", ".join(missing))
        return
    setattr(clients.MPClient, _MARK, True)
    _wrap_cache_choice()
    _wrap_clients(clients, nbytes, inline_below)
    _wrap_decoder(core)
    _wrap_workers(workers)


def why_off(config: Any) -> str | None:
    """Return why a server with this VllmConfig cannot carry media by handle, or None.

    The answer depends on the configuration alone, so that all processes agree.
    """
    media = getattr(config.model_config, "multimodal_config", None)
    parallel = config.parallel_config
    backend = getattr(parallel, "distributed_executor_backend", None)
    cached = float(getattr(media, "mm_processor_cache_gb", 0) or 0) > 0
    checks: tuple[tuple[bool, str], ...] = (
        (media is None, "the model takes no media"),
        (
            getattr(parallel, "data_parallel_size", 1) > 1,
            "data parallel engines have ranks that never see a request",
        ),
        (getattr(parallel, "nnodes", 1) > 1, "the workers are on several hosts"),
        (
            backend not in (None, "mp", "uni"),
            f"the executor is {backend!r}, not multiprocessing",
        ),
        (
            getattr(media, "mm_tensor_ipc", "direct_rpc") != "direct_rpc",
            "--mm-tensor-ipc sends tensors another way",
        ),
        (
            cached and getattr(media, "mm_processor_cache_type", "lru") == "shm",
            "--mm-processor-cache-type shm sends items another way",
        ),
        (
            cached and _cache_choice() is None,
            "this vLLM's processor cache is unknown: set --mm-processor-cache-gb 0",
        ),
        (parallel.world_size > _MOST_RANKS, f"an arena has at most {_MOST_RANKS} ranks"),
    )
    return next((reason for applies, reason in checks if applies), None)


def _has(owner: Any, path: str) -> bool:
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner is not None


def _cache_choice() -> Any:
    """Return the module or class whose function chooses the processor cache, or None."""
    for module, name in _CACHES:
        with contextlib.suppress(ImportError):
            owner: Any = importlib.import_module(module)
            if name is not None:
                owner = getattr(owner, name, None)
            if hasattr(owner, _CACHE_CHOICE):
                return owner
    return None


def _wrap_cache_choice() -> None:
    """Keep cached items in the API server, as vLLM does where it runs several of them.

    The engine core then keeps no items, so no handle is used twice. An item that is cached goes
    through the arena again, which knows its identifier and copies nothing.
    """
    owner = _cache_choice()
    if owner is None:
        return
    original = getattr(owner, _CACHE_CHOICE)

    @functools.wraps(original)
    def choose(*args: Any, **options: Any) -> Any:
        kind = original(*args, **options)
        config = next(
            (a for a in (*args, *options.values()) if hasattr(a, "parallel_config")), None
        )
        if kind == "lru" and config is not None and why_off(config) is None:
            return "processor_only"
        return kind

    setattr(owner, _CACHE_CHOICE, choose)


def _wrap_clients(clients: Any, nbytes: int, inline_below: int) -> None:
    start, stop = clients.MPClient.__init__, clients.MPClient.shutdown
    parameters = inspect.signature(start)

    @functools.wraps(start)
    def started(client: Any, *args: Any, **options: Any) -> None:
        config = parameters.bind(client, *args, **options).arguments["vllm_config"]
        arena = _arena_for(config, nbytes)
        if arena is None:
            start(client, *args, **options)
            return
        os.environ[ARENA_VARIABLE] = arena.name  # workers attach, and pin, when they start
        try:
            start(client, *args, **options)
            client.encoder = mm_encoder(
                arena=arena,
                trusts_hashes=True,
                inline_below_nbytes=inline_below,
                observe=_metrics(),
                oob_tensor_consumer=client.encoder.oob_tensor_consumer,
            )
        except BaseException:
            arena.close()
            raise
        client.mmformat = arena
        client.mmformat_thread = ThreadPoolExecutor(1, thread_name_prefix="mmformat-put")
        _LOG.info(
            "mmformat is on: arena %s of %d bytes for %d ranks; items of %d bytes and more go by "
            "handle",
            arena.name, nbytes, config.parallel_config.world_size, inline_below,
        )  # fmt: skip

    @functools.wraps(stop)
    def stopped(client: Any, *args: Any, **options: Any) -> None:
        try:
            stop(client, *args, **options)
        finally:
            arena = client.__dict__.pop("mmformat", None)
            if arena is not None:
                client.mmformat_thread.shutdown()
                client.encoder.returns.close()
                arena.close()

    clients.MPClient.__init__, clients.MPClient.shutdown = started, stopped
    add = clients.AsyncMPClient.add_request_async

    @functools.wraps(add)
    async def added(client: Any, request: Any) -> None:
        if "mmformat" in client.__dict__ and client.encoder.is_large(request):
            loop = asyncio.get_running_loop()
            request = await loop.run_in_executor(
                client.mmformat_thread, client.encoder.share, request
            )
        await add(client, request)

    clients.AsyncMPClient.add_request_async = added


def _arena_for(config: Any, nbytes: int) -> Arena | None:
    reason = why_off(config)
    if reason is None:
        try:
            return Arena.create(nbytes=nbytes, ranks=config.parallel_config.world_size)
        except MMFormatError as error:
            reason = str(error)
    _LOG.warning("mmformat is off: %s", reason)
    return None


def _wrap_decoder(core: Any) -> None:
    def decoder(kind: Any = None, **options: Any) -> Any:
        return mm_decoder(kind, **options)

    core.MsgpackDecoder = decoder


def _wrap_workers(workers: Any) -> None:
    start = workers.WorkerWrapperBase.init_device

    @functools.wraps(start)
    def started(worker: Any) -> Any:
        made = start(worker)
        if why_off(worker.vllm_config) is None:
            attach(worker.global_rank)
        return made

    workers.WorkerWrapperBase.init_device = started


@functools.cache
def _metrics() -> Callable[[str, int, float], None]:
    """Return what counts items in vLLM's ``/metrics``.

    vLLM removes metrics from the registry whose names begin with its own.
    """
    prometheus = require("prometheus_client", extra="metrics")
    items = prometheus.Counter(
        "mmformat_items", "Multimodal items sent to the engine, by the way they took.", ["way"]
    )
    nbytes = prometheus.Counter(
        "mmformat_item_bytes", "Tensor bytes of multimodal items, by the way they took.", ["way"]
    )
    seconds = prometheus.Histogram(
        "mmformat_put_seconds",
        "Seconds to put an item into the arena, waiting included.",
        buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    )
    for way in ("handle", "hit", "inline", "fallback"):
        items.labels(way)
        nbytes.labels(way)
    lock = threading.Lock()

    def observe(way: str, size: int, took_s: float) -> None:
        with lock:
            items.labels(way).inc()
            nbytes.labels(way).inc(size)
            if took_s:
                seconds.observe(took_s)

    return observe
