"""Methods to carry a request's tensors: this library's own, and those it is compared with."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import torch

from mmformat.arena import Arena, ArenaReader
from mmformat.codec import decode, encode
from mmformat.errors import ModelError
from mmformat.model import DictionaryTensor, MultimodalDataItem, MultimodalInputs

__all__ = [
    "METHODS",
    "Frames",
    "Method",
    "inputs_of",
    "inputs_of_named",
    "method_class",
    "named_tensors",
    "plain_of",
    "why_missing",
]

Frames: TypeAlias = Sequence[Any]
"""What travels: buffers, the frames of one ZeroMQ message."""


class Method:
    """Carry inputs one way. A subclass overrides what its way needs.

    The producer calls :meth:`open`, then :meth:`encode` for each request and :meth:`reclaim` when
    every reader is done with it. A reader calls :meth:`attach`, then :meth:`decode` for each
    message and :meth:`release`. In the codec scenario one process is both.

    Attributes
    ----------
    name, title, note : str
        For the command line, for a table, and what to know about it.
    zmq_copies : bool
        Whether the socket copies the frames (``copy=True``, pyzmq's default).
    shares_memory : bool
        Whether the readers of :meth:`encode`'s frames see one memory.
    wants_dictionary : bool
        Whether it is given codes and tables in place of plain tensors.
    wants_same : bool
        Whether every round is to carry the same bytes, because that is what is measured.
    carries : bool
        Whether the bytes arrive at all; a control may only pretend.
    module : str, optional
        What must be installed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    note: ClassVar[str] = ""
    zmq_copies: ClassVar[bool] = False
    shares_memory: ClassVar[bool] = False
    wants_dictionary: ClassVar[bool] = False
    wants_same: ClassVar[bool] = False
    carries: ClassVar[bool] = True
    module: ClassVar[str | None] = None

    def open(self, *, nbytes: int, ranks: int) -> None:
        """Prepare the producer's side for requests of at most ``nbytes``."""

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return what travels."""
        raise RuntimeError(f"{type(self).__name__} does not encode")

    def reclaim(self) -> None:
        """Take back, in the producer, what the last message used."""

    def attach(self, *, rank: int) -> None:
        """Prepare a reader's side."""

    def decode(self, frames: Frames) -> Any:
        """Return the inputs, or anything whose tensors are those of the inputs in order."""
        raise RuntimeError(f"{type(self).__name__} does not decode")

    def release(self) -> None:
        """Let go, in the reader, of the last message; its tensors are gone by now."""

    def close(self) -> None:
        """Give everything back, on either side."""


def plain_of(inputs: MultimodalInputs) -> dict[str, Any]:
    """Return inputs as the plain mapping that a rival carries: only builtin types and tensors."""
    return {
        "items": [
            {
                "modality": item.modality.value,
                "feature": _plain(item.feature),
                "precomputed_embeddings": _plain(item.precomputed_embeddings),
                "offsets": item.offsets,
                "model_specific_data": _plain(item.model_specific_data),
                "hash": item.hash,
                "pad_value": item.pad_value,
            }
            for item in inputs.items
        ],
        "request_data": _plain(inputs.request_data),
    }


def inputs_of(plain: dict[str, Any]) -> MultimodalInputs:
    """Return the inputs of :func:`plain_of`'s mapping, as every engine makes its own objects."""
    items = [MultimodalDataItem(**item) for item in plain["items"]]
    return MultimodalInputs(items=items, request_data=plain["request_data"])


def _plain(value: Any) -> Any:
    if isinstance(value, DictionaryTensor):
        return value.expand()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


_TENSOR_KEY: Final = "__tensor__"


def named_tensors(inputs: MultimodalInputs) -> tuple[dict[str, torch.Tensor], str]:
    """Return every tensor under a number, and the rest as JSON that says where each belongs."""
    tensors: dict[str, torch.Tensor] = {}

    def taken(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[str(len(tensors))] = value
            return {_TENSOR_KEY: str(len(tensors) - 1)}
        if isinstance(value, dict):
            return {name: taken(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [taken(each) for each in value]
        return value

    rest = json.dumps(taken(plain_of(inputs)))
    return tensors, rest


def inputs_of_named(tensors: Mapping[str, Any], rest: str | bytes) -> MultimodalInputs:
    """Return the inputs of :func:`named_tensors`'s two values."""

    def restored(value: dict[str, Any]) -> Any:
        return tensors[value[_TENSOR_KEY]] if _TENSOR_KEY in value else value

    return inputs_of(json.loads(rest, object_hook=restored))


class PlainMethod(Method):
    """Encode to frames that are the tensors' own memory, and decode to views."""

    name = "mmformat"
    title = "mmformat, frames"
    note = "encode copies no tensor byte; decode makes views"

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the message's frames."""
        return encode(inputs).frames

    def decode(self, frames: Frames) -> Any:
        """Return views of the frames."""
        return decode(list(frames))


class ArenaMethod(Method):
    """Put into a touched arena; the frame is the handle."""

    name = "mmformat-arena"
    title = "mmformat, arena"
    note = "one copy by the producer, views in every rank"
    shares_memory = True
    expands = True

    def __init__(self) -> None:
        self._arena: Arena | None = None
        self._rank: ArenaReader | None = None
        self._number: int | None = None

    def open(self, *, nbytes: int, ranks: int) -> None:
        """Create the arena, with room for two requests."""
        self._arena = Arena.create(nbytes=2 * nbytes + 2**22, ranks=ranks)

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Put the inputs and return the handle."""
        if self._arena is None:
            raise RuntimeError("expected open() first")
        return [bytes(self._arena.put(inputs))]

    def reclaim(self) -> None:
        """Wait until the slot is free again."""
        if self._arena is not None and not self._arena.wait_released(timeout_s=30):
            raise RuntimeError("expected every rank to release its slot")

    def attach(self, *, rank: int) -> None:
        """Remember the rank's number; the first handle names the arena."""
        self._number = rank

    def decode(self, frames: Frames) -> Any:
        """Get the inputs as views of the slot."""
        handle = bytes(frames[0])
        if self._rank is None:
            self._rank = Arena.attach(handle, rank=self._number or 0)
        return self._rank.get(handle, expand=self.expands)

    def close(self) -> None:
        """Detach, or remove the arena."""
        if self._rank is not None:
            self._rank.close()
        if self._arena is not None:
            self._arena.close()


class Pickle4Method(Method):
    """Pickle protocol 4."""

    name = "pickle4"
    title = "pickle 4, in-band"
    note = "torch's own reduction; the socket copies, as send_pyobj and recv_pyobj do"
    zmq_copies = True
    protocol: ClassVar[int] = 4

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return one pickle."""
        return [pickle.dumps(plain_of(inputs), protocol=self.protocol)]

    def decode(self, frames: Frames) -> Any:
        """Load the pickle."""
        return inputs_of(pickle.loads(frames[0]))


class Pickle5Method(Pickle4Method):
    """Pickle protocol 5."""

    name = "pickle5"
    title = "pickle 5, in-band"
    protocol = 5


def _restore(buffer: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    # By numpy: torch.frombuffer complains of read-only memory, and received frames are.
    raw = torch.from_numpy(np.frombuffer(buffer, np.uint8))
    return raw.view(dtype).view(shape)


class _Pickler(pickle.Pickler):
    # torch knows nothing of out-of-band buffers: this is what a careful user writes.
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        raw = value.contiguous().view(torch.uint8).numpy().reshape(-1)
        return _restore, (pickle.PickleBuffer(raw.data), value.dtype, tuple(value.shape))


class OutOfBandMethod(Method):
    """Send buffers as frames of their own."""

    name = "pickle5-oob"
    title = "pickle 5, out-of-band"
    note = "a reducer of our own for torch; frames are not copied by the socket"

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the pickle and the tensors' memory."""
        buffers: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(plain_of(inputs))
        return [stream.getvalue(), *(buffer.raw() for buffer in buffers)]

    def decode(self, frames: Frames) -> Any:
        """Load the pickle around the frames."""
        return inputs_of(pickle.loads(frames[0], buffers=frames[1:]))


_THRESHOLD_NBYTES: Final = 256
_TENSOR: Final = 1


class MsgpackFramesMethod(Method):
    """Write msgpack; a tensor of 256 bytes and more is a frame, a smaller one is inline."""

    name = "msgspec-oob"
    title = "msgspec + frames (as vLLM)"
    note = "views only; frames are not copied by the socket"
    module = "msgspec"

    def __init__(self) -> None:
        import msgspec

        self._ext = msgspec.msgpack.Ext
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._write)
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self._read)
        self._nested = msgspec.msgpack.Encoder()
        self._nested_decoder = msgspec.msgpack.Decoder()
        self._out: list[Any] = []
        self._in: Frames = ()

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the msgpack bytes and the tensors' memory."""
        self._out = [b""]
        self._out[0] = self._encoder.encode(plain_of(inputs))
        frames, self._out = self._out, []
        return frames

    def decode(self, frames: Frames) -> Any:
        """Read the msgpack bytes; tensors are views of the frames."""
        self._in = frames
        try:
            return inputs_of(self._decoder.decode(frames[0]))
        finally:
            self._in = ()

    def _write(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"expected a tensor, got {type(value).__name__}")
        raw = value.contiguous().view(torch.uint8).numpy().reshape(-1)
        place: int | bytes
        if raw.nbytes < _THRESHOLD_NBYTES:
            place = raw.tobytes()
        else:
            place = len(self._out)
            self._out.append(raw.data)
        dtype = str(value.dtype).removeprefix("torch.")
        return self._ext(_TENSOR, self._nested.encode((dtype, tuple(value.shape), place)))

    def _read(self, code: int, data: memoryview) -> Any:
        if code != _TENSOR:
            raise ValueError(f"expected extension {_TENSOR}, got {code}")
        dtype, shape, place = self._nested_decoder.decode(data)
        buffer = self._in[place] if isinstance(place, int) else bytearray(place)
        raw = torch.from_numpy(np.frombuffer(buffer, np.uint8))
        return raw.view(getattr(torch, dtype)).view(shape)


class SafetensorsMethod(Method):
    """Save to bytes and load from bytes."""

    name = "safetensors"
    title = "safetensors"
    note = "save copies; load copies too (its zero-copy path wants a file)"
    module = "safetensors"

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return one file's bytes."""
        from safetensors.torch import save

        tensors, rest = named_tensors(inputs)
        return [save(tensors, {"rest": rest})]

    def decode(self, frames: Frames) -> Any:
        """Load all tensors."""
        from safetensors.torch import load

        data = bytes(frames[0]) if not isinstance(frames[0], bytes) else frames[0]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return inputs_of_named(load(data), header["__metadata__"]["rest"])


METHODS: Final[dict[str, type[Method]]] = {
    each.name: each
    for each in (
        PlainMethod,
        ArenaMethod,
        Pickle5Method,
        OutOfBandMethod,
        MsgpackFramesMethod,
        SafetensorsMethod,
    )
}
"""What `mmformat bench` compares, by name; the first two are this library's."""


def method_class(name: str) -> type[Method]:
    """Return the class of a method.

    Raises
    ------
    ModelError
        If there is none of that name.
    """
    if name not in METHODS:
        raise ModelError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def why_missing(method: type[Method]) -> str | None:
    """Return why a method cannot run here, or None if it can."""
    if method.module is None:
        return None
    try:
        if importlib.util.find_spec(method.module) is not None:
            return None
    except ModuleNotFoundError:  # the package above it is not installed either
        pass
    return f"{method.module} is not installed"
