"""SGLang's encoder disaggregation: a remote handle crosses instead of the embedding.

Set ``MMFORMAT_EPD_LISTEN`` in the encoder's environment, and ``MMFORMAT_EPD_MIRROR`` in that of the
language model's: the socket of ``mmformat net mirror``, of which there is one for each host.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any, Final

import mmformat as mm
from mmformat._extras import require
from mmformat.errors import TransportError
from mmformat.net import TLS, MirrorClient, Publisher, RemoteHandle

__all__ = ["EncoderSide", "ReceiverSide", "register"]

LISTEN: Final = "MMFORMAT_EPD_LISTEN"
"""Where an encoder listens, ``host:port``."""
MIRROR: Final = "MMFORMAT_EPD_MIRROR"
"""The socket of this host's mirror."""
ARENA: Final = "MMFORMAT_EPD_ARENA_NBYTES"
CERTIFICATES: Final = "MMFORMAT_EPD_CERTIFICATES"
"""A folder with server.pem, server.key and ca.pem."""
TOKEN: Final = "MMFORMAT_EPD_TOKEN"  # noqa: S105  # the variable's name
INSECURE: Final = "MMFORMAT_EPD_INSECURE"

_MAGIC: Final = b"mmfr"
_SENT_AT_MOST: Final = 65_536
_WAIT_S: Final = 120.0
_ROOM: Final = "sglang.srt.disaggregation.encoder."


def register() -> None:
    """Install the hooks of the encoder and of the receiver, where the variables are set.

    SGLang calls it in every process, by the entry point of the group ``sglang.srt.plugins``.
    """
    if not (os.environ.get(LISTEN) or os.environ.get(MIRROR)):
        return
    hooks = require("sglang.srt.plugins.hook_registry", extra="sglang")
    around = hooks.HookType.AROUND
    if os.environ.get(LISTEN):
        hooks.HookRegistry.register(_ROOM + "server.MMEncoder._send", EncoderSide().send, around)
    if os.environ.get(MIRROR):
        hooks.HookRegistry.register(
            _ROOM + "receiver.WaitingZmqRequest._extract_embedding_from_buffer",
            ReceiverSide().extract,
            around,
        )


class EncoderSide:
    """Publish each embedding once, and send its remote handle as often as SGLang sends."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._sent: OrderedDict[tuple[str, int], Future[RemoteHandle]] = OrderedDict()
        self.publisher: Publisher | None = None

    async def send(
        self, original: Any, encoder: Any, embedding: Any, mm_data: Any, *rest: Any, **more: Any
    ) -> Any:
        """Call SGLang's own send with the handle's bytes in the embedding's place."""
        backend = str(getattr(encoder, "transfer_backend", "zmq"))
        is_ours = mm_data.embedding is not None and mm_data.error_msg is None
        if not is_ours or not backend.startswith("zmq"):
            return await original(encoder, embedding, mm_data, *rest, **more)
        import torch

        remote = await asyncio.to_thread(self._published, mm_data)
        small = copy.copy(mm_data)
        small.embedding = torch.frombuffer(bytearray(bytes(remote)), dtype=torch.uint8)
        return await original(encoder, embedding, small, *rest, **more)

    def _published(self, mm_data: Any) -> RemoteHandle:
        """Publish an embedding for its host, once for the sends to all ranks."""
        key = (str(mm_data.req_id), int(mm_data.part_idx))
        with self._mutex:
            running = self._sent.get(key)
            if running is None:
                mine = self._sent[key] = Future()
                while len(self._sent) > _SENT_AT_MOST:
                    self._sent.popitem(last=False)
        if running is not None:
            return running.result(_WAIT_S)
        tensor = mm_data.embedding.detach().cpu().contiguous()
        item = mm.MultimodalDataItem(modality=mm.Modality.IMAGE, precomputed_embeddings=tensor)
        try:
            # A burst waits here until the mirror has fetched what came before.
            remote = self._publisher().publish(
                mm.MultimodalInputs(items=[item]), ttl_s=_WAIT_S, timeout_s=_WAIT_S
            )
        except BaseException as error:
            mine.set_exception(error)
            with self._mutex:
                self._sent.pop(key, None)
            raise
        mine.set_result(remote)
        return remote

    def _publisher(self) -> Publisher:
        with self._mutex:
            if self.publisher is None:
                folder = os.environ.get(CERTIFICATES)
                tls = None
                if folder:
                    tls = TLS(
                        certificate=f"{folder}/server.pem",
                        private_key=f"{folder}/server.key",
                        ca=f"{folder}/ca.pem",
                    )
                nbytes = int(os.environ.get(ARENA, str(2**30)))
                self.publisher = Publisher(
                    mm.Arena.create(nbytes=nbytes, ranks=1, slots=4096),
                    os.environ[LISTEN],
                    tls=tls,
                    token=os.environ.get(TOKEN),
                    insecure=os.environ.get(INSECURE) == "1",
                )
            return self.publisher


class ReceiverSide:
    """Ask the host's mirror for what a handle names, as one tensor-parallel rank."""

    def __init__(self) -> None:
        self._client: MirrorClient | None = None
        self._reader: Any = None

    def extract(self, original: Any, request: Any, received: Any, parts: Any) -> None:
        """Set the embedding from the host's arena; anything but a handle is SGLang's own."""
        frame = parts[1].buffer if hasattr(parts[1], "buffer") else parts[1]
        if len(frame) >= 512 or bytes(frame[:4]) != _MAGIC:
            original(request, received, parts)
            return
        remote = RemoteHandle.from_bytes(bytes(frame))
        if self._client is None:
            self._client = MirrorClient(os.environ[MIRROR])
        rank = _rank()
        handle = self._client.fetch(remote, rank=rank, timeout_s=_WAIT_S)
        if self._reader is None:
            self._reader = mm.Arena.attach(handle, rank=rank)
        inputs = self._reader.get(handle, library="torch")
        found = inputs.items[0].precomputed_embeddings
        if found.dtype != received.dtype or list(found.shape) != list(received.shape):
            raise TransportError(
                f"the embedding is {found.dtype} {tuple(found.shape)}, but was announced as "
                f"{received.dtype} {tuple(received.shape)}",
                code="net-protocol",
            )
        received.embedding = found


def _rank() -> int:
    text = os.environ.get("MMFORMAT_EPD_RANK")
    if text is not None:
        return int(text)
    parallel = require("sglang.srt.distributed", extra="sglang")
    return int(parallel.get_tensor_model_parallel_rank())
