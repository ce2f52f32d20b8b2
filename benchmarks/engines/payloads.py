"""Pictures as processors make them: uint8 codes, a table per channel, and what they stand for.

The plain tensor is what an engine ships; its dtype is the engine's. The dictionary stands for the
same tensor, value for value: Qwen's patches hold each pixel twice, and each channel takes at most
256 values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from blake3 import blake3

import mmformat as mm

PATCH = (3, 14, 14)
REPEAT = 2
COLUMNS = 3 * REPEAT * 14 * 14


@dataclass(frozen=True)
class Case:
    """Name a payload: images of so many patches each, in the dtype that an engine ships."""

    name: str
    rows: int
    dtype: torch.dtype
    images: int = 1

    @property
    def nbytes(self) -> int:
        return self.images * self.rows * COLUMNS * self.dtype.itemsize


CASES = {
    case.name: case
    for case in (
        Case("image bf16 0.6 MB", 256, torch.bfloat16),
        Case("image uint8 6.4 MB", 5476, torch.uint8),
        Case("image bf16 12.9 MB", 5476, torch.bfloat16),
        Case("image f32 25.8 MB", 5476, torch.float32),
        Case("8 images uint8 51.5 MB", 5476, torch.uint8, images=8),
        Case("8 images bf16 103 MB", 5476, torch.bfloat16, images=8),
        Case("video f32 200 MB", 42500, torch.float32),
        Case("8 images f32 206 MB", 5476, torch.float32, images=8),
    )
}


class Pictures:
    """Hold the codes and the plain tensors of a case; :meth:`renew` gives both other content."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._generator = torch.Generator().manual_seed(case.rows)
        values = torch.arange(256, dtype=torch.float32).repeat(3, 1)
        if case.dtype != torch.uint8:
            mean = torch.tensor([[0.48145466], [0.4578275], [0.40821073]])
            std = torch.tensor([[0.26862954], [0.26130258], [0.27577711]])
            values = (values / 255 - mean) / std
        self.table = values.to(case.dtype)
        self.codes = [self._random(case.rows) for _ in range(case.images)]
        self.plain = [self._dictionary(codes).expand() for codes in self.codes]

    def renew(self) -> None:
        """Change one patch of each image, so that nothing of it is found where it was."""
        for codes, plain in zip(self.codes, self.plain, strict=True):
            codes[:1] = self._random(1)
            plain[:1] = self._dictionary(codes[:1]).expand()

    def dictionaries(self) -> list[mm.DictionaryTensor]:
        """Return what a processor of mmformat gives in place of the tensors."""
        return [self._dictionary(codes) for codes in self.codes]

    def _random(self, rows: int) -> torch.Tensor:
        return torch.randint(0, 256, (rows, *PATCH), dtype=torch.uint8, generator=self._generator)

    def _dictionary(self, codes: torch.Tensor) -> mm.DictionaryTensor:
        return mm.DictionaryTensor(
            codes, self.table, axis=1, repeat_axis=2, repeat=REPEAT, shape=(len(codes), COLUMNS)
        )


def parts_of(value: torch.Tensor | mm.DictionaryTensor) -> list[torch.Tensor]:
    """Return the tensors that hold the bytes of a value."""
    if isinstance(value, mm.DictionaryTensor):
        return [torch.as_tensor(value.codes), torch.as_tensor(value.table)]
    return [value]


def digest_of(values: list[torch.Tensor | mm.DictionaryTensor]) -> str:
    """Return a digest of the bytes, dtypes and shapes of all parts."""
    digest = blake3()
    for value in values:
        for part in parts_of(value):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def touch(values: list[torch.Tensor | mm.DictionaryTensor], page_nbytes: int = 4096) -> None:
    """Read a byte of every page."""
    for value in values:
        for part in parts_of(value):
            flat = part.reshape(-1).view(torch.uint8)
            int(flat[::page_nbytes].sum(dtype=torch.int64))
