"""A rank's readers of every arena that handles of its engine name."""

from __future__ import annotations

from mmformat.arena import Arena, ArenaReader
from mmformat.model import MultimodalInputs
from mmformat.shm import Handle

__all__ = ["Readers"]


class Readers:
    """Attach to an arena when its first handle comes: an engine may have several producers.

    Parameters
    ----------
    rank : int
        This rank's number in every arena.
    device : str, optional
        Where the tensors are wanted, as ``"cuda:0"``; dictionaries are expanded there.
    expand : bool, default True
        Whether a dictionary becomes the tensor that it stands for.

    Examples
    --------
    >>> import mmformat as mm
    >>> readers = Readers(0)
    >>> with mm.Arena.create(nbytes=2**20, ranks=1) as arena:
    ...     handle = bytes(arena.put(mm.MultimodalInputs(request_data={"im_token_id": 7})))
    ...     readers.get(handle).request_data
    ...     readers.close()
    {'im_token_id': 7}
    """

    def __init__(self, rank: int, *, device: str | None = None, expand: bool = True) -> None:
        self._reader = rank
        self._device = device
        self._expand = expand
        self._readers: dict[str, ArenaReader] = {}

    def attach(self, name: str) -> None:
        """Attach to an arena before its first handle comes; a rank that comes back must.

        Raises
        ------
        TransportError
            As :meth:`mmformat.Arena.attach`.
        """
        if name not in self._readers:
            self._readers[name] = Arena.attach(name, rank=self._reader, device=self._device)

    def get(self, handle: bytes) -> MultimodalInputs:
        """Return the inputs of a handle.

        Raises
        ------
        StaleHandleError, TransportError, DecodeError
            As :meth:`mmformat.Arena.attach` and :meth:`mmformat.ArenaReader.get`.

        Notes
        -----
        **Copies**: none on the CPU. **Lifetime**: the last tensor that is collected releases the
        slot.
        """
        return self._of(handle).get(handle, expand=self._expand)

    def release(self, handle: bytes) -> None:
        """Release a handle that this rank does not open.

        Raises
        ------
        StaleHandleError, TransportError
            As :meth:`mmformat.ArenaReader.release`.
        """
        self._of(handle).release(handle)

    def close(self) -> None:
        """Detach from every arena; what tensors still look at stays until they go."""
        while self._readers:
            self._readers.popitem()[1].close()

    def _of(self, handle: bytes) -> ArenaReader:
        name = Handle.from_bytes(handle).name
        if name not in self._readers:
            self._readers[name] = Arena.attach(handle, rank=self._reader, device=self._device)
        return self._readers[name]
