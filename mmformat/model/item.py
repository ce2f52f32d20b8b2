"""One medium of a request, and all media of a request."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, NoReturn

from mmformat.errors import ModelError
from mmformat.model.arguments import check_type
from mmformat.model.repr import repr_of_fields
from mmformat.model.tensors import Feature

__all__ = [
    "InputFormat",
    "Modality",
    "MultimodalDataItem",
    "MultimodalInputs",
]


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


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class MultimodalDataItem:
    """Describe one medium: its tensors, where its tokens lie, and what it is known by.

    Parameters
    ----------
    modality : Modality
        The kind of medium.
    feature : tensor, DictionaryTensor, Source, list of these, or None
        What the model's encoder reads, as ``pixel_values`` or log-mel frames.
    precomputed_embeddings : as feature
        What replaces the encoder's output.
    offsets : list of (int, int), optional
        Token ranges of the item in the prompt; both ends inclusive, as in SGLang.
    format : InputFormat
        The stage in which the feature arrived.
    model_specific_data : dict
        Tensors, scalars, str, bytes, lists, tuples and dicts, nested, by the model's names.
    hash, pad_value : int, optional
        What the engine's prefix cache knows the item by.
    identity : str, optional
        The digest of the content, as made at materialization.

    Raises
    ------
    ModelError
        When ``modality`` or ``format`` is none, ``model_specific_data`` no dict, or a frozen item
        is assigned to.

    Examples
    --------
    >>> import numpy as np
    >>> MultimodalDataItem(modality=Modality.IMAGE, feature=np.zeros((4, 6), np.float32)).hash
    """

    modality: Modality
    feature: Feature = None
    precomputed_embeddings: Feature = None
    offsets: list[tuple[int, int]] | None = None
    format: InputFormat = InputFormat.NORMAL
    model_specific_data: dict[str, Any] = field(default_factory=dict)
    hash: int | None = None
    pad_value: int | None = None
    identity: str | None = None
    _frozen: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modality", _member(Modality, self.modality, "$.modality"))
        object.__setattr__(self, "format", _member(InputFormat, self.format, "$.format"))
        check_type(self.model_specific_data, dict, "a dict", name="model_specific_data")

    def __repr__(self) -> str:
        return repr_of_fields(self, (each.name for each in fields(self) if each.init))

    def __setattr__(self, name: str, value: object) -> None:
        if getattr(self, "_frozen", False):
            raise ModelError(
                "expected an item that is not frozen, got one that was materialized",
                path=f"$.{name}",
                hint="dataclasses.replace(item, ..., identity=None, hash=None, pad_value=None)",
            )
        object.__setattr__(self, name, value)

    @property
    def frozen(self) -> bool:
        """Whether the item was materialized and may no longer be assigned to."""
        return self._frozen

    def freeze(self) -> None:
        """Refuse every later assignment; the tensors themselves are not protected."""
        object.__setattr__(self, "_frozen", True)


_FIELDS: Final = [
    getattr(MultimodalDataItem, each.name).__set__ for each in fields(MultimodalDataItem)
]


def made_item(*values: Any) -> MultimodalDataItem:
    """Return an item of checked values, in the order of its fields; nothing is checked again."""
    item = MultimodalDataItem.__new__(MultimodalDataItem)
    for set_field, value in zip(_FIELDS, (*values, False), strict=True):
        set_field(item, value)
    return item


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class MultimodalInputs:
    """Hold all media of one request, and what belongs to the whole request.

    Parameters
    ----------
    items : list of MultimodalDataItem
        The media, in prompt order.
    request_data : dict
        Tensors, scalars, str, bytes, lists, tuples and dicts, nested.

    Raises
    ------
    ModelError
        When ``items`` is no list or holds anything else, or ``request_data`` is no dict.

    Examples
    --------
    >>> MultimodalInputs(request_data={"im_token_id": 151655}).items
    []
    """

    items: list[MultimodalDataItem] = field(default_factory=list)
    request_data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_type(self.items, (list, tuple), "a list of items", name="items")
        check_type(self.request_data, dict, "a dict", name="request_data")
        for index, item in enumerate(self.items):
            if not isinstance(item, MultimodalDataItem):
                raise ModelError(
                    f"expected MultimodalDataItem, got {type(item).__name__}",
                    path=f"$.items[{index}]",
                )

    def __repr__(self) -> str:
        return repr_of_fields(self, ("items", "request_data"))


def _member(kind: type[Any], value: object, path: str) -> Any:
    try:
        return kind(value)
    except (ValueError, TypeError, RuntimeError) as error:  # an array compares in its own way
        names = ", ".join(member.value for member in kind)
        raise ModelError(f"expected one of {names}, got {value!r}", path=path) from error
