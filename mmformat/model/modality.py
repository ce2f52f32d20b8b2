"""What kind of medium an item is, and in which stage its feature arrived."""

from __future__ import annotations

from enum import StrEnum
from typing import NoReturn

from mmformat.errors import ModelError

__all__ = ["InputFormat", "Modality"]


class Modality(StrEnum):
    """Name the kind of medium of an item; the value is the text of the wire.

    Examples
    --------
    >>> Modality.IMAGE.value
    'IMAGE'
    """

    IMAGE = "IMAGE"
    MULTI_IMAGES = "MULTI_IMAGES"
    VIDEO = "VIDEO"
    AUDIO = "AUDIO"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        _refuse(cls, value)


class InputFormat(StrEnum):
    """Name the stage in which the feature arrived; the names are those of SGLang's enum."""

    NORMAL = "normal"
    PROCESSOR_OUTPUT = "processor_output"
    PRECOMPUTED_EMBEDDING = "precomputed_embedding"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        _refuse(cls, value)


def _refuse(kind: type[StrEnum], value: object) -> NoReturn:
    names = ", ".join(member.value for member in kind)
    raise ModelError(f"expected one of {names}, got {value!r:.60}", path="$")
