"""The look-up of dictionary codes as one Triton kernel: a byte in, a word out, repeats at once."""

from __future__ import annotations

import functools
import importlib
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

__all__ = ["expand_triton"]


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


triton: Any = _optional("triton")
tl: Any = _optional("triton.language")

BLOCK: Final = 2048
VECTOR: Final = 16
"""Codes that one thread may load at once: 16 bytes."""


# Triton compiles this function from its source; `lane` codes behind each other stay behind each
# other in the result, which is what the hints promise.
def _look_up(  # type: ignore[no-untyped-def]  # noqa: PLR0917 - Triton would read annotations
    codes,
    table,
    out,
    count,
    run,
    inner,
    channels,
    entries,
    repeat: tl.constexpr,
    lane: tl.constexpr,
    block: tl.constexpr,
):
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = (at // lane) < (count // lane)
    code = tl.load(codes + at, mask=inside, other=0).to(tl.int32)
    channel = (at // inner) % channels
    word = tl.load(table + channel * entries + code, mask=inside, other=0)
    first = at + (at // run) * (run * (repeat - 1))
    first = tl.max_contiguous(tl.multiple_of(first, lane), lane)
    for turn in tl.static_range(repeat):
        place = tl.max_contiguous(tl.multiple_of(first + turn * run, lane), lane)
        tl.store(out + place, word, mask=inside)


_kernel: Any = None if triton is None else triton.jit(_look_up)


def expand_triton(
    codes: torch.Tensor,
    values: torch.Tensor,
    *,
    axis: int,
    repeat_axis: int,
    repeat: int,
) -> torch.Tensor:
    """Return every code's value, of one axis, on the device and the current stream of the codes.

    Parameters
    ----------
    codes : uint8 tensor
        At least one; every code is below the number of entries.
    values : tensor, (channels, entries)
        Elements of 1, 2, 4 or 8 bytes; at most 2**31 - 1 elements come out.
    axis, repeat_axis, repeat : int
        As in :class:`DictionaryTensor`.

    Notes
    -----
    **Copies**: every element of the result is written once. **Cost**: the first call with a new
    element size, repeat or alignment compiles for about a second; Triton keeps the result on disk.
    """
    import torch

    codes = codes.contiguous()
    shape = codes.shape
    count = codes.numel()
    word = _words()[values.element_size()]
    table = values.contiguous().view(word)
    run = math.prod(shape[repeat_axis:]) if repeat > 1 else count
    out = torch.empty(count * repeat, dtype=word, device=codes.device)
    # Codes start where the message puts them, on 64 bytes; a user's own may not.
    lane = math.gcd(VECTOR, run, count, codes.data_ptr() or VECTOR)
    index = codes.device.index
    arguments = (
        codes, table, out, count, run, math.prod(shape[axis + 1 :]), table.shape[0],
        table.shape[1], repeat, lane, BLOCK,
    )  # fmt: skip
    with nullcontext() if torch.cuda.current_device() == index else torch.cuda.device(index):
        _launch(index, arguments)
    return out.view(values.dtype)


def _launch(index: int, arguments: tuple[Any, ...]) -> None:
    """Run the kernel; by the compiled one at once where it was run with like arguments before.

    Triton looks at every argument of every launch to find what it compiled for it, which takes
    several times as long as the launch. What it looks for, in these arguments, is the key here.
    """
    codes, table, out, *numbers = arguments
    key = (
        index, out.dtype, codes.data_ptr() % 16, table.data_ptr() % 16, out.data_ptr() % 16,
        *[each if each == 1 else 16 * (each % 16 == 0) for each in numbers[:5]], *numbers[5:],
    )  # fmt: skip
    grid = (-(-numbers[0] // BLOCK), 1, 1)
    compiled = _compiled.get(key)
    if compiled is None:
        _compiled[key] = _kernel[grid](*arguments)
        return
    try:
        compiled[grid](*arguments)
    except (TypeError, AttributeError):
        # A Triton whose compiled kernels are called otherwise: then the long way, each time.
        _compiled[key] = _kernel
        _kernel[grid](*arguments)


_compiled: Final[dict[tuple[Any, ...], Any]] = {}


@functools.cache
def _words() -> dict[int, torch.dtype]:
    import torch

    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
