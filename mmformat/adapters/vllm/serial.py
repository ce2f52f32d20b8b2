"""Encoder and decoder that stand where vLLM's own stand, and differ in the multimodal items."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from mmformat._extras import require
from mmformat.adapters.vllm.restore import from_mmformat, inputs_module
from mmformat.adapters.vllm.returns import ReturnedHandles, flush
from mmformat.adapters.vllm.shared import shared_item
from mmformat.adapters.vllm.take import to_mmformat
from mmformat.arena import Arena
from mmformat.codec import decode, encode
from mmformat.errors import DecodeError, EncodeError, ModelError, TransportError
from mmformat.model import EncodedMessage, Limits

__all__ = ["mm_decoder", "mm_encoder"]

_KEY: Final = "$mmformat"
_SERIAL: Final = "vllm.v1.serial_utils"
_OWN_FRAME_FROM_NBYTES: Final = 4096
"""Below this a socket frame of its own costs more than a copy."""
_LOG: Final = logging.getLogger("mmformat.vllm")


def mm_encoder(*, arena: Arena | None = None, trusts_hashes: bool = False, **options: Any) -> Any:
    """Return a ``MsgpackEncoder`` whose multimodal items are messages of this format.

    Parameters
    ----------
    arena : Arena, optional
        Where items go; a handle is then all that is encoded. Otherwise their bytes are frames
        beside vLLM's own.
    trusts_hashes : bool, default False
        Whether equal identifiers of features mean equal content, as vLLM's processor caches take
        them: an item whose identifier is in the arena is not copied again. Clients that choose
        identifiers themselves (``multi_modal_uuids``) are trusted with that.
    **options
        Of ``vllm.v1.serial_utils.MsgpackEncoder``.

    Raises
    ------
    MissingExtraError
        When vLLM is not installed.

    Notes
    -----
    **Copies**: without an arena none of tensors of 4 KiB and more; with one each tensor byte once.
    An item that does not fit goes vLLM's own way. ``encoder.handle_of(item)`` puts one item and
    returns its handle, for :func:`shared_item`. Slots that the engine core gave back are freed at
    the next item, or by ``encoder.returns.collect()``.

    References
    ----------
    docs/engines.md, "vLLM".
    """
    encoder = require(_SERIAL, extra="vllm").MsgpackEncoder(**options)
    original = encoder._encode_mm_item
    returns = encoder.returns = None if arena is None else ReturnedHandles(arena)

    def encode_item(item: Any) -> dict[str, Any]:
        handle = getattr(item, "handle", None)
        if handle is not None:  # a shared item on its next hop
            item.way.went_on = True
            return {_KEY: handle}
        try:
            if arena is not None:
                return {_KEY: handle_of(item, known.get(id(item)))}
            frames = _joined(encode(to_mmformat(item)))
        except (TransportError, EncodeError, ModelError) as error:
            _LOG.warning("an item goes vLLM's own way: %s", error)
            own: dict[str, Any] = original(item)
            return own
        first = len(encoder.aux_buffers)
        encoder.aux_buffers.extend(frames)
        return {_KEY: [first, len(frames)]}

    def handle_of(item: Any, identifier: str | None = None) -> bytes:
        if arena is None or returns is None:
            raise ModelError("expected an encoder with an arena")
        returns.collect()
        inputs = to_mmformat(item)
        if trusts_hashes and identifier is not None:
            inputs.items[0].identity = identifier
            inputs.items[0].freeze()
        return bytes(arena.put(inputs))

    def naming(method: Any) -> Any:
        def encode_named(obj: Any, *arguments: Any) -> Any:
            # The engine names the features; the item that it encodes does not know its name.
            features = getattr(obj, "mm_features", None) or ()
            known.update((id(feature.data), feature.identifier) for feature in features)
            try:
                return method(obj, *arguments)
            finally:
                known.clear()

        return encode_named

    known: dict[int, str] = {}
    if trusts_hashes:
        encoder.encode, encoder.encode_into = naming(encoder.encode), naming(encoder.encode_into)
    encoder._encode_mm_item = encode_item
    encoder.handle_of = handle_of
    return encoder


def mm_decoder(kind: Any = None, *, limits: Limits | None = None, **options: Any) -> Any:
    """Return a ``MsgpackDecoder`` that reads what :func:`mm_encoder` and vLLM's encoder write.

    Parameters
    ----------
    kind : type, optional
        The type to decode, as ``EngineCoreRequest``.
    limits : Limits, optional
        What an item's message may ask for.
    **options
        Of ``vllm.v1.serial_utils.MsgpackDecoder``.

    Raises
    ------
    MissingExtraError
        When vLLM is not installed.

    Notes
    -----
    **Copies**: none, or each tensor byte once with ``share_mem=False``. An item that came as a
    handle stays one until it is looked into, so that it can travel on. What a malformed item
    raises, msgspec wraps in its ValidationError; the DecodeError is its cause.
    """
    decoder = require(_SERIAL, extra="vllm").MsgpackDecoder(kind, **options)
    original = decoder._decode_mm_item
    item_class = inputs_module().MultiModalKwargsItem

    def decode_item(obj: dict[str, Any]) -> Any:
        place = obj.get(_KEY)
        if place is None:
            return original(obj)
        if isinstance(place, bytes):
            flush()
            return shared_item(place, came_first=True)
        frames = _frames(decoder.aux_buffers, place)
        source: Any = frames if decoder.share_mem else bytearray().join(frames)
        return from_mmformat(decode(source, limits=limits), item_class)

    decoder._decode_mm_item = decode_item
    return decoder


def _joined(message: EncodedMessage) -> list[memoryview | bytes]:
    frames: list[memoryview | bytes] = []
    small: list[memoryview] = []
    for frame in message.frames:
        view = memoryview(frame)
        if view.nbytes < _OWN_FRAME_FROM_NBYTES:
            small.append(view)
            continue
        if small:
            frames.append(b"".join(small))
            small = []
        frames.append(view)
    if small:
        frames.append(b"".join(small))
    return frames


def _frames(buffers: Sequence[Any], place: Any) -> list[memoryview]:
    if (
        not isinstance(place, (list, tuple))
        or [type(part) for part in place] != [int, int]
        or not 0 < place[0] <= place[0] + place[1] <= len(buffers)
    ):
        raise DecodeError("expected the place of an item's frames", code="frames")
    return [memoryview(buffer) for buffer in buffers[place[0] : place[0] + place[1]]]
