"""A slot whose tensors are written in place, and which becomes a message when it is sealed."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from mmformat._arrow import buffer_of
from mmformat.codec.decode import Library
from mmformat.codec.encode import encode, encode_after
from mmformat.codec.schema import ALIGNMENT
from mmformat.codec.tensors import numpy_view, torch_view
from mmformat.errors import ArenaFullError, EncodeError
from mmformat.model.item import Modality, MultimodalDataItem, MultimodalInputs
from mmformat.model.tensors import MAX_NBYTES, TensorSpec, numpy_dtype, torch_dtype
from mmformat.shm import Handle, ShmArena, Slot

__all__ = ["Reservation"]

_VIEWS: Final[dict[Library, Callable[..., Any]]] = {"torch": torch_view, "numpy": numpy_view}


class Reservation:
    """Hold a slot whose tensors lie where the message will have them.

    Made by :meth:`mmformat.Arena.reserve`; a context manager that gives back what was not sealed.

    Attributes
    ----------
    inputs : MultimodalInputs
        The template, with tensors inside the slot where it had specs; set hash, identity and other
        fields on it before :meth:`seal`.
    tensors : list
        The tensors inside the slot, in the template's order.

    Notes
    -----
    **Lifetime**: the tensors write shared memory: do not write to them after the seal.
    """

    def __init__(
        self, slot: Slot, inputs: MultimodalInputs, tensors: list[Any], first_at: int
    ) -> None:
        self._slot = slot
        self._first_at = first_at
        self.inputs = inputs
        self.tensors = tensors

    @classmethod
    def make(
        cls,
        transport: ShmArena,
        template: MultimodalInputs | Sequence[TensorSpec | tuple[Sequence[int], str]],
        *,
        timeout_s: float,
        headroom_nbytes: int,
        library: Library,
    ) -> Self:
        """Reserve room for a template, with tensors where its specs are."""
        inputs = template if isinstance(template, MultimodalInputs) else _one_item(template)
        return cls.around(
            transport,
            lambda make: _with_specs_replaced(inputs, lambda spec: make(spec, library)),
            timeout_s=timeout_s,
            headroom_nbytes=headroom_nbytes,
        )

    @classmethod
    def around(
        cls,
        transport: ShmArena,
        build: Callable[[Callable[[TensorSpec, Library], Any]], MultimodalInputs],
        *,
        timeout_s: float,
        headroom_nbytes: int = 0,
    ) -> Self:
        """Lay inputs out, reserve the room, and build them again with their tensors in it.

        Parameters
        ----------
        build : callable
            ``build(make)`` returns inputs over tensors that ``make(spec, library)`` returned, made
            in the same order each time.
        """
        # Addresses that are never written to: encoding them says where every tensor will lie.
        stands_in: list[Any] = []

        def stand_in(spec: TensorSpec, library: Library) -> Any:
            if spec.nbytes > transport.nbytes:
                raise ArenaFullError(
                    f"expected at most {transport.nbytes:,} bytes, the whole arena, "
                    f"got a tensor of {spec.nbytes:,}",
                    code="arena-too-small",
                )
            nowhere = memoryview(mmap.mmap(-1, max(1, spec.nbytes)))[: spec.nbytes]
            stands_in.append(_VIEWS[library](nowhere, spec.dtype, spec.shape))
            return stands_in[-1]

        message = encode(build(stand_in))
        starts = _starts(message.frames)
        head_nbytes = len(message.frames[0]) if stands_in else message.nbytes
        first_at = head_nbytes + headroom_nbytes + -headroom_nbytes % ALIGNMENT
        slot = transport.reserve(message.nbytes + first_at - head_nbytes, timeout_s=timeout_s)
        tensors: list[Any] = []

        def place(spec: TensorSpec, library: Library) -> Any:
            at = starts.get(_address(stands_in[len(tensors)]))
            if at is None:
                # Too small to have bytes of its own in the body: it is copied at the seal.
                tensors.append(_empty(spec, library))
            else:
                at += first_at - head_nbytes
                data = slot.view[at : at + spec.nbytes]
                tensors.append(_VIEWS[library](data, spec.dtype, spec.shape))
            return tensors[-1]

        try:
            return cls(slot, build(place), tensors, first_at)
        except BaseException:
            slot.abandon()
            raise

    def seal(self, inputs: MultimodalInputs | None = None, *, identity: bytes = b"") -> Handle:
        """Write the rest of the message around the tensors and return the handle to announce.

        Parameters
        ----------
        inputs : MultimodalInputs, optional
            What to seal in place of :attr:`inputs`: any inputs that hold :attr:`tensors`, in order.
        identity : bytes, optional
            At most 32 bytes that name the content.

        Raises
        ------
        EncodeError
            When the tensors do not stand in the inputs in the order in which they were reserved,
            or the rest of the message outgrew the headroom.

        Notes
        -----
        **Copies**: schema, metadata and columns; tensors of the inputs that are not in the slot.
        """
        message = encode_after(
            self.inputs if inputs is None else inputs, head_nbytes=self._first_at
        )
        view = self._slot.view
        base = buffer_of(view).address
        if message.nbytes > len(view):
            raise EncodeError(
                f"expected a message of {len(view):,} bytes as reserved, got {message.nbytes:,}",
                code="reservation",
            )
        at = 0
        for frame in message.frames:
            buffer = buffer_of(frame)
            if buffer.address != base + at:
                if base <= buffer.address < base + len(view):
                    raise EncodeError(
                        "expected the reserved tensors in the order of the reservation",
                        code="reservation",
                    )
                view[at : at + buffer.size] = memoryview(buffer).cast("B")
            at += buffer.size
        del view
        return self._slot.seal(message.nbytes, identity=identity)

    def abandon(self) -> None:
        """Give the slot back unsealed; after the seal it does nothing."""
        self._slot.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()


def _one_item(
    specs: Sequence[TensorSpec | tuple[Sequence[int], str]],
) -> MultimodalInputs:
    given: object = specs
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise EncodeError(
            f"expected MultimodalInputs or a list of (shape, dtype), got {type(specs).__name__}",
            path="$.template",
            code="reservation",
        )
    features = []
    for index, spec in enumerate(specs):
        try:
            shape, dtype = (spec.shape, spec.dtype) if isinstance(spec, TensorSpec) else spec
            features.append(TensorSpec(str(dtype).removeprefix("torch."), tuple(shape)))
            fits = 0 <= features[-1].nbytes <= MAX_NBYTES and min(shape, default=0) >= 0
        except (TypeError, ValueError, KeyError) as error:
            raise EncodeError(
                f"expected a shape and a dtype of the wire, got {spec!r}",
                path=f"$[{index}]",
                code="reservation",
            ) from error
        if not fits:
            raise EncodeError(
                f"expected extents of 0 or more, got {spec!r}", path=f"$[{index}]", code="shape"
            )
    feature: Any = features[0] if len(features) == 1 else features
    item = MultimodalDataItem(modality=Modality.IMAGE, feature=feature)
    return MultimodalInputs(items=[item])


def _with_specs_replaced(
    inputs: MultimodalInputs, make: Callable[[TensorSpec], Any]
) -> MultimodalInputs:
    """Return the inputs with each spec replaced, in the order in which they are encoded."""
    items = [
        replace(
            item,
            feature=_walk(item.feature, make),
            precomputed_embeddings=_walk(item.precomputed_embeddings, make),
            model_specific_data=_walk(item.model_specific_data, make),
        )
        for item in inputs.items
    ]
    return MultimodalInputs(items=items, request_data=_walk(inputs.request_data, make))


def _walk(value: Any, make: Callable[[TensorSpec], Any]) -> Any:
    # Not a function inside the other: one that calls itself is a reference cycle, which would
    # hold the slot until the cyclic collector runs.
    if type(value) is TensorSpec:
        return make(value)
    if type(value) in (list, tuple):
        return type(value)(_walk(part, make) for part in value)
    if type(value) is dict:
        return {key: _walk(part, make) for key, part in value.items()}
    return value


def _empty(spec: TensorSpec, library: Library) -> Any:
    if library == "torch":
        element = torch_dtype(spec.dtype)  # says which extra is missing
        import torch

        return torch.empty(spec.shape, dtype=element)
    return np.empty(spec.shape, numpy_dtype(spec.dtype))


def _address(tensor: Any) -> int:
    address: int = tensor.ctypes.data if isinstance(tensor, np.ndarray) else tensor.data_ptr()
    return address


def _starts(frames: Sequence[Any]) -> dict[int, int]:
    """Return at which byte of the message each frame begins, by the frame's address."""
    starts: dict[int, int] = {}
    at = 0
    for frame in frames:
        if not isinstance(frame, bytes):
            starts[buffer_of(frame).address] = at
        at += len(frame)
    return starts
