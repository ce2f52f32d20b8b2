"""The receiving side: each rank turns a handle into the engine's inputs."""

from __future__ import annotations

from typing import Any

from mmformat.adapters.readers import Readers
from mmformat.adapters.sglang.announce import STAMPED
from mmformat.adapters.sglang.restore import from_mmformat

__all__ = ["open_media"]


def open_media(ranks: Readers, handle: bytes, *, cls: type[Any]) -> Any:
    """Return the media of a handle as an object of the engine's class.

    Raises
    ------
    StaleHandleError, TransportError, DecodeError
        As :meth:`Readers.get`.

    Notes
    -----
    **Copies**: none. **Lifetime**: the slot is held until the last tensor is collected, which is
    when the engine drops the request's features.
    """
    inputs = ranks.get(handle)
    for number in inputs.request_data.pop(STAMPED, ()):
        inputs.items[number].identity = None  # it was ours, for finding equal content
    return from_mmformat(inputs, cls)
