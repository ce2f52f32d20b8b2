"""Check that received frames are one whole message, before anything else reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mmformat.errors import DecodeError, LimitError, TruncatedError
from mmformat.model import EncodedMessage, Limits

__all__ = ["message_of"]

_CONTINUATION: Final = b"\xff\xff\xff\xff"
_END_OF_STREAM: Final = _CONTINUATION + bytes(4)


def _most_frames(limits: Limits) -> int:
    # A tensor's chunk is a frame, and so is the padding behind it.
    return 2 * (limits.chunks + limits.tensors + limits.batches) + 8


def message_of(frames: Sequence[memoryview], limits: Limits) -> EncodedMessage:
    """Return the frames as a message whose start, end and size are right.

    Raises
    ------
    LimitError
        When it is larger than ``limits`` allow; no frame was read.
    DecodeError
        With code ``not-a-message`` when it does not start as one.
    TruncatedError
        When it does not end as one.

    Notes
    -----
    **Copies**: none. Decoding checks everything between the start and the end.
    """
    limits.check("message_nbytes", sum(len(frame) for frame in frames))
    if len(frames) > _most_frames(limits):
        raise LimitError(f"expected at most {_most_frames(limits):,} frames, got {len(frames):,}")
    if not frames or bytes(frames[0][:4]) != _CONTINUATION:
        raise DecodeError(
            "expected frames that start as an Arrow stream, got something else",
            code="not-a-message",
        )
    if _tail(frames) != _END_OF_STREAM:
        raise TruncatedError("expected frames that end as an Arrow stream, got ones that are cut")
    return EncodedMessage(frames)


def _tail(frames: Sequence[memoryview]) -> bytes:
    tail = b""
    for frame in reversed(frames):
        tail = bytes(frame[max(0, len(frame) - 8 + len(tail)) :]) + tail
        if len(tail) >= len(_END_OF_STREAM):
            break
    return tail
