"""The producer's arena: inputs in, a handle out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from mmformat.arena.arena_reader import ArenaReader
from mmformat.arena.arguments import check_choice, check_count, check_timeout
from mmformat.arena.materialize_into import materialize_items, seal_in_place
from mmformat.arena.owner import OwnedArena
from mmformat.arena.putting import put_items, put_request
from mmformat.arena.reservation import Reservation
from mmformat.codec import encode
from mmformat.errors import ArenaFullError
from mmformat.model.compression import Compression
from mmformat.model.item import MultimodalInputs
from mmformat.model.message import EncodedMessage
from mmformat.model.tensors import TensorSpec
from mmformat.shm import Handle, ShmArena, ShmReader
from mmformat.shm.segment import SHM_DIRECTORY

if TYPE_CHECKING:
    import torch

    from mmformat.media.sources import Fetcher

__all__ = ["Arena"]


class Arena(OwnedArena):
    """Hold encoded inputs in one shared segment that N ranks read without a copy.

    Made by :meth:`create` in the producer; a rank calls :meth:`attach`.

    Notes
    -----
    **Lifetime**: a slot is used again when every living reader released it. Leaving the context
    removes the segment's name; what ranks still look at stays until they drop it.

    References
    ----------
    docs/arena.md

    Examples
    --------
    >>> import numpy as np
    >>> import mmformat as mm
    >>> item = mm.MultimodalDataItem(modality="IMAGE", feature=np.ones((2, 3), np.float32))
    >>> with mm.Arena.create(nbytes=2**20, ranks=1) as arena:
    ...     handle = arena.put(mm.MultimodalInputs(items=[item]))
    ...     with mm.Arena.attach(handle, rank=0) as reader:
    ...         reader.get(handle).items[0].feature.sum()
    np.float32(6.0)
    """

    @classmethod
    def create(
        cls,
        *,
        nbytes: int,
        ranks: int,
        slots: int = 1024,
        backing: Literal["shm", "file", "memfd"] = "shm",
        directory: str | os.PathLike[str] | None = None,
        name: str | None = None,
        registry: object | None = None,
    ) -> Self:
        """Create an arena: preallocated, touched, readable by this user alone.

        Parameters
        ----------
        nbytes : int
            Bytes for messages; each takes whole pages of 4 KiB.
        ranks : int
            How many ranks read every message, 1 to 64.
        slots : int
            How many messages may be unreleased at once.
        backing : {"shm", "file", "memfd"}
            ``/dev/shm``; a file in ``directory``, or memory without a name, where that is too
            small. Ranks attach to a memfd by its descriptor, sent with ``socket.send_fds``.
        directory : path, optional
            Where the segment's file lies.
        name : str, optional
            The segment's name, ``mmf-...``; chosen when omitted.
        registry : prometheus_client.CollectorRegistry, optional
            Where to register metrics.

        Raises
        ------
        ArenaFullError
            When the directory has not the room; nothing is left behind.
        TransportError
            For arguments that cannot be.
        """
        for word, value in (("nbytes", nbytes), ("ranks", ranks), ("slots", slots)):
            check_count(value, word)
        return cls(
            ShmArena.create(
                nbytes=nbytes,
                ranks=ranks,
                slots=slots,
                backing=backing,
                directory=directory,
                name=name,
                registry=registry,
            )
        )

    @staticmethod
    def attach(
        handle_or_name: Handle | bytes | str,
        *,
        rank: int,
        directory: str | os.PathLike[str] = SHM_DIRECTORY,
        timeout_s: float = 0.0,
        device: torch.device | str | None = None,
        pin: bool = True,
        registry: object | None = None,
    ) -> ArenaReader:
        """Attach a rank to an arena.

        Parameters
        ----------
        handle_or_name : Handle, bytes or str
            A handle of the arena, its bytes, or the arena's name.
        rank : int
            This rank's number, 0 to readers - 1; each process has its own.
        directory : path
            Where the segment's file lies.
        timeout_s : float
            How long to wait for the arena to appear, or for a predecessor of the same number to
            end.
        device : str or torch.device, optional
            Where this rank wants its tensors, as ``"cuda:0"``: the arena is pinned for it here,
            once, and :meth:`ArenaReader.get` goes there unless told otherwise.
        pin : bool, default True
            Whether to pin; without it, or when CUDA refuses (a log line and
            :attr:`ArenaReader.placement` say why), bytes go through pinned staging buffers.
        registry : prometheus_client.CollectorRegistry, optional
            Where to register what this rank gets and places, and how long that takes.

        Raises
        ------
        TransportError
            When the segment is not there, not ours, damaged, or the number is taken.
        PlacementError
            When there is no such device.

        Notes
        -----
        **Cost**: pinning takes about 70 microseconds a MiB of the arena.
        """
        return ArenaReader.attach(
            handle_or_name,
            rank=rank,
            directory=directory,
            timeout_s=timeout_s,
            device=device,
            pin=pin,
            registry=registry,
        )

    @staticmethod
    def attach_fd(
        fd: int,
        *,
        rank: int,
        device: torch.device | str | None = None,
        pin: bool = True,
        registry: object | None = None,
    ) -> ArenaReader:
        """Attach a rank to an arena whose descriptor it was sent; the descriptor is duplicated.

        Parameters
        ----------
        fd : int
            The descriptor.
        reader, device, pin, registry
            As :meth:`attach`.

        Raises
        ------
        TransportError, PlacementError
            As :meth:`attach`.
        """
        transport = ShmReader.attach_fd(fd, rank=rank, registry=registry)
        return ArenaReader.on_device(transport, device=device, pin=pin, registry=registry)

    @overload
    def put(
        self,
        inputs: MultimodalInputs | EncodedMessage,
        *,
        timeout_s: float = 0.0,
        compression: Compression | str | None = None,
        on_full: Literal["raise"] = "raise",
        reuse: Literal["request", "items"] = "request",
    ) -> Handle: ...

    @overload
    def put(
        self,
        inputs: MultimodalInputs | EncodedMessage,
        *,
        timeout_s: float = 0.0,
        compression: Compression | str | None = None,
        on_full: Literal["inline"],
        reuse: Literal["request", "items"] = "request",
    ) -> Handle | EncodedMessage: ...

    def put(
        self,
        inputs: MultimodalInputs | EncodedMessage,
        *,
        timeout_s: float = 0.0,
        compression: Compression | str | None = None,
        on_full: Literal["raise", "inline"] = "raise",
        reuse: Literal["request", "items"] = "request",
    ) -> Handle | EncodedMessage:
        """Encode inputs straight into shared memory and return the handle to announce.

        Parameters
        ----------
        inputs : MultimodalInputs or EncodedMessage
            What the ranks are to read. When every item was materialized (frozen, with an
            ``identity``), content that is already there is granted again and nothing is copied;
            not so with ``compression``, nor for an EncodedMessage. Whoever writes to the tensors
            of a frozen item breaks the promise that its identity makes.
        timeout_s : float
            How long to wait for room.
        compression : Compression, {"lz4", "auto"} or None
            Off by default: memory is faster than any codec.
        on_full : {"raise", "inline"}
            ``"inline"`` returns the message itself when there is no room in time: send its frames
            in the handle's place; :meth:`ArenaReader.get` takes either.
        reuse : {"request", "items"}
            What is found again: the whole request, or each of its items, which then lies in a slot
            of its own. For conversations, whose images come again with every turn: only the new
            ones are copied, and each counts as a hit or a miss. It is one handle all the same.
            With ``compression`` it is the request.

        Raises
        ------
        ArenaFullError
            When there is no room in time, or never will be, unless ``on_full`` is "inline".
        EncodeError
            When a value cannot travel.

        Notes
        -----
        **Copies**: each tensor byte once, into the slot; none for content that is there.
        """
        check_timeout(timeout_s)
        check_choice(on_full, ("raise", "inline"), "on_full")
        check_choice(reuse, ("request", "items"), "reuse")
        put = put_items if reuse == "items" else put_request
        try:
            return put(self._transport, inputs, timeout_s=timeout_s, compression=compression)
        except ArenaFullError:
            if on_full == "raise":
                raise
        if isinstance(inputs, EncodedMessage):
            return inputs
        return encode(inputs, compression=compression)

    def reserve(
        self,
        template: MultimodalInputs | Sequence[TensorSpec | tuple[Sequence[int], str]],
        *,
        timeout_s: float = 0.0,
        headroom_nbytes: int = 4096,
        library: Literal["torch", "numpy"] = "torch",
    ) -> Reservation:
        """Reserve a slot whose tensors are written in place: no copy at all.

        Parameters
        ----------
        template : MultimodalInputs, or sequence of (shape, dtype)
            Inputs in which a :class:`mmformat.TensorSpec` stands for each tensor to write; or the
            tensors alone, for one item's feature.
        timeout_s : float
            How long to wait for room.
        headroom_nbytes : int
            Room for hash, identity and attributes that are set before sealing.
        library : {"torch", "numpy"}
            What the tensors to write are.

        Raises
        ------
        ArenaFullError
            When there is no room in time.

        Notes
        -----
        **Copies**: none of what is written in place; the template's own tensors, once, at the seal.

        Examples
        --------
        >>> import mmformat as mm
        >>> with mm.Arena.create(nbytes=2**20, ranks=1) as arena:
        ...     with arena.reserve([((2, 3), "float32")], library="numpy") as slot:
        ...         slot.tensors[0][:] = 7
        ...         handle = slot.seal()
        ...     with mm.Arena.attach(handle, rank=0) as reader:
        ...         reader.get(handle).items[0].feature.tolist()
        [[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]]
        """
        check_timeout(timeout_s)
        check_count(headroom_nbytes, "headroom_nbytes")
        check_choice(library, ("torch", "numpy"), "library")
        return Reservation.make(
            self._transport,
            template,
            timeout_s=timeout_s,
            headroom_nbytes=headroom_nbytes,
            library=library,
        )

    def materialize(
        self,
        inputs: MultimodalInputs,
        processor: Any = None,
        *,
        fetcher: Fetcher | None = None,
        timeout_s: float = 0.0,
        reuse: Literal["request", "items"] = "request",
    ) -> tuple[Handle, MultimodalInputs]:
        """Materialize inputs inside the arena: images are processed where the ranks read them.

        Parameters
        ----------
        inputs, processor, fetcher
            As for :func:`mmformat.materialize`. The slot is reserved from the images' headers, and
            processors that can plan (this library's image processors) write codes or floats
            straight into it. What other processors make is copied in.
        timeout_s : float
            How long to wait for room; nothing is decoded before there is some.
        reuse : {"request", "items"}
            As for :meth:`put`.

        Returns
        -------
        Handle, MultimodalInputs
            What to announce, and the materialized inputs, as :func:`mmformat.materialize` returns
            them. Their arrays look at the slot and are read-only.

        Raises
        ------
        ArenaFullError
            When there is no room in time, or never will be.
        LimitError, MaterializeError, MissingExtraError, EncodeError
            As :func:`mmformat.materialize` and :meth:`put`; the slot is given back.

        Notes
        -----
        **Copies**: none of what is written in place. **Lifetime**: beside the ranks, the returned
        arrays keep the slot's memory from being used again. Content that turns out to be in the
        arena already is granted from there.

        Examples
        --------
        >>> import numpy as np
        >>> import mmformat as mm
        >>> from mmformat.media.image import QwenVLImageProcessor
        >>> photo = mm.Source(np.zeros((56, 84, 3), np.uint8))
        >>> item = mm.MultimodalDataItem(modality="IMAGE", feature=photo)
        >>> with mm.Arena.create(nbytes=2**20, ranks=1) as arena:
        ...     inputs = mm.MultimodalInputs(items=[item])
        ...     handle, made = arena.materialize(inputs, QwenVLImageProcessor())
        >>> made.items[0].feature.shape
        (24, 1176)
        """
        from mmformat.media.planning import plan_inputs

        check_timeout(timeout_s)
        check_choice(reuse, ("request", "items"), "reuse")
        if reuse == "items":
            return materialize_items(
                self._transport, inputs, processor, fetcher=fetcher, timeout_s=timeout_s
            )
        with plan_inputs(inputs, processor, fetcher=fetcher) as planned:
            if planned.images:
                return seal_in_place(self._transport, planned, timeout_s=timeout_s)
            made = planned.write()
        return self.put(made, timeout_s=timeout_s), made
