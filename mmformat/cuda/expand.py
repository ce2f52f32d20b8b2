"""Expand a dictionary tensor where its codes lie: by a kernel where there is one, else by torch."""

from __future__ import annotations

import functools
import importlib.util
import logging
from typing import TYPE_CHECKING, Final, Literal

from mmformat.errors import ModelError
from mmformat.model.dictionary import MAX_ENTRIES, DictionaryTensor, expand_torch

if TYPE_CHECKING:
    import torch

__all__ = ["Kernel", "expand_codes", "expand_on_device"]

Kernel = Literal["auto", "torch", "triton"]

_LOG: Final = logging.getLogger("mmformat.cuda")
_MAX_INDEX: Final = 2**31 - 2**16
_broken: list[str] = []


def expand_on_device(tensor: DictionaryTensor, *, kernel: Kernel = "auto") -> torch.Tensor:
    """Return the plain tensor of codes and table that lie on a device.

    Parameters
    ----------
    tensor : DictionaryTensor
        Both parts are torch tensors on one device.
    kernel : {"auto", "torch", "triton"}
        ``auto`` takes Triton where it is installed and works, and plain torch elsewhere.

    Raises
    ------
    ModelError
        With code ``dictionary-code`` when a code is not below the number of entries.

    Notes
    -----
    Bit patterns are moved, so every dtype, NaN payloads and -0.0 come out as on the CPU.
    **Copies**: every element of the result is written once by the Triton kernel; plain torch also
    writes 4 bytes a code of indices, and the result twice when it is repeated. **Cost**: a table
    of fewer than 256 entries waits for the device once, to check the codes.
    """
    import torch

    codes, table = tensor.codes, tensor.table
    if not isinstance(codes, torch.Tensor) or not isinstance(table, torch.Tensor):
        raise ModelError("expected torch tensors on a device", path="$.codes")
    return expand_codes(
        codes,
        table,
        axis=tensor.axis,
        repeat_axis=tensor.repeat_axis,
        repeat=tensor.repeat,
        shape=tensor.shape,
        kernel=kernel,
    )


def expand_codes(
    codes: torch.Tensor,
    table: torch.Tensor,
    *,
    axis: int,
    repeat_axis: int,
    repeat: int,
    shape: tuple[int, ...],
    kernel: Kernel = "auto",
) -> torch.Tensor:
    """Return the plain tensor of parts that are known to fit together; see `expand_on_device`.

    Raises
    ------
    ModelError
        With code ``dictionary-code`` when a code is not below the number of entries.
    """
    entries = table.shape[1]
    if entries < MAX_ENTRIES and codes.numel() and int(codes.max()) >= entries:
        raise ModelError(
            f"expected codes below {entries}, got {int(codes.max())}",
            path="$.codes",
            code="dictionary-code",
        )
    if kernel == "triton" or (kernel == "auto" and _is_for_triton(codes, table, repeat)):
        found = _by_triton(
            codes, table, axis=axis, repeat_axis=repeat_axis, repeat=repeat, must=kernel == "triton"
        )
        if found is not None:
            return found.view(shape)
    values = expand_torch(codes, table, axis=axis, repeat_axis=repeat_axis, repeat=repeat)
    return values.reshape(shape)


def _is_for_triton(codes: torch.Tensor, table: torch.Tensor, repeat: int) -> bool:
    return (
        codes.is_cuda
        and not _broken
        and 0 < codes.numel() * repeat <= _MAX_INDEX
        and table.element_size() <= 8
        and _has_triton()
    )


def _by_triton(
    codes: torch.Tensor,
    table: torch.Tensor,
    *,
    axis: int,
    repeat_axis: int,
    repeat: int,
    must: bool,
) -> torch.Tensor | None:
    from mmformat.cuda.expand_triton import expand_triton

    try:
        return expand_triton(codes, table, axis=axis, repeat_axis=repeat_axis, repeat=repeat)
    except Exception as error:
        # Whatever a compiler at run time may raise: no C compiler, a read-only cache, a new chip.
        if must:
            raise
        _broken.append(str(error))
        _LOG.warning("the Triton kernel does not work here, plain torch is used: %s", error)
        return None


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
