"""The public pool, whose processes are sent messages of this library's codec."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Literal

from mmformat.codec import decode, encode
from mmformat.media.fetch import Fetcher
from mmformat.media.pool import MaterializePool as MediaPool

__all__ = ["MaterializePool"]

_DECODE: Final = partial(decode, expand=False)


class MaterializePool(MediaPool):
    """Materialize requests off the caller's path, a bounded number at a time.

    Parameters
    ----------
    workers : int
        How many requests run at once.
    kind : {"thread", "process"}
        Threads share the caller's interpreter: decoding and resizing run at once, the rest takes
        turns. Processes share nothing, and survive a decoder that crashes.
    processor : callable or mapping
        As for :func:`mmformat.materialize`. For processes it must be something that they can
        import: a function at the top of a module, one of this library's processors, a
        ``functools.partial`` or mapping of these, or a text ``"module:name"``.
    fetcher : callable, optional
        Fetches URLs, in the caller's process, in a thread of the pool.
    queue_size : int, optional
        Requests that wait before :meth:`submit` blocks; twice the workers when omitted.

    Raises
    ------
    ModelError
        When a number is below 1, the kind is unknown, or a processor cannot be imported elsewhere.

    Notes
    -----
    A worker process that dies is replaced, and its request tried once more.

    **Copies**: threads: none but those of :func:`mmformat.materialize`. Processes: the encoded
    media on the way there and the message on the way back, once each, through a socket; nothing is
    pickled. Dictionary tensors come back as they are, not expanded. **Lifetime**: close the pool,
    or use it in a ``with`` statement; a pool that is forgotten ends with the program.

    Examples
    --------
    >>> import numpy as np
    >>> import mmformat as mm
    >>> item = mm.MultimodalDataItem(modality="IMAGE", feature=mm.Source(np.ones((2, 2), np.uint8)))
    >>> with MaterializePool(2, processor=np.asarray) as pool:
    ...     future = pool.submit(mm.MultimodalInputs(items=[item]), deadline_s=10.0)
    ...     future.result().items[0].frozen
    True
    """

    def __init__(
        self,
        workers: int,
        kind: Literal["thread", "process"] = "thread",
        *,
        processor: Any = None,
        fetcher: Fetcher | None = None,
        queue_size: int | None = None,
    ) -> None:
        super().__init__(
            workers,
            kind,
            processor=processor,
            fetcher=fetcher,
            queue_size=queue_size,
            encode=encode,
            decode=_DECODE,
        )
