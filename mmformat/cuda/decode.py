"""Decode to any device: the codec checks and finds the tensors, placement brings them over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mmformat._arrow import buffer_of
from mmformat.codec import decode as decode_on_cpu
from mmformat.codec.chained_buffer import ChainedBuffer, open_chained
from mmformat.codec.columns import DICTIONARY, Row, TensorEntry
from mmformat.codec.decode import Library, RowReader, gather
from mmformat.codec.schema import ALIGNMENT
from mmformat.codec.stream import read_batches
from mmformat.codec.tensors import dictionary_layout, tensor_of
from mmformat.cuda.copy_stream import Lane, lane_of
from mmformat.cuda.device import is_cpu, resolve_device
from mmformat.cuda.device_views import FrameMap, Landing
from mmformat.cuda.expand import expand_codes
from mmformat.cuda.pinned_scratch import Unpacked
from mmformat.cuda.staging import staging_of
from mmformat.errors import IntegrityError, ModelError, PlacementError
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.tensors import torch_dtype

if TYPE_CHECKING:
    import torch

__all__ = ["decode", "decode_staged", "decode_with", "lend", "refuse_numpy", "room_in"]

_Rows: TypeAlias = tuple[list[tuple[Row, str]], Row | None]

SMALL_NBYTES: Final = 2**15


def decode(
    source: Any,
    device: torch.device | str = "cpu",
    *,
    limits: Limits | None = None,
    library: Library | None = None,
    expand: bool = True,
    writable: bool = True,
) -> MultimodalInputs:
    """Decode a message into the inputs that were encoded, on the CPU or on a CUDA device.

    Parameters
    ----------
    source : EncodedMessage, bytes, buffer, list of frames, or path
        The message; a path is mapped copy-on-write.
    device : str or torch.device, default "cpu"
        Where the tensors are wanted. On a CUDA device all of them are torch tensors.
    limits : Limits, optional
        What the message may ask for.
    library : {"torch", "numpy"}, optional
        Which tensors to make; each as it was sent when omitted.
    expand : bool, default True
        Expand dictionary tensors; otherwise they come as DictionaryTensor.
    writable : bool, default True
        On the CPU: copy the elements of torch tensors out of ``bytes`` objects, so that writing to
        a tensor never changes an immutable object: torch has no read-only tensors. False leaves
        them where they lie; then do not write to them.

    Returns
    -------
    MultimodalInputs
        Equal to what was encoded.

    Raises
    ------
    DecodeError
        When the bytes are no message of this format: TruncatedError, SchemaError, VersionError,
        IntegrityError, each with the code of the broken clause.
    LimitError
        When the message asks for more than the limits allow.
    PlacementError
        When the device cannot be had, or ``library="numpy"`` is asked for on one.
    ModelError
        When ``limits`` or ``library`` is none.
    MissingExtraError
        When torch tensors were sent, or a device is wanted, and torch is not installed.

    Notes
    -----
    **Copies**: on the CPU none of an uncompressed tensor of more than 12 bytes, except of torch
    tensors in a ``bytes`` object (see ``writable``); compressed tensors and expanded dictionary
    tensors are written once. To a device: from the first tensor
    to the last one, each byte once into pinned memory and once over the bus; codes cross the bus
    and are expanded there. **Lifetime**: on the CPU each tensor keeps its frame alive; a
    numpy array over read-only memory is read-only. On a device
    the tensors are views of one allocation, and the source is not needed any more.

    References
    ----------
    SPEC.md, "Reading"; docs/cuda.md.

    Examples
    --------
    >>> import mmformat as mm
    >>> mm.decode(mm.encode(mm.MultimodalInputs(request_data={"a": (1, None)}))).request_data
    {'a': (1, None)}
    """
    if is_cpu(device):
        return decode_on_cpu(
            source, limits=limits, library=library, expand=expand, writable=writable
        )
    refuse_numpy(library)
    lane = lane_of(resolve_device(device))
    with lane.side():
        inputs, tensors = decode_staged(source, lane=lane, limits=limits, expand=expand)
        event = lane.mark()
    lane.join(event, tensors)
    return inputs


def refuse_numpy(library: Library | None) -> None:
    """Raise PlacementError when numpy arrays are wanted on a device."""
    if library == "numpy":
        raise PlacementError(
            "expected torch tensors on a device, got library='numpy'",
            hint="leave library out, or use device='cpu'",
            code="library",
        )


def decode_staged(
    source: Any,
    *,
    lane: Lane,
    limits: Limits | None = None,
    expand: bool = True,
    out: torch.Tensor | None = None,
) -> tuple[MultimodalInputs, list[torch.Tensor]]:
    """Decode from any memory through pinned staging buffers; the lane's side stream is current.

    Returns
    -------
    MultimodalInputs, list of tensor
        The inputs, complete when the side stream is, and each allocation that they lie in.

    Raises
    ------
    DecodeError, LimitError, PlacementError
        As :func:`decode`.
    """
    bounds = Limits.of(limits)
    spans = open_chained(source)
    unpacked = Unpacked(lane)
    rows = gather(read_batches(spans, bounds, allocate=unpacked.allocate), bounds)
    frames = FrameMap(spans.frames)
    start, end = _extent(rows, frames)
    buffer = room_in(out, end - start, lane=lane)
    staging_of(lane.device).copy(frames.pieces(start, end), buffer, lane)
    landing = Landing(buffer, frames, start=start)
    maker = _Maker(buffer, landing, lane, expand=expand, unpacked=unpacked)
    return _finish(rows, bounds, maker), maker.tensors


def decode_with(
    spans: ChainedBuffer, buffer: torch.Tensor, *, lane: Lane, limits: Limits, expand: bool
) -> tuple[MultimodalInputs, list[torch.Tensor]]:
    """Decode a message whose bytes are on their way to ``buffer`` already.

    Returns
    -------
    MultimodalInputs, list of tensor
        As :func:`decode_staged`; the lane's side stream is current.

    Notes
    -----
    The message is checked here, on the host, before any view of the device's copy is made.
    """
    rows = gather(read_batches(spans, limits), limits)
    maker = _Maker(buffer, Landing(buffer, FrameMap(spans.frames)), lane, expand=expand)
    return _finish(rows, limits, maker), maker.tensors


def room_in(out: torch.Tensor | None, nbytes: int, *, lane: Lane) -> torch.Tensor:
    """Return so many bytes on the lane's device: of ``out``, or of torch's caching allocator.

    Raises
    ------
    PlacementError
        With code ``destination`` when ``out`` is too small.
    """
    import torch

    if out is None:
        return torch.empty(nbytes, dtype=torch.uint8, device=lane.device)
    if out.numel() < nbytes:
        raise PlacementError(
            f"expected a destination of {nbytes:,} bytes, got {out.numel():,}",
            path="$.out",
            code="destination",
        )
    return out[:nbytes]


def lend(out: torch.Tensor, lane: Lane) -> None:
    """Check a caller's destination, and write to it behind what the caller's stream has to do.

    Raises
    ------
    PlacementError
        With code ``destination``.
    """
    import torch

    if not isinstance(out, torch.Tensor):
        raise PlacementError(
            f"expected a tensor, got {type(out).__name__}", path="$.out", code="destination"
        )
    if out.dtype != torch.uint8 or out.dim() != 1 or not out.is_contiguous():
        raise PlacementError(
            f"expected a contiguous uint8 tensor of one axis, got {out.dtype} {list(out.shape)}",
            path="$.out",
            code="destination",
        )
    if out.device != lane.device or out.data_ptr() % ALIGNMENT:
        raise PlacementError(
            f"expected a destination on {lane.device} at a multiple of {ALIGNMENT} bytes, "
            f"got one on {out.device} at {out.data_ptr():#x}",
            path="$.out",
            code="destination",
        )
    lane.borrow(out)


def _extent(rows: _Rows, frames: FrameMap) -> tuple[int, int]:
    """Return from where to where in the message the bytes of tensors lie, as they are."""
    items, request = rows
    start, end = frames.nbytes, 0
    for row in [*(row for row, _ in items), *([] if request is None else [request])]:
        for entry in row.tensors:
            for chunk in entry.data:
                buffer = buffer_of(chunk)
                at = frames.find(buffer.address, buffer.size) if buffer.size else None
                if at is not None:
                    start, end = min(start, at), max(end, at + buffer.size)
    return (start, end) if start < end else (0, 0)


def _finish(rows: _Rows, limits: Limits, maker: _Maker) -> MultimodalInputs:
    items, request = rows
    reader = RowReader(limits, maker.make, expands=maker.expands)
    inputs = MultimodalInputs(items=[reader.item(*pair) for pair in items])
    if request is not None:
        fields = reader.values(request, "$", ("request_data",))
        inputs.request_data = fields.get("request_data", {})
    return inputs


class _Maker:
    """Make the device's tensor of each checked entry.

    Attributes
    ----------
    tensors : list of tensor
        One of each allocation that the made tensors lie in.
    """

    __slots__ = ("_buffer", "_landing", "_lane", "_unpacked", "expands", "tensors")

    def __init__(
        self,
        buffer: torch.Tensor,
        landing: Landing,
        lane: Lane,
        *,
        expand: bool,
        unpacked: Unpacked | None = None,
    ) -> None:
        self._unpacked = unpacked
        self._buffer: torch.Tensor | None = buffer
        self._landing = landing
        self._lane = lane
        self.expands = expand
        self.tensors: list[torch.Tensor] = []

    def make(self, entry: TensorEntry, torch: bool, path: str) -> Any:
        """Return the tensor of an entry; numpy's become torch's, for numpy has no devices."""
        element = torch_dtype(entry.dtype)
        if entry.encoding == DICTIONARY:
            return self._dictionary(entry, element, path)
        if len(entry.data) == 1:
            found = self._landing.take(entry.data[0], element, entry.shape)
            if found is not None:
                self._keep()
                return found
        return self._place(tensor_of(entry, torch=True, expand=False, path=path), keeps=True)

    def _dictionary(self, entry: TensorEntry, element: Any, path: str) -> Any:
        layout = dictionary_layout(entry, path)
        codes = table = None
        if len(entry.data) == 2:
            codes = self._landing.take(entry.data[1], torch_dtype("uint8"), layout.codes.shape)
            table = self._landing.take(entry.data[0], element, layout.table.shape)
        if codes is None or table is None:
            host = tensor_of(entry, torch=True, expand=False, path=path)
            codes = self._place(host.codes, keeps=False)
            table = self._place(host.table, keeps=False)
        if not self.expands:
            self._keep()
            return DictionaryTensor(
                codes,
                table,
                axis=layout.axis,
                repeat_axis=layout.repeat_axis,
                repeat=layout.repeat,
                shape=entry.shape,
            )
        try:
            expanded = expand_codes(
                codes,
                table,
                axis=layout.axis,
                repeat_axis=layout.repeat_axis,
                repeat=layout.repeat,
                shape=entry.shape,
            )
        except ModelError as error:
            raise IntegrityError(error.reason, path=path, code=error.code) from error
        self.tensors.append(expanded)
        return expanded

    def _keep(self) -> None:
        if self._buffer is not None:
            self.tensors.append(self._buffer)
            self._buffer = None

    def _place(self, host: Any, *, keeps: bool) -> torch.Tensor:
        import torch

        found = self._landing.view(host)
        if found is not None:
            if keeps:
                self._keep()
            return found
        # Decompressed, or so small that its view in the message holds it.
        found = torch.empty(host.shape, dtype=host.dtype, device=self._lane.device)
        source = None if self._unpacked is None else self._unpacked.find(host)
        if source is not None:
            self.tensors.append(found)
            found.view(-1).view(torch.uint8).copy_(source, non_blocking=True)
            return found
        self.tensors.append(found)
        if host.nbytes <= SMALL_NBYTES:
            # The driver has taken the bytes when this returns, and waits for nothing.
            return found.copy_(host, non_blocking=True)
        flat = host.reshape(-1).view(torch.uint8)
        staging = staging_of(self._lane.device)
        staging.copy([flat], found.view(-1).view(torch.uint8), self._lane)
        return found
