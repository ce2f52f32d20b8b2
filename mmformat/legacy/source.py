"""Where a pickle lies: bytes of the caller, or a file that is mapped for as long as it is read."""

from __future__ import annotations

import mmap
import os
import stat

from mmformat.errors import DecodeError, ModelError
from mmformat.legacy.landing import Lander
from mmformat.legacy.nodes import Tensor
from mmformat.model.arguments import check_path

__all__ = ["PickleSource", "Source"]

PickleSource = str | os.PathLike[str] | bytes | bytearray | memoryview
"""What can be converted: a path, or the bytes themselves."""


class Source:
    """Hold the bytes of a pickle for the time of a conversion.

    Parameters
    ----------
    source : str, path, bytes, bytearray or memoryview
        A path is opened and mapped; bytes stay where they are.

    Raises
    ------
    ModelError
        For another type.
    DecodeError
        When the file cannot be read.

    Notes
    -----
    **Copies**: none. A file that shrinks while it is read ends the reading process with SIGBUS,
    which the sandbox turns into an error.
    """

    def __init__(self, source: PickleSource) -> None:
        self._map: mmap.mmap | None = None
        self.descriptor: int | None = None
        if isinstance(source, bytes | bytearray | memoryview):
            self.name = "<bytes>"
            try:
                self.view = memoryview(source).cast("B").toreadonly()
            except TypeError as error:
                raise ModelError(
                    f"expected contiguous bytes, got: {error}", path="$.source"
                ) from error
            return
        if not isinstance(source, str | os.PathLike):
            raise ModelError(
                f"expected a path or bytes, got {type(source).__name__}", path="$.source"
            )
        self.name = str(check_path(source, name="source"))
        try:
            # A pipe would otherwise be waited for until somebody writes to it.
            options = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            self.descriptor = os.open(self.name, options)
            self._open(self.descriptor)
        except DecodeError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise DecodeError(f"expected a readable file, got: {error}", path="$") from error

    def _open(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError(f"expected a file, got {self.name}", path="$")
        if status.st_size == 0:
            self.view = memoryview(b"")
            return
        self._map = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        self.view = memoryview(self._map)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give descriptor and mapping back; views of it that are still held keep the mapping."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def lander(self, tensors: list[Tensor]) -> Lander:
        """Return what writes tensors of this source to where they belong."""
        return Lander(tensors, self._map)
