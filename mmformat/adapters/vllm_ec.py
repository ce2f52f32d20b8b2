"""vLLM's encoder-cache connector: encoder outputs cross the network once for each instance.

``--ec-transfer-config`` with ``"ec_connector": "MMFormatECConnector"`` and
``"ec_connector_module_path": "mmformat.adapters.vllm_ec"``; the keys of
``ec_connector_extra_config`` are those of :class:`Settings`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Final

from blake3 import blake3

import mmformat as mm
from mmformat.errors import MMFormatError, ModelError
from mmformat.net import TLS, Mirror, Publisher
from mmformat.shm import Handle

__all__ = ["Encoder", "Loader", "Prefill", "Settings", "key_of"]

_LOG: Final = logging.getLogger("mmformat.vllm")
_KEY: Final = "mmformat 2026-11 vllm: an encoder output by its mm_hash"
_READY_AT_MOST: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold what ``ec_connector_extra_config`` says.

    Parameters
    ----------
    listen : str
        Where an encoder instance listens, ``host:port``.
    producers : tuple of str
        Where prefill instances ask, in this order: ``grpc+tls://host:port``.
    arena_nbytes : int
        Bytes for encoder outputs: the encoder's capacity, from which the least recently used
        goes; and the room of a prefill instance, larger than its encoder cache.
    certificate, private_key, ca : str, optional
        Paths of PEM files.
    token : str, optional
        What encoder instances want to see.
    insecure : bool
        Do without TLS beyond this host.
    timeout_s : float
        How long a fetch may take; then the request is encoded here, or fails where it cannot be.
    fail_missing : bool
        For instances without an encoder: fail requests whose outputs cannot be had.
    """

    listen: str = "127.0.0.1:14579"
    producers: tuple[str, ...] = ()
    arena_nbytes: int = 2**30
    certificate: str | None = None
    private_key: str | None = None
    ca: str | None = None
    token: str | None = None
    insecure: bool = False
    timeout_s: float = 30.0
    fail_missing: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """Read the configuration, and refuse a key that is none.

        Raises
        ------
        ModelError
            With code ``vllm-ec``.
        """
        known = {each.name for each in fields(cls)}
        if unknown := set(config) - known:
            raise ModelError(
                f"ec_connector_extra_config has no {sorted(unknown)}, but {sorted(known)}",
                code="vllm-ec",
            )
        return cls(**{**config, "producers": tuple(config.get("producers", ()))})

    @property
    def tls(self) -> TLS | None:
        """The certificates, if any."""
        if self.certificate is None and self.ca is None:
            return None
        return TLS(certificate=self.certificate, private_key=self.private_key, ca=self.ca)


def key_of(mm_hash: str) -> bytes:
    """Return what an output is kept under: whatever a client calls its media is only data."""
    return blake3(mm_hash.encode("utf-8", "surrogatepass"), derive_key_context=_KEY).digest()


class Encoder:
    """Keep an encoder instance's outputs for others: worker side, rank 0."""

    def __init__(self, settings: Settings) -> None:
        self.counts: Counter[str] = Counter()
        self.arena = mm.Arena.create(nbytes=settings.arena_nbytes, ranks=1, slots=4096)
        self.publisher = Publisher(
            self.arena,
            settings.listen,
            tls=settings.tls,
            token=settings.token,
            insecure=settings.insecure,
        )

    def save(self, mm_hash: str, output: Any) -> None:
        """Keep one output, whatever its dtype; one that finds no room is not kept."""
        item = mm.MultimodalDataItem(
            modality=mm.Modality.IMAGE, precomputed_embeddings=output.detach().cpu().contiguous()
        )
        try:
            self.publisher.keep(key_of(mm_hash), mm.MultimodalInputs(items=[item]))
            self.counts["saved"] += 1
        except MMFormatError as error:
            self.counts["not_saved"] += 1
            _LOG.warning("an encoder output is not kept for others: %s", error)

    def close(self) -> None:
        """Stop serving."""
        self.publisher.close()
        self.arena.close()


class Prefill:
    """Fetch outputs once for all workers of an instance: scheduler side."""

    def __init__(self, settings: Settings, *, ranks: int) -> None:
        self._settings = settings
        self.counts: Counter[str] = Counter()
        self.arena = mm.Arena.create(nbytes=settings.arena_nbytes, ranks=ranks, slots=4096)
        self.mirror = Mirror(
            self.arena, tls=settings.tls, token=settings.token, insecure=settings.insecure
        )
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="mmformat-ec")
        self._underway: dict[str, Future[Handle | None]] = {}
        self._ready: OrderedDict[str, Handle] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._loads: dict[str, Handle] = {}
        self._failed: set[str] = set()

    def ensure(self, request: Any, num_computed_tokens: int) -> bool:
        """Start fetches of what the request needs; return False while any is underway."""
        is_there = True
        for feature in request.mm_features:
            place = feature.mm_position
            name = feature.identifier
            if place.offset + place.length <= num_computed_tokens or name in self._ready:
                continue
            if self._absent.get(name, 0.0) > time.monotonic():
                if self._settings.fail_missing:
                    self._failed.add(request.request_id)
                continue
            running = self._underway.get(name)
            if running is None:
                self._underway[name] = self._pool.submit(self._fetch, name)
                is_there = False
            elif not running.done():
                is_there = False
            else:
                del self._underway[name]
                self._arrived(name, running.result(), request.request_id)
        return is_there

    def has(self, mm_hash: str) -> bool:
        """Whether the output is in this host's arena and can be loaded."""
        return mm_hash in self._ready

    def allocate(self, mm_hash: str) -> None:
        """Load the output in the next step."""
        handle = self._ready.pop(mm_hash, None)
        if handle is not None:
            self._loads[mm_hash] = handle

    def take_loads(self) -> dict[str, bytes]:
        """Return the handles for all workers, once."""
        loads, self._loads = self._loads, {}
        return {name: bytes(handle) for name, handle in loads.items()}

    def take_failed(self) -> set[str]:
        """Return the requests whose outputs cannot be had, once."""
        failed, self._failed = self._failed, set()
        return failed

    def close(self) -> None:
        """Stop fetching."""
        self.mirror.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.arena.close()

    def _fetch(self, name: str) -> Handle | None:
        for location in self._settings.producers:
            try:
                remote = self.mirror.find(location, key_of(name))
                if remote is not None:
                    return self.mirror.fetch(remote, timeout_s=self._settings.timeout_s)
            except MMFormatError as error:
                _LOG.warning("an encoder output cannot be had from %s: %s", location, error)
                self.counts["failed"] += 1
        return None

    def _arrived(self, name: str, handle: Handle | None, request_id: str) -> None:
        if handle is None:
            self.counts["missed"] += 1
            self._absent[name] = time.monotonic() + 1.0
            if self._settings.fail_missing:
                self._failed.add(request_id)
            while len(self._absent) > _READY_AT_MOST:
                self._absent.popitem(last=False)
            return
        self.counts["fetched"] += 1
        self._ready[name] = handle
        while len(self._ready) > _READY_AT_MOST:
            # Its request was aborted; no worker was told. The content stays while there is room.
            _, oldest = self._ready.popitem(last=False)
            with suppress(MMFormatError):
                self.arena.revoke(oldest)


class Loader:
    """Map what the scheduler fetched: worker side, one for each rank."""

    def __init__(self, *, rank: int) -> None:
        self._rank = rank
        self._readers: dict[str, Any] = {}

    def load(self, raw: bytes, device: str) -> Any:
        """Return one output: on the CPU over the arena's own pages, with its own dtype."""
        handle = Handle.from_bytes(raw)
        reader = self._readers.get(handle.name)
        if reader is None:
            reader = mm.Arena.attach(handle, rank=self._rank)
            self._readers[handle.name] = reader
        inputs = reader.get(handle, device=device, library="torch" if device == "cpu" else None)
        return inputs.items[0].precomputed_embeddings

    def close(self) -> None:
        """Detach."""
        for reader in self._readers.values():
            reader.close()


def __getattr__(name: str) -> Any:
    if name != "MMFormatECConnector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = _connector()
    return made


def _connector() -> Any:
    from vllm.distributed.ec_transfer.ec_connector import base

    @dataclass
    class Loads(base.ECConnectorMetadata):  # type: ignore[misc]
        """The handles that every worker loads in this step."""

        handles: dict[str, bytes]

    class MMFormatECConnector(base.ECConnectorBase):  # type: ignore[misc]
        """Serve encoder outputs, or fetch them, over Arrow Flight and a shared arena."""

        def __init__(self, vllm_config: Any, role: Any) -> None:
            super().__init__(vllm_config=vllm_config, role=role)
            settings = Settings.of(vllm_config.ec_transfer_config.ec_connector_extra_config)
            parallel = vllm_config.parallel_config
            self.encoder: Encoder | None = None
            self.prefill: Prefill | None = None
            self.loader: Loader | None = None
            if role == base.ECConnectorRole.SCHEDULER:
                if self.is_consumer:
                    self.prefill = Prefill(settings, ranks=parallel.world_size)
                return
            if self.is_producer and parallel.rank == 0:
                self.encoder = Encoder(settings)
            if self.is_consumer:
                self.loader = Loader(rank=parallel.rank)

        def start_load_caches(self, encoder_cache: dict[str, Any], **kwargs: Any) -> None:
            metadata = self._get_connector_metadata()
            if self.loader is None or not isinstance(metadata, Loads):
                return
            device = _device()
            for mm_hash, handle in metadata.handles.items():
                found = self.loader.load(handle, device)
                encoder_cache.setdefault(mm_hash, found)

        def save_caches(self, encoder_cache: dict[str, Any], mm_hash: str, **kwargs: Any) -> None:
            if self.encoder is not None:
                self.encoder.save(mm_hash, encoder_cache[mm_hash])

        def has_cache_item(self, identifier: str) -> bool:
            return self.prefill is not None and self.prefill.has(identifier)

        def ensure_cache_available(self, request: Any, num_computed_tokens: int) -> bool:
            return self.prefill is None or self.prefill.ensure(request, num_computed_tokens)

        def take_unavailable_requests(self) -> set[str]:
            return set() if self.prefill is None else self.prefill.take_failed()

        def update_state_after_alloc(self, request: Any, index: int) -> None:
            if self.prefill is not None:
                self.prefill.allocate(request.mm_features[index].identifier)

        def build_connector_meta(self, scheduler_output: Any) -> Any:
            return Loads({} if self.prefill is None else self.prefill.take_loads())

        def shutdown(self) -> None:
            for part in (self.encoder, self.prefill, self.loader):
                if part is not None:
                    part.close()

    MMFormatECConnector.__module__ = Loads.__module__ = __name__
    globals()["Loads"] = Loads  # workers read it by its module and name
    Loads.__qualname__ = "Loads"
    return MMFormatECConnector


def _device() -> str:
    from vllm.platforms import current_platform

    kind = str(current_platform.device_type)
    return f"cuda:{current_platform.current_device()}" if kind == "cuda" else "cpu"
