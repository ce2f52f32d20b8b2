"""Ray's object store: put once, every reader maps the same object; torch zero-copy by its flag."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmformat.bench.methods import Frames, Method, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["RayMethod"]

_ZERO_COPY_FLAG = "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS"
_NAME = "mmformat-bench"
_OVERHEAD_NBYTES = 2**27


class _Mailbox:
    """Hold the reference of the latest request: only what an actor or a task hands on is freed."""

    def __init__(self) -> None:
        self._boxed: list[Any] = []

    def put(self, boxed: list[Any]) -> None:
        """Keep a reference; boxed, or Ray would pass the object itself."""
        self._boxed = boxed

    def get(self) -> list[Any]:
        """Return the reference."""
        return self._boxed


class RayMethod(Method):
    """Start a local cluster in the producer; readers join it as drivers, and ask an actor."""

    name = "ray"
    title = "Ray's object store"
    note = f"a local cluster, {_ZERO_COPY_FLAG}=1; an actor hands the references on"
    shares_memory = True
    module = "ray"

    def __init__(self) -> None:
        os.environ[_ZERO_COPY_FLAG] = "1"
        # Ray's folder of sessions is what its users have anyway; no report leaves the machine.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._mailbox: Any = None

    def open(self, *, nbytes: int, ranks: int) -> None:
        """Start the cluster with room for a few requests."""
        import ray

        self._join(
            num_cpus=1,
            object_store_memory=4 * nbytes + _OVERHEAD_NBYTES,
            include_dashboard=False,
        )
        self._mailbox = ray.remote(num_cpus=0)(_Mailbox).options(name=_NAME).remote()
        ray.get(self._mailbox.get.remote())

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Put the request, and return where the cluster is."""
        import ray

        with _unwarned():
            reference = ray.put(plain_of(inputs))
        ray.get(self._mailbox.put.remote([reference]))
        return [ray.get_runtime_context().gcs_address.encode()]

    def decode(self, frames: Frames) -> Any:
        """Join the cluster at the first message, and get the object."""
        # A local cluster asks for this user's token; a driver that joins does so when told.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        import ray

        if self._mailbox is None:
            self._join(address=bytes(frames[0]).decode())
            self._mailbox = ray.get_actor(_NAME)
        (reference,) = ray.get(self._mailbox.get.remote())
        with _unwarned():
            return inputs_of(ray.get(reference))

    def reclaim(self) -> None:
        """Let the last reference go."""
        import ray

        ray.get(self._mailbox.put.remote([]))

    def close(self) -> None:
        """Leave the cluster; with the producer, it ends."""
        import ray

        if ray.is_initialized():
            ray.shutdown()

    def _join(self, **options: Any) -> None:
        import ray

        if not ray.is_initialized():
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(namespace=_NAME, log_to_driver=False, logging_level=logging.ERROR, **options)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray's own outlives its cluster


@contextmanager
def _unwarned() -> Iterator[None]:
    # Ray says that readers must not write; torch, that numpy's memory is read-only.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
