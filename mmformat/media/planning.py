"""Plan a request's images from their headers, then process each into given memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from mmformat.errors import MaterializeError
from mmformat.media.materialize import (
    ErrorPath,
    assign_identity,
    check_arguments,
    draft_item,
    is_done,
    load_values,
)
from mmformat.media.processor_output import Draft, ProcessorOutput
from mmformat.media.sources import Fetcher, OpenedImage, open_image
from mmformat.model.item import Modality, MultimodalDataItem, MultimodalInputs
from mmformat.model.source import Source
from mmformat.model.tensors import TensorSpec

__all__ = ["PlannedInputs", "plan_inputs"]

_IMAGES: Final = (Modality.IMAGE, Modality.MULTI_IMAGES)

_NAMES: Final[dict[str, Any]] = {"identity": "0" * 64, "hash": 2**64 - 1, "pad_value": 2**62}
"""The longest that materialization gives; they stand for what is not known before the pixels."""


@dataclass(slots=True, kw_only=True)
class PlannedImage(ProcessorOutput):
    """An image whose header was read; its feature refers to memory that is still unwritten."""

    opened: OpenedImage
    size: tuple[int, int]
    processor: Any
    plan: Any
    path: str
    out: Any = None

    def place(self, out: Any) -> None:
        """Set the destination of the pixels."""
        self.out = out
        self.feature = self.plan.feature(out)

    def write(self) -> None:
        """Decode the image, process it into its destination, and release the pixels."""
        with ErrorPath(self.path):
            image = self.opened.load()
            if (image.height, image.width) != self.size:
                # The same number of bytes in another shape would pass every later check.
                raise MaterializeError(
                    f"expected {self.size[0]} x {self.size[1]} pixels as the header said, "
                    f"got {image.height} x {image.width}"
                )
            self.processor(image, out=self.out)
            self.opened.close()
        if isinstance(self.out, np.ndarray):
            self.out.flags.writeable = False  # it may be other processes' by now


class PlannedInputs:
    """A request whose images are still to be processed into memory of the caller.

    Made by :func:`plan_inputs`; a context manager that closes the images' files.
    """

    def __init__(self, request_data: dict[str, Any], *, first: int = 0) -> None:
        self.images: list[PlannedImage] = []
        self._first = first
        self._items: list[MultimodalDataItem | Draft] = []
        self._request_data = request_data

    def around(self, make: Callable[[TensorSpec, Any], Any]) -> MultimodalInputs:
        """Return the inputs, which refer to tensors that are still unwritten.

        Parameters
        ----------
        make : callable
            ``make(spec, library)`` returns the tensor that an image will be written to. What is
            made last counts.

        Returns
        -------
        MultimodalInputs
            Not frozen, and as long when encoded as what :meth:`write` returns, or longer.
        """
        for image in self.images:
            image.place(make(image.plan.spec, image.plan.library))
        items = []
        for each in self._items:
            made = each.build() if isinstance(each, Draft) else each
            missing = {name: value for name, value in _NAMES.items() if getattr(made, name) is None}
            items.append(replace(made, **missing) if missing else made)
        return MultimodalInputs(items=items, request_data=self._request_data)

    def write(self) -> MultimodalInputs:
        """Process every image into its destination, and return the inputs as `materialize` does.

        Raises
        ------
        LimitError, MaterializeError
            As :func:`mmformat.materialize`.
        """
        for image in self.images:
            image.write()
        items = [
            assign_identity(each.build(), path=f"$.items[{index}]")
            if isinstance(each, Draft)
            else each
            for index, each in enumerate(self._items, self._first)
        ]
        return MultimodalInputs(items=items, request_data=self._request_data)

    def close(self) -> None:
        """Close the files of images that were not processed."""
        for image in self.images:
            image.opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, item: MultimodalDataItem, processor: Any, fetcher: Fetcher | None) -> None:
        """Plan one more item; everything but its images is materialized at once."""
        path = f"$.items[{self._first + len(self._items)}]"
        if is_done(item):
            self._items.append(item)
            return

        def plan(
            source: Source, item: MultimodalDataItem, chosen: Any, where: str
        ) -> ProcessorOutput | None:
            plans = getattr(chosen, "plan", None)
            if plans is None or item.modality not in _IMAGES or source.kind == "medium":
                return None
            with ErrorPath(where):
                opened = open_image(source, fetcher=fetcher, path=where)
                try:
                    size = opened.size
                    made = plans(*size, channels=opened.channels)
                except BaseException:
                    opened.close()
                    raise
            planned = PlannedImage(
                feature=None,
                model_specific_data=made.model_specific_data,
                opened=opened,
                size=size,
                processor=chosen,
                plan=made,
                path=where,
            )
            self.images.append(planned)
            return planned

        self._items.append(draft_item(item, processor, fetcher=fetcher, path=path, process=plan))


def plan_inputs(
    inputs: MultimodalInputs,
    processor: Any = None,
    *,
    fetcher: Fetcher | None = None,
    first: int = 0,
) -> PlannedInputs:
    """Read the headers of a request's images, and materialize everything else.

    Parameters
    ----------
    inputs, processor, fetcher
        As for :func:`mmformat.materialize`. The images of processors that have a ``plan`` and take
        ``out``, as this library's own do, are planned; any other medium is processed here.
    first : int
        The number of the first item in its request; errors name items by it.

    Raises
    ------
    LimitError, MaterializeError, MissingExtraError
        As :func:`mmformat.materialize`; no file is left open.

    Examples
    --------
    >>> from mmformat.media.image import QwenVLImageProcessor
    >>> item = MultimodalDataItem(modality="IMAGE", feature=Source(np.zeros((56, 84, 3), np.uint8)))
    >>> with plan_inputs(MultimodalInputs(items=[item]), QwenVLImageProcessor()) as planned:
    ...     inputs = planned.around(lambda spec, library: np.empty(spec.shape, spec.dtype))
    ...     planned.write().items[0].feature.codes is inputs.items[0].feature.codes
    True
    """
    check_arguments(inputs, processor, fetcher)
    planned = PlannedInputs(load_values(inputs.request_data, "$.request_data"), first=first)
    try:
        for item in inputs.items:
            planned.add(item, processor, fetcher)
    except BaseException:
        planned.close()
        raise
    return planned
