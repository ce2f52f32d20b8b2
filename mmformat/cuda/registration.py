"""Pin a shared mapping where it lies, so that the device reads it at the bus's speed."""

from __future__ import annotations

import ctypes
import logging
import mmap
from typing import TYPE_CHECKING, Final

from mmformat._arrow import buffer_of
from mmformat.cuda.cudart import forget_last_error, torch_runtime
from mmformat.errors import PlacementError

if TYPE_CHECKING:
    import torch

__all__ = ["Registration"]

_LOG: Final = logging.getLogger("mmformat.cuda")
_PORTABLE: Final = 1
"""cudaHostRegisterPortable: pinned for every device of this process."""


class Registration:
    """Register a shared mapping with CUDA, once for all devices of this process.

    Parameters
    ----------
    mapping : mmap.mmap
        A MAP_SHARED mapping: CUDA would copy the pages of a private one. It must be writable, or
        CUDA refuses it; once pinned it is made read-only, so that no stray write reaches the
        other ranks.
    device : torch.device
        A device whose context exists or is made.

    Raises
    ------
    PlacementError
        With code ``register`` and CUDA's reason.

    Notes
    -----
    **Copies**: none. **Cost**: about 70 microseconds a MiB, once. **Lifetime**: until
    :meth:`close`; the mapping stays open at least as long.
    """

    def __init__(self, mapping: mmap.mmap, *, device: torch.device) -> None:
        import torch

        buffer = buffer_of(mapping)
        self.nbytes = buffer.size
        self._address = buffer.address
        del buffer
        with torch.cuda.device(device):
            result = int(torch_runtime().cudaHostRegister(self._address, self.nbytes, _PORTABLE))
        if result:
            forget_last_error()
            self._address = 0
            raise PlacementError(
                f"expected to pin {self.nbytes:,} bytes of shared memory, "
                f"got CUDA error {result} ({_reason(result)})",
                hint="raise the limit on locked memory (ulimit -l) or the container's memory",
                code="register",
            )
        _protect(self._address, self.nbytes)
        # The whole area as bytes: a slice of it is the source of a copy.
        self.tensor: torch.Tensor | None = torch.frombuffer(mapping, dtype=torch.uint8)

    @property
    def address(self) -> int:
        """The first pinned byte; 0 when closed."""
        return self._address

    def close(self) -> None:
        """Unregister; no copy out of the mapping may be under way. Only once."""
        address, self._address = self._address, 0
        if not address:
            return
        self.tensor = None
        result = int(torch_runtime().cudaHostUnregister(address))
        if result:
            forget_last_error()
            _LOG.warning("cudaHostUnregister failed: %s", _reason(result))


def _reason(result: int) -> str:
    runtime = torch_runtime()
    return str(runtime.cudaGetErrorString(runtime.cudaError(result)))


def _protect(address: int, nbytes: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    library.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if library.mprotect(address, nbytes, mmap.PROT_READ):
        _LOG.debug("mprotect failed with errno %d", ctypes.get_errno())
