"""One medium of a request, and all media of a request."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import lru_cache
from operator import is_
from typing import Any, Final, TypeVar

from mmformat.errors import ModelError
from mmformat.model.arguments import check_type
from mmformat.model.repr import repr_of_fields
from mmformat.model.values import Feature

__all__ = [
    "InputFormat",
    "Modality",
    "MultimodalDataItem",
    "MultimodalInputs",
]


MOST_LEAVES: Final = 2**16
"""An item of more values than this is never recognized as unchanged."""


class Modality(StrEnum):
    """The kind of medium of an item; the value is its text in messages.

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
    def _missing_(cls, value: object) -> Modality:
        """Find a member whatever the case, as ``Modality("image")``."""
        return _found(cls, value)


class InputFormat(StrEnum):
    """The stage of processing of a feature; the names are those of SGLang's enum."""

    NORMAL = "normal"
    PROCESSOR_OUTPUT = "processor_output"
    PRECOMPUTED_EMBEDDING = "precomputed_embedding"

    @classmethod
    def _missing_(cls, value: object) -> InputFormat:
        """Find a member whatever the case."""
        return _found(cls, value)


E = TypeVar("E", bound=StrEnum)


def _found(kind: type[E], value: object) -> E:
    if type(value) is str:
        for member in kind:
            if member.value.lower() == value.lower():
                return member
    names = ", ".join(member.value for member in kind)
    raise ModelError(f"expected one of {names}, got {value!r:.60}", path="$")


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class MultimodalDataItem:
    """One medium: its tensors, its token ranges, and its identity.

    Parameters
    ----------
    modality : Modality
        The kind of medium.
    feature : tensor, DictionaryTensor, Source, list of these, or None
        Input of the model's encoder, such as ``pixel_values`` or log-mel frames.
    precomputed_embeddings : as feature
        Replaces the encoder's output.
    offsets : list of (int, int), optional
        Token ranges of the item in the prompt; both ends inclusive, as in SGLang.
    format : InputFormat
        The stage of processing of the feature.
    model_specific_data : dict
        Tensors, scalars, str, bytes, lists, tuples and dicts, nested, by the model's names.
    hash, pad_value : int, optional
        The item's keys in the engine's prefix cache.
    identity : str, optional
        The digest of the content, as made at materialization.

    Raises
    ------
    ModelError
        If ``modality`` or ``format`` is unknown, ``model_specific_data`` is not a dict, or a field
        of a frozen item is assigned.

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
        self._drop_foreign_identity()

    def _drop_foreign_identity(self) -> None:
        """Drop the identity of other values, and the numbers that were derived from it."""
        identity = self.identity
        if type(identity) is not ContentIdentity or identity.is_of(self):
            return
        if identity.hash == self.hash and identity.is_hash_derived:
            object.__setattr__(self, "hash", None)
            if identity.pad_value == self.pad_value:
                object.__setattr__(self, "pad_value", None)
        object.__setattr__(self, "identity", None)

    def __repr__(self) -> str:
        return repr_of_fields(self, (each.name for each in fields(self) if each.init))

    def __setattr__(self, name: str, value: object) -> None:
        if getattr(self, "_frozen", False):
            raise ModelError(
                "the item is frozen: it was materialized",
                path=f"$.{name}",
                hint="dataclasses.replace(item, ...) gives one that can be changed",
            )
        object.__setattr__(self, name, value)

    @property
    def frozen(self) -> bool:
        """Whether the item was materialized and may no longer be assigned to."""
        return self._frozen

    @property
    def is_intact(self) -> bool:
        """Whether a frozen item still holds the values of which its identity was made.

        Its lists and dicts may have been changed in place. What is written into a tensor is not
        noticed: never write to a tensor of a frozen item.
        """
        return self._frozen and (
            type(self.identity) is ContentIdentity and self.identity.is_of(self)
        )

    def freeze(self) -> None:
        """Refuse every later assignment, and tie the identity to the values.

        If a value is replaced later, in a list or dict of this item or in a copy made by
        ``dataclasses.replace``, the identity counts no more: :attr:`is_intact` is False, and the
        copy has no identity. Writing into a tensor is not noticed.
        """
        self._drop_foreign_identity()
        if self.identity is not None:
            object.__setattr__(self, "identity", ContentIdentity.of(self))
        object.__setattr__(self, "_frozen", True)


class ContentIdentity(str):
    """Hold an identity together with the values that it is of; otherwise a str."""

    __slots__ = ("_leaves", "hash", "is_hash_derived", "pad_value")

    _leaves: list[Any]
    hash: int | None
    is_hash_derived: bool
    pad_value: int | None

    @classmethod
    def of(cls, item: MultimodalDataItem) -> ContentIdentity:
        """Return the identity of an item, tied to the values that it has now."""
        made = cls(item.identity)
        made._leaves = _leaves_of(item)
        made.hash, made.pad_value = item.hash, item.pad_value
        made.is_hash_derived = item.hash is not None and f"{item.hash:016x}" == made[:16]
        return made

    def is_of(self, item: MultimodalDataItem) -> bool:
        """Return whether an item has these values, each the same object."""
        found = _leaves_of(item)
        return len(found) == len(self._leaves) and all(map(is_, found, self._leaves))

    def __reduce__(self) -> tuple[Any, ...]:
        return (str, (str(self),))


def _leaves_of(item: MultimodalDataItem) -> list[Any]:
    found: list[Any] = [item.modality]
    for value in (item.feature, item.precomputed_embeddings, item.model_specific_data):
        _add_leaves(value, found)
    return found


def _add_leaves(value: Any, found: list[Any]) -> None:
    if len(found) > MOST_LEAVES:
        found[-1] = object()  # equal to nothing
        return
    found.append(type(value))
    if isinstance(value, dict):
        found.append(_count(len(value)))
        for key, part in value.items():
            found.append(key)
            _add_leaves(part, found)
    elif isinstance(value, (list, tuple)):
        found.append(_count(len(value)))
        for part in value:
            _add_leaves(part, found)
    elif isinstance(value, bytearray):
        found.append(object())  # may be changed without a trace
    else:
        found.append(value)


@lru_cache(maxsize=4096)
def _count(number: int) -> int:
    return number  # the same object each time


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
    """All media of one request, and the data of the whole request.

    Parameters
    ----------
    items : list of MultimodalDataItem
        The media, in prompt order.
    request_data : dict
        Tensors, scalars, str, bytes, lists, tuples and dicts, nested.

    Raises
    ------
    ModelError
        If ``items`` is not a list of items, or ``request_data`` is not a dict.

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
