"""The verb of this room: an old pickle in, multimodal inputs and a report out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmformat.errors import ModelError
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.mapping import Mapping, joined
from mmformat.legacy.nodes import Tensor
from mmformat.legacy.plain import Values
from mmformat.legacy.reading import Reading, read
from mmformat.legacy.report import ConversionReport
from mmformat.legacy.sandbox import Block, read_isolated
from mmformat.legacy.storage import Lander, Library, PickleSource, Source, TensorMaker
from mmformat.model.arguments import check_type
from mmformat.model.item import MultimodalInputs

__all__ = ["Conversion", "convert", "convert_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Hold what a source was converted into.

    Parameters
    ----------
    inputs : list of MultimodalInputs
        One for each request that the source holds.
    report : ConversionReport
        What was read, changed, dropped and assumed.
    """

    inputs: list[MultimodalInputs]
    report: ConversionReport


def convert(
    source: PickleSource,
    *,
    buffers: Sequence[bytes | bytearray | memoryview] = (),
    limits: PickleLimits | None = None,
    library: Library = "auto",
    isolated: bool = True,
    sglang_version: str | None = None,
) -> MultimodalInputs:
    r"""Convert a legacy pickle; nothing of it is executed.

    Parameters
    ----------
    source : path, bytes, bytearray or memoryview
        A pickle of protocol 0 to 5, several of them after each other, or a file of torch.save.
    buffers : sequence of buffers
        Out-of-band buffers of protocol 5, in order.
    limits : PickleLimits, optional
        Bounds; the defaults suit files of up to 16 GiB.
    library : {"auto", "torch", "numpy"}
        What torch tensors become; ``"auto"`` is torch where it is installed. Numpy arrays stay.
    isolated : bool, default True
        Read in a child process that can open neither files nor sockets. Without it the same
        machine reads in this process, which is faster for single small files.
    sglang_version : str, optional
        Which SGLang wrote the file; needed only for dicts and lists of 0.5.6 to 0.5.19 whose
        modality would have two meanings.

    Returns
    -------
    MultimodalInputs
        Of several requests: the items of all of them, and
        ``request_data["requests"]`` with each one's ``item_range`` and ``request_data``.

    Raises
    ------
    UnsafePickleError
        For a name that is not allow-listed, a persistent id, an extension code, or any call that
        is none of the known ones.
    DecodeError, TruncatedError
        For a broken stream, a tensor outside its storage, or bytes that are not in the file.
    LimitError
        When a bound is passed.
    MissingExtraError
        For bfloat16 and float8 without torch and without ml_dtypes.
    ModelError
        For a source or an option of the wrong type.

    Notes
    -----
    **Copies**: each tensor's bytes once, out of the file and into memory of their own, those of
    the view alone. **Lifetime**: the result does not depend on the source.

    Examples
    --------
    >>> convert(b"\x80\x04}\x8c\x01nK\x07s.", isolated=False).request_data
    {'n': 7}
    """
    return joined(
        convert_all(
            source,
            buffers=buffers,
            limits=limits,
            library=library,
            isolated=isolated,
            sglang_version=sglang_version,
        ).inputs
    )


def convert_all(
    source: PickleSource,
    *,
    buffers: Sequence[bytes | bytearray | memoryview] = (),
    limits: PickleLimits | None = None,
    library: Library = "auto",
    isolated: bool = True,
    sglang_version: str | None = None,
) -> Conversion:
    """Convert as :func:`convert` does, each request by itself, and say what was done.

    Raises
    ------
    MMFormatError
        As :func:`convert`.
    """
    check_type(limits, (PickleLimits, type(None)), "PickleLimits", name="limits")
    check_type(sglang_version, (str, type(None)), "a version", name="sglang_version")
    limits = limits or PickleLimits()
    maker = TensorMaker(library)
    try:
        views = [memoryview(buffer).cast("B").toreadonly() for buffer in buffers]
    except (TypeError, ValueError) as error:
        raise ModelError(f"expected contiguous buffers, got: {error}", path="$.buffers") from error
    with Source(source) as opened:
        nbytes = len(opened.view) + sum(len(view) for view in views)
        landed: _Landed | Block
        if isolated:
            reading, landed = read_isolated(opened, limits, views)
        else:
            reading = read(opened.view, limits, views)
            landed = _Landed(opened.lander(reading.found.tensors))
        report = ConversionReport(
            source=opened.name,
            nbytes=nbytes,
            container=reading.container,
            protocol=reading.protocol,
            pickles=len(reading.roots),
            isolation=landed.isolation,
            globals=reading.names,
        )
        return _mapped(reading, landed, maker, report=report, sglang_version=sglang_version)


class _Landed:
    """Land each tensor in memory of its own."""

    isolation = "none"

    def __init__(self, lander: Lander) -> None:
        self._lander = lander

    def data(self, tensor: Tensor) -> npt.NDArray[np.uint8]:
        made = np.empty(tensor.nbytes, np.uint8)
        self._lander.land(tensor, made)
        return made


def _mapped(
    reading: Reading,
    landed: _Landed | Block,
    maker: TensorMaker,
    *,
    report: ConversionReport,
    sglang_version: str | None,
) -> Conversion:
    def make(tensor: Tensor) -> Any:
        report.tensors += 1
        report.tensor_nbytes += tensor.nbytes
        return maker.make(tensor, landed.data(tensor))

    mapping = Mapping(Values(make, report), reading.found, sglang_version=sglang_version)
    made: list[MultimodalInputs] = []
    for index, root in enumerate(reading.roots):
        made += mapping.root(root, "$" if len(reading.roots) == 1 else f"$[pickle {index}]")
    return Conversion(inputs=made, report=report)
