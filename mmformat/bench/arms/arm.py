"""What an arm is: a producer's side and a reader's side, in one process or in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

from mmformat.model import DictionaryTensor, MultimodalDataItem, MultimodalInputs

__all__ = ["Arm", "Frames", "inputs_of", "plain_of"]

Frames: TypeAlias = Sequence[Any]
"""What travels: buffers, the frames of one ZeroMQ message."""


class Arm:
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
                "offsets": item.offsets,
                "model_specific_data": item.model_specific_data,
                "hash": item.hash,
                "pad_value": item.pad_value,
            }
            for item in inputs.items
        ],
        "request_data": inputs.request_data,
    }


def inputs_of(plain: dict[str, Any]) -> MultimodalInputs:
    """Return the inputs of :func:`plain_of`'s mapping, as every engine makes its own objects."""
    return MultimodalInputs(
        items=[
            MultimodalDataItem(
                modality=item["modality"],
                feature=item["feature"],
                offsets=item["offsets"],
                model_specific_data=item["model_specific_data"],
                hash=item["hash"],
                pad_value=item["pad_value"],
            )
            for item in plain["items"]
        ],
        request_data=plain["request_data"],
    )


def _plain(feature: Any) -> Any:
    return feature.expand() if isinstance(feature, DictionaryTensor) else feature
