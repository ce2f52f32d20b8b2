"""What is carried in a measurement: random tensors of known sizes, or a photograph's patches."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from blake3 import blake3

from mmformat.errors import ModelError
from mmformat.model import DictionaryTensor, Modality, MultimodalDataItem, MultimodalInputs
from mmformat.model.tensors import is_tensor, tensor_buffer, tensor_spec

if TYPE_CHECKING:
    import torch

__all__ = [
    "PAGE_NBYTES",
    "PAYLOADS",
    "Payload",
    "digests_of",
    "image_item",
    "payload",
    "stamp",
    "tensors_of",
    "touch",
]

PAGE_NBYTES: Final = 4096
PATCH_VALUES: Final = 1176
"""Values of a patch of Qwen2-VL: 3 channels, 2 frames, 14 x 14 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Name the inputs of one request that are measured.

    Parameters
    ----------
    name, title : str
        For the command line, and for a table.
    nbytes : int
        Bytes of the features.
    make : callable
        ``make(seed) -> MultimodalInputs``, never twice the same bytes for two seeds.
    dictionary : callable, optional
        As ``make``, with codes and tables where ``make`` has plain tensors of the same values.
    """

    name: str
    title: str
    nbytes: int
    make: Callable[[int], MultimodalInputs]
    dictionary: Callable[[int], MultimodalInputs] | None = None

    @property
    def is_large(self) -> bool:
        """Whether a single run takes long enough to be few of them."""
        return self.nbytes > 50_000_000


def payload(name: str) -> Payload:
    """Return the payload of a name: one of the catalogue, or plain float32 items of a size.

    Raises
    ------
    ModelError
        When there is none.

    Examples
    --------
    >>> payload("3x256KiB").nbytes == 3 * 2**18
    True
    """
    if name in PAYLOADS:
        return PAYLOADS[name]
    if (match := _SIZED.fullmatch(name)) is None:
        known = ", ".join(PAYLOADS)
        raise ModelError(f"expected a payload of {known}, or as 4x16MiB, got {name!r}")
    count, nbytes = int(match[1]), int(match[2]) * (2**20 if match[3] == "M" else 2**10)
    return Payload(
        name=name,
        title=f"{count} x {match[2]} {match[3]}iB of float32",
        nbytes=count * nbytes,
        make=partial(_sized, count=count, nbytes=nbytes),
    )


_SIZED: Final = re.compile("([1-9][0-9]{0,3})x([1-9][0-9]{0,3})([KM])iB")


def tensors_of(value: Any) -> Iterator[Any]:
    """Return the tensors of inputs, or of anything nested, in one order for both sides."""
    if isinstance(value, MultimodalInputs):
        for item in value.items:
            yield from tensors_of([item.feature, item.precomputed_embeddings])
            yield from tensors_of(item.model_specific_data)
        yield from tensors_of(value.request_data)
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from tensors_of(value[name])
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_of(each)
    elif isinstance(value, DictionaryTensor) or is_tensor(value):
        yield value


def digests_of(tensors: Any) -> list[str]:
    """Return dtype, shape and the hash of the bytes of each tensor; dictionaries are expanded."""
    found = []
    for tensor in tensors_of(tensors):
        plain = tensor.expand() if isinstance(tensor, DictionaryTensor) else tensor
        spec = tensor_spec(plain)
        digest = blake3(max_threads=blake3.AUTO)
        digest.update(memoryview(tensor_buffer(plain)))
        found.append(f"{spec.dtype}{list(spec.shape)} {digest.hexdigest()}")
    return found


def stamp(inputs: MultimodalInputs, number: int) -> None:
    """Change each feature in place, so that no round carries the bytes of another.

    A method that kept something of an earlier round, by a cache or by mistake, is found out by the
    digests.
    """
    for item in inputs.items:
        for feature in tensors_of([item.feature]):
            if isinstance(feature, DictionaryTensor):
                codes: Any = feature.codes
                codes.reshape(-1)[0] = number % feature.table.shape[1]
            elif feature.nbytes:
                feature.reshape(-1)[0] = number % 251


def touch(value: Any) -> int:
    """Read a byte of every page of every tensor, and return their sum.

    Examples
    --------
    >>> import torch
    >>> touch([torch.ones(2 * PAGE_NBYTES, dtype=torch.uint8), np.full(3, 5, np.uint8)])
    7
    """
    import torch

    total = 0
    for tensor in tensors_of(value):
        parts = [tensor.table, tensor.codes] if isinstance(tensor, DictionaryTensor) else [tensor]
        for part in parts:
            if isinstance(part, np.ndarray):
                raw = part.reshape(-1).view(np.uint8)
            else:
                raw = part.reshape(-1).view(torch.uint8).numpy()
            total += int(raw[::PAGE_NBYTES].sum(dtype=np.int64))
    return total


def _random(shape: tuple[int, ...], dtype: str, seed: int) -> torch.Tensor:
    import torch

    generator = torch.Generator().manual_seed(seed)
    # Normal values: zeros would share pages and shrink, and make copies look cheap.
    return torch.randn(shape, generator=generator).to(getattr(torch, dtype))


def image_item(feature: Any, grid: tuple[int, int, int], modality: Modality) -> MultimodalDataItem:
    """Return an image or video of random or given patches, with its grid."""
    import torch

    tokens = math.prod(grid) // 4
    return MultimodalDataItem(
        modality=modality,
        feature=feature,
        offsets=[(3, 3 + tokens - 1)],
        model_specific_data={"image_grid_thw": torch.tensor([grid])},
    )


def _inputs(
    seed: int, *, grid: tuple[int, int, int], dtype: str, modality: Modality, count: int = 1
) -> MultimodalInputs:
    shape = (math.prod(grid), PATCH_VALUES)
    items = [
        image_item(_random(shape, dtype, seed * 1000 + number), grid, modality)
        for number in range(count)
    ]
    return MultimodalInputs(items=items, request_data={"im_token_id": 151655})


def _sized(seed: int, *, count: int, nbytes: int) -> MultimodalInputs:
    shape = (nbytes // 1024, 256)
    items = [
        image_item(_random(shape, "float32", seed * 1000 + number), (1, 2, 2), Modality.IMAGE)
        for number in range(count)
    ]
    return MultimodalInputs(items=items, request_data={"im_token_id": 151655})


_IMAGE = partial(_inputs, grid=(1, 74, 74), dtype="float32", modality=Modality.IMAGE)

PAYLOADS: Final = {
    each.name: each
    for each in (
        Payload(
            name="image-small",
            title="image, bf16 (256, 1176), 0.6 MB",
            nbytes=256 * PATCH_VALUES * 2,
            make=partial(_inputs, grid=(1, 16, 16), dtype="bfloat16", modality=Modality.IMAGE),
        ),
        Payload(
            name="image",
            title="image, f32 (5476, 1176), 25.8 MB",
            nbytes=5476 * PATCH_VALUES * 4,
            make=_IMAGE,
        ),
        Payload(
            name="images-8",
            title="8 images, f32 (5476, 1176), 206 MB",
            nbytes=8 * 5476 * PATCH_VALUES * 4,
            make=partial(_IMAGE, count=8),
        ),
        Payload(
            name="video",
            title="video, f32 (42560, 1176), 200 MB",
            nbytes=42560 * PATCH_VALUES * 4,
            make=partial(_inputs, grid=(8, 70, 76), dtype="float32", modality=Modality.VIDEO),
        ),
    )
}
