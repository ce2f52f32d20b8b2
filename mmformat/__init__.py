"""Encode prepared media once, and let every rank read the same bytes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import mmformat._interpreter  # noqa: F401  # refuses a subinterpreter before numpy fails in it
from mmformat.arena import (
    Arena,
    ArenaReader,
    PendingInputs,
    Reservation,
    decode,
)
from mmformat.codec import encode
from mmformat.errors import (
    ArenaFullError,
    DecodeError,
    EncodeError,
    IntegrityError,
    LimitError,
    MaterializeError,
    MissingExtraError,
    MMFormatError,
    ModelError,
    PlacementError,
    SchemaError,
    StaleHandleError,
    TransportError,
    TransportTimeoutError,
    TruncatedError,
    UnsafePickleError,
    VersionError,
)
from mmformat.model import (
    Compression,
    DictionaryTensor,
    EncodedMessage,
    InputFormat,
    Limits,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
    Source,
    TensorSpec,
)

if TYPE_CHECKING:
    from mmformat.dataset import Dataset, open_dataset
    from mmformat.legacy.convert import convert
    from mmformat.media import materialize, materialize_async
    from mmformat.media.pool import MaterializePool

__version__ = "0.1.0"

__all__ = [
    "Arena",
    "ArenaFullError",
    "ArenaReader",
    "Compression",
    "Dataset",
    "DecodeError",
    "DictionaryTensor",
    "EncodeError",
    "EncodedMessage",
    "InputFormat",
    "IntegrityError",
    "LimitError",
    "Limits",
    "MMFormatError",
    "MaterializeError",
    "MaterializePool",
    "MissingExtraError",
    "Modality",
    "ModelError",
    "MultimodalDataItem",
    "MultimodalInputs",
    "PendingInputs",
    "PlacementError",
    "Reservation",
    "SchemaError",
    "Source",
    "StaleHandleError",
    "TensorSpec",
    "TransportError",
    "TransportTimeoutError",
    "TruncatedError",
    "UnsafePickleError",
    "VersionError",
    "__version__",
    "convert",
    "decode",
    "encode",
    "materialize",
    "materialize_async",
    "open_dataset",
]

_ROOMS: Final = {
    "Dataset": "mmformat.dataset",
    "MaterializePool": "mmformat.media.pool",
    "convert": "mmformat.legacy",
    "materialize": "mmformat.media",
    "materialize_async": "mmformat.media",
    "open_dataset": "mmformat.dataset",
}
"""Rooms that a rank never enters: they are imported when a name of theirs is first used."""


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(room), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
