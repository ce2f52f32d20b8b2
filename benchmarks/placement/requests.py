"""The requests of the placement scenario: plain, and as codes with the same values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from mmformat.model import DictionaryTensor, Modality, MultimodalDataItem, MultimodalInputs

__all__ = ["REQUESTS", "Request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Name a request of Qwen2-VL's patches.

    Parameters
    ----------
    name : str
        For the file.
    patches : int
        Of each image.
    images : int
        How many.
    rounds : int
        How often it is measured.
    """

    name: str
    patches: int
    images: int = 1
    rounds: int = 30

    @property
    def nbytes(self) -> int:
        """Bytes of the features as float32."""
        return self.patches * 1176 * 4 * self.images

    def make(self, encoding: str, *, seed: int) -> MultimodalInputs:
        """Return the request as plain float32, ``plain-bfloat16``, or codes with such a table.

        The values of all four are the same up to the rounding of bfloat16.
        """
        generator = torch.Generator().manual_seed(seed)
        items = []
        for _ in range(self.images):
            codes = torch.randint(
                0, 256, (self.patches, 3, 14, 14), dtype=torch.uint8, generator=generator
            )
            table = torch.randn(3, 256, generator=generator)
            half = DictionaryTensor(
                codes,
                table.to(torch.bfloat16) if encoding.endswith("bfloat16") else table,
                axis=1,
                repeat_axis=2,
                repeat=2,
                shape=(self.patches, 1176),
            )
            feature: Any = half.expand() if encoding.startswith("plain") else half
            items.append(
                MultimodalDataItem(
                    modality=Modality.IMAGE,
                    feature=feature,
                    model_specific_data={"image_grid_thw": torch.tensor([[1, 2, self.patches]])},
                )
            )
        return MultimodalInputs(items=items, request_data={"im_token_id": 151655})


REQUESTS: Final = {
    each.name: each
    for each in (
        Request(name="0.6 MB", patches=128),
        Request(name="25.8 MB", patches=5476),
        Request(name="200 MB", patches=42560, rounds=12),
        Request(name="8 x 25.8 MB", patches=5476, images=8, rounds=12),
    )
}
