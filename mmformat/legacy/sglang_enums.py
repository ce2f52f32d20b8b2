"""SGLang's enums: the same value of the same class path means different media over time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from mmformat.errors import DecodeError, ModelError
from mmformat.legacy.nodes import Enum, Instance
from mmformat.model.item import InputFormat, Modality

__all__ = ["Members"]

_SCHEDULE: Final = "sglang.srt.managers.schedule_batch."
_NEWER: Final = "sglang.srt.multimodal.modality."
_FOUR: Final = {1: Modality.IMAGE, 2: Modality.MULTI_IMAGES, 3: Modality.VIDEO, 4: Modality.AUDIO}
_THREE: Final = {1: Modality.IMAGE, 2: Modality.VIDEO, 3: Modality.AUDIO}
_FORMATS: Final = {
    1: InputFormat.NORMAL,
    2: InputFormat.PROCESSOR_OUTPUT,
    3: InputFormat.PRECOMPUTED_EMBEDDING,
}
_TEXTS: Final = {
    "image": Modality.IMAGE,
    "multi-images": Modality.MULTI_IMAGES,
    "multi_images": Modality.MULTI_IMAGES,
    "video": Modality.VIDEO,
    "audio": Modality.AUDIO,
}


class Members:
    """Say what a stored enum value means, by its class path and by what else the file shows.

    ``sglang.srt.managers.schedule_batch.Modality`` had four members until 0.5.9 and has had three
    from 0.5.10 on, without moving; it moved to ``sglang.srt.multimodal.modality`` later. So the
    path does not tell 2 (several images, or a video) and 3 (video, or audio) apart. The other
    classes of the file do, except in a dict or a list of items of 0.5.6 to 0.5.19.

    Parameters
    ----------
    instances : iterable of Instance
        All instances of the file.
    enums : iterable of Enum
        All enum members of the file.
    sglang_version : str, optional
        The version that wrote the file, where it does not say so itself.

    Raises
    ------
    ModelError
        When the version is no version.
    DecodeError
        When the classes of the file are of versions that cannot have met.
    """

    def __init__(
        self,
        instances: Iterable[Instance],
        enums: Iterable[Enum],
        *,
        sglang_version: str | None = None,
    ) -> None:
        votes = {vote for instance in instances if (vote := _vote(instance))}
        if any(e.cls == f"{_SCHEDULE}Modality" and e.value == 4 for e in enums):
            votes.add(4)
        if len(votes) > 1:
            raise DecodeError("expected the classes of one SGLang, got those of two", path="$")
        self.count = votes.pop() if votes else 0
        if sglang_version is not None and not self.count:
            self.count = 3 if _release(sglang_version) >= (0, 5, 10) else 4

    @property
    def writer(self) -> str | None:
        """The versions that the classes fit, or None."""
        return {4: "sglang 0.4.5 to 0.5.9", 3: "sglang 0.5.10 or later"}.get(self.count)

    def modality(self, value: Any, path: str) -> Modality:
        """Return what a stored member of Modality means.

        Raises
        ------
        DecodeError
            For another class, an unknown value, or one that means two things.
        """
        if isinstance(value, str):
            return self.text(value, path)
        if not isinstance(value, Enum):
            raise DecodeError(f"expected a Modality, got {type(value).__name__}", path=path)
        if value.cls == f"{_NEWER}Modality":
            table = _THREE
        elif value.cls == f"{_SCHEDULE}Modality":
            table = _THREE if self.count == 3 else _FOUR
            if not self.count and value.value in (2, 3):
                raise DecodeError(
                    f"expected a Modality with one meaning, got {value.value}: "
                    f"{_FOUR[value.value]} until SGLang 0.5.9, {_THREE[value.value]} from 0.5.10",
                    path=path,
                    hint="say which wrote it: convert(..., sglang_version='0.5.9')",
                    code="ambiguous-modality",
                )
        else:
            raise DecodeError(f"expected a Modality, got {value.cls}", path=path)
        if value.value not in table:
            raise DecodeError(f"expected a Modality, got the value {value.value!r}", path=path)
        return table[value.value]

    def format(self, value: Any, path: str) -> InputFormat:
        """Return what a stored member of MultimodalInputFormat means; None is normal.

        Raises
        ------
        DecodeError
            For another class or an unknown value.
        """
        if value is None:
            return InputFormat.NORMAL
        names = (f"{_NEWER}MultimodalInputFormat", f"{_SCHEDULE}MultimodalInputFormat")
        if not isinstance(value, Enum) or value.cls not in names or value.value not in _FORMATS:
            raise DecodeError("expected a MultimodalInputFormat", path=path)
        return _FORMATS[value.value]

    def text(self, value: Any, path: str) -> Modality:
        """Return the modality that a text names.

        Raises
        ------
        DecodeError
            For any other value.
        """
        found = _TEXTS.get(value.lower()) if isinstance(value, str) else None
        if found is None:
            raise DecodeError(f"expected a modality, got {ascii(value)[:40]}", path=path)
        return found


def _vote(instance: Instance) -> int:
    """Return 3 or 4 for an instance that only one of the two enums can have met, else 0."""
    fields = instance.state
    if instance.cls == f"{_SCHEDULE}MultimodalProcessorOutput":
        return 3
    if instance.cls == f"{_SCHEDULE}MultimodalInputs":
        return 3 if "mrope_position_delta_repeated_cache" in fields else 4
    if instance.cls == f"{_SCHEDULE}MultimodalDataItem":
        if "keep_device_embedding" in fields:
            return 3
        if "format" not in fields:
            return 4
    return 0


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        raise ModelError(f"expected a version as 0.5.9, got {version!r}", path="$.sglang_version")
    return tuple(int(part) for part in found.groups())
