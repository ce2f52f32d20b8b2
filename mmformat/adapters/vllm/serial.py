"""vLLM's encoder and decoder with another encoding of multimodal items."""

from __future__ import annotations

import copy
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from mmformat._extras import require
from mmformat.adapters.vllm.restore import from_mmformat, inputs_module
from mmformat.adapters.vllm.returns import ReturnedHandles, flush
from mmformat.adapters.vllm.shared import fields_at_hand, shared_item
from mmformat.adapters.vllm.take import forget_neighbours, tensor_nbytes, to_mmformat
from mmformat.arena import Arena
from mmformat.codec import decode, encode
from mmformat.errors import DecodeError, EncodeError, ModelError, TransportError
from mmformat.model import EncodedMessage, Limits

__all__ = ["mm_decoder", "mm_encoder"]

_KEY: Final = "$mmformat"
_AT_HAND: Final = "$at_hand"
_SERIAL: Final = "vllm.v1.serial_utils"
_OWN_FRAME_FROM_NBYTES: Final = 4096
"""Below this a socket frame of its own costs more than a copy."""
_LOG: Final = logging.getLogger("vllm.mmformat")
"""Under vLLM's own logger, which is the one that its servers configure."""

Observer = Callable[[str, int, float], None]


def mm_encoder(
    *,
    arena: Arena | None = None,
    trusts_hashes: bool = False,
    inline_below_nbytes: int = 0,
    observe: Observer | None = None,
    **options: Any,
) -> Any:
    """Return a ``MsgpackEncoder`` whose multimodal items are messages of this format.

    Parameters
    ----------
    arena : Arena, optional
        Where items go; only a handle is then encoded. Otherwise their bytes are frames
        next to vLLM's own.
    trusts_hashes : bool, default False
        Whether equal identifiers of features mean equal content, as vLLM's processor caches take
        them: an item whose identifier is in the arena is not copied again. Clients that choose
        identifiers themselves (``multi_modal_uuids``) are trusted with that.
    inline_below_nbytes : int, default 0
        Items with fewer tensor bytes are encoded by vLLM, which is faster for small ones.
    observe : callable, optional
        Called for each item with ``"handle"``, ``"hit"``, ``"inline"`` or ``"fallback"``, its
        tensor bytes, and the seconds that the arena took.
    **options
        Of ``vllm.v1.serial_utils.MsgpackEncoder``.

    Raises
    ------
    MissingExtraError
        When vLLM is not installed.

    Notes
    -----
    **Copies**: without an arena none of tensors of 4 KiB and more; with one each tensor byte once.
    An item that does not fit is encoded by vLLM. ``encoder.handle_of(item)`` puts one item and
    returns its handle, for :func:`shared_item`. ``encoder.share(request)`` returns a copy of a
    request whose large items are in the arena; it may run in another thread than ``encode``.
    Slots that the engine core gave back are freed at the next item, or by
    ``encoder.returns.collect()``.

    References
    ----------
    docs/vllm.md
    """
    encoder = require(_SERIAL, extra="vllm").MsgpackEncoder(**options)
    original = encoder._encode_mm_item
    returns = encoder.returns = None if arena is None else ReturnedHandles(arena)
    known: dict[int, str] = {}
    turn = threading.Lock()
    report = observe or _ignore
    reasons: set[str] = set()

    def encode_item(item: Any) -> dict[str, Any]:
        if getattr(item, "handle", None) is None:
            if arena is not None:
                if not getattr(item, "goes_inline", False):
                    item = shared(item, known.get(id(item)))
            else:
                frames = framed(item)
                if frames is not None:
                    first = len(encoder.aux_buffers)
                    encoder.aux_buffers.extend(frames)
                    return {_KEY: [first, len(frames)]}
        handle = getattr(item, "handle", None)
        if handle is None:
            own: dict[str, Any] = original(item)
            return own
        item.way.went_on = True
        fields = {key: encoder._encode_mm_field_elem(e) for key, e in item.at_hand.items()}
        return {_KEY: handle, _AT_HAND: fields}

    def framed(item: Any) -> list[memoryview | bytes] | None:
        try:
            return _joined(encode(to_mmformat(item)))
        except (EncodeError, ModelError) as error:
            fell_back(error, 0)
            return None

    def shared(item: Any, identifier: str | None) -> Any:
        """Return the item as a handle, or itself if vLLM is to encode it."""
        nbytes = tensor_nbytes(item)
        if nbytes < inline_below_nbytes:
            report("inline", nbytes, 0.0)
            return item
        try:
            return shared_item(
                handle_of(item, identifier), came_first=True, at_hand=fields_at_hand(item)
            )
        except (TransportError, EncodeError, ModelError) as error:
            fell_back(error, nbytes)
            return item

    def fell_back(error: Exception, nbytes: int) -> None:
        report("fallback", nbytes, 0.0)
        if type(error).__name__ not in reasons:
            reasons.add(type(error).__name__)
            _LOG.warning("an item is encoded by vLLM instead of mmformat: %s", error)

    def handle_of(item: Any, identifier: str | None = None) -> bytes:
        if arena is None or returns is None:
            raise ModelError("expected an encoder with an arena")
        inputs = to_mmformat(item)
        forget_neighbours(inputs)
        if trusts_hashes and identifier is not None:
            inputs.items[0].identity = identifier
            inputs.items[0].freeze()
        with turn:
            began = time.perf_counter()
            returns.collect()
            hits = arena.stats().hits if observe else 0
            handle = bytes(arena.put(inputs))
            if observe:
                way = "hit" if arena.stats().hits > hits else "handle"
                report(way, tensor_nbytes(item), time.perf_counter() - began)
        return handle

    def share(request: Any) -> Any:
        copied = copy.copy(request)
        copied.mm_features = [
            dataclasses.replace(feature, data=shared_once(feature.data, feature.identifier))
            for feature in request.mm_features
        ]
        return copied

    def shared_once(item: Any, identifier: str | None) -> Any:
        if item is None or getattr(item, "handle", None) is not None:
            return item
        made = shared(item, identifier)
        if made is item:  # the caller's item may be in a cache: mark a copy
            made = copy.copy(item)
            made.goes_inline = True
        return made

    def is_large(request: Any) -> bool:
        return any(
            feature.data is not None and tensor_nbytes(feature.data) >= inline_below_nbytes
            for feature in getattr(request, "mm_features", None) or ()
        )

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

    if trusts_hashes:
        encoder.encode, encoder.encode_into = naming(encoder.encode), naming(encoder.encode_into)
    encoder._encode_mm_item = encode_item
    encoder.handle_of, encoder.share, encoder.is_large = handle_of, share, is_large
    return encoder


def _ignore(_way: str, _nbytes: int, _seconds: float) -> None:
    pass


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
            at_hand = original(obj.get(_AT_HAND, {}))
            return shared_item(place, came_first=True, at_hand=at_hand)
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
