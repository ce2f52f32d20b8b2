"""Decode a message: check it, then make views of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from mmformat.codec.attributes import BARE, exact_int, join
from mmformat.codec.chained_buffer import open_chained
from mmformat.codec.columns import DICTIONARY, Row, TensorEntry
from mmformat.codec.decompression import Allocate
from mmformat.codec.plans import Make, by_plan, learn
from mmformat.codec.schema import REQUEST
from mmformat.codec.stream import read_batches
from mmformat.codec.tensors import check_entry, tensor_of
from mmformat.errors import DecodeError, IntegrityError
from mmformat.model.arguments import check_text
from mmformat.model.item import InputFormat, Modality, MultimodalDataItem, MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.message import EncodedMessage
from mmformat.model.tensors import TensorSpec

__all__ = ["Library", "RowReader", "check_library", "decode", "gather"]

Library = Literal["torch", "numpy"]

_MODALITIES = {member.value: member for member in Modality}
_FORMATS = {member.value: member for member in InputFormat}
_FIELDS = ("feature", "model_specific_data", "precomputed_embeddings")


def check_library(library: object) -> None:
    """Refuse a ``library`` that is neither None nor one of :data:`Library`.

    Raises
    ------
    ModelError
        If it is anything else.
    """
    if library is not None:
        check_text(library, get_args(Library), name="library")


def decode(
    source: Any,
    *,
    limits: Limits | None = None,
    library: Library | None = None,
    expand: bool = True,
    allocate: Allocate | None = None,
    writable: bool = True,
) -> MultimodalInputs:
    """Decode a message into the inputs that were encoded.

    Parameters
    ----------
    source : EncodedMessage, bytes, buffer, list of frames, or path
        The message; a path is mapped copy-on-write.
    limits : Limits, optional
        Bounds on the message.
    library : {"torch", "numpy"}, optional
        Library of the tensors; as sent if omitted.
    expand : bool, default True
        Expand dictionary tensors; otherwise they come as DictionaryTensor.
    allocate : callable, optional
        Return writable memory, at a multiple of 64, of so many bytes; called for each compressed
        tensor after its size was checked. Arrow's pool gives it when omitted.
    writable : bool, default True
        Copy the elements of torch tensors out of ``bytes`` objects, so that writing to a tensor
        never changes an immutable object: torch has no read-only tensors. False leaves them where
        they lie; then do not write to them.

    Returns
    -------
    MultimodalInputs
        Equal to what was encoded.

    Raises
    ------
    DecodeError
        If the bytes are not a message of this format: TruncatedError, SchemaError, VersionError,
        IntegrityError, each with the code of the broken clause.
    LimitError
        If the message asks for more than the limits allow.
    ModelError
        If ``limits`` or ``library`` is invalid.
    MissingExtraError
        If torch tensors were sent and torch is not installed.

    Notes
    -----
    **Copies**: none of an uncompressed tensor of more than 12 bytes, except of torch tensors in a
    ``bytes`` object (see ``writable``); compressed tensors and expanded dictionary tensors are
    written once. **Lifetime**: each tensor keeps its frame alive. A numpy array over read-only
    memory is read-only. **Cost**: a message with the structure of an earlier one is decoded by a
    plan, in a third of the time.

    References
    ----------
    SPEC.md, "Reading".

    Examples
    --------
    >>> import mmformat as mm
    >>> mm.decode(mm.encode(mm.MultimodalInputs(request_data={"a": (1, None)}))).request_data
    {'a': (1, None)}
    """
    bounds = Limits.of(limits)
    check_library(library)
    spans = None
    if isinstance(source, EncodedMessage):
        frames: Sequence[Any] = source.frames
    else:
        spans = open_chained(source)
        frames = spans.frames
    known = by_plan(frames, bounds, library=library, expand=expand, writable=writable)
    if known is not None:
        return known
    spans = spans or open_chained(source)
    items, request = gather(read_batches(spans, bounds, allocate=allocate), bounds)

    def make(entry: TensorEntry, torch: bool, path: str) -> Any:
        if library is not None:
            torch = library == "torch"
        return tensor_of(entry, torch=torch, expand=expand, writable=writable, path=path)

    inputs = assemble(items, request, RowReader(bounds, make, expands=expand))
    rows = [row for row, _ in items] + ([] if request is None else [request])
    learn(
        frames,
        bounds,
        rows,
        lambda make: assemble(items, request, RowReader(bounds, make, expands=False)),
    )
    return inputs


def assemble(
    items: Sequence[tuple[Row, str]], request: Row | None, reader: RowReader
) -> MultimodalInputs:
    """Return the inputs of rows that :func:`gather` has put together.

    Raises
    ------
    DecodeError, IntegrityError, LimitError
        If a row breaks a promise of the format.
    """
    inputs = MultimodalInputs(items=[reader.item(*rows) for rows in items])
    if request is not None:
        fields = reader.values(request, "$", ("request_data",))
        inputs.request_data = fields.get("request_data", {})
    return inputs


def gather(
    batches: Iterable[list[Row]], limits: Limits
) -> tuple[list[tuple[Row, str]], Row | None]:
    """Merge the rows of each item, and check their order."""
    items: list[tuple[Row, str]] = []
    request: Row | None = None
    tensors = 0
    for number, rows in enumerate(batches):
        previous = -2
        for row in rows:
            tensors += len(row.tensors)
            path = f"$.items[{row.item}]" if row.item >= 0 else "$"
            # The request's row comes last, so it is ordered as if it were number infinity.
            place = row.item if row.item >= 0 else len(items) + len(rows)
            if row.item < -1 or (row.item == -1) != (row.modality == REQUEST) or place <= previous:
                raise IntegrityError(
                    "rows must be in item order, the request's last", path=path, code="row-order"
                )
            previous = place
            if number == 0:
                if row.item == -1:
                    if _has_fields(row):
                        raise IntegrityError(
                            "a request row must have only attributes and tensors",
                            path=path,
                            code="request-row",
                        )
                    request = row
                elif row.item == len(items):
                    items.append((row, path))
                else:
                    raise IntegrityError(
                        "items must be numbered 0, 1, 2", path=path, code="row-order"
                    )
                continue
            head = request if row.item == -1 else None
            if 0 <= row.item < len(items):
                head = items[row.item][0]
            if (
                head is None
                or head.modality != row.modality
                or _has_fields(row)
                or row.attributes is not None
            ):
                raise IntegrityError(
                    "a continuation row must have only tensors", path=path, code="continuation"
                )
            head.tensors += row.tensors
    limits.check("items", len(items))
    limits.check("tensors", tensors)
    return items, request


def _has_fields(row: Row) -> bool:
    return not (
        row.format is None
        and row.hash is None
        and row.pad_value is None
        and row.identity is None
        and row.offsets is None
    )


class RowReader:
    """Checks rows and makes their values; ``make`` makes the tensors."""

    __slots__ = ("expanded_nbytes", "expands", "limits", "make", "makes_scalars")

    def __init__(
        self, limits: Limits, make: Make, *, expands: bool = True, makes_scalars: bool = True
    ) -> None:
        self.makes_scalars = makes_scalars
        self.limits = limits
        self.make = make
        self.expands = expands
        self.expanded_nbytes = 0

    def item(self, row: Row, path: str) -> MultimodalDataItem:
        """Return the item of a row.

        Raises
        ------
        DecodeError, IntegrityError, LimitError
            If the row breaks a promise of the format.
        """
        modality = _MODALITIES.get(row.modality)
        form = _FORMATS.get(row.format or "")
        if modality is None or form is None:
            raise DecodeError(
                f"expected a modality and a format of version 1, got {row.modality!r} and "
                f"{row.format!r}",
                path=path,
                code="modality",
            )
        return MultimodalDataItem(
            modality=modality,
            format=form,
            hash=_integer(row.hash, path),
            pad_value=row.pad_value,
            identity=row.identity,
            offsets=row.offsets,
            **self.values(row, path, _FIELDS),
        )

    def values(self, row: Row, path: str, fields: tuple[str, ...]) -> dict[str, Any]:
        """Return the values of a row's attributes, its tensors among them.

        Raises
        ------
        DecodeError, IntegrityError, LimitError
            If attributes and tensors break a promise of the format.
        """
        entries: dict[str, TensorEntry] = {}
        for entry in row.tensors:
            if entry.name in entries:
                raise IntegrityError(
                    f"duplicate tensor {entry.name!r}", path=path, code="tensor-names"
                )
            check_entry(entry, self.limits, path=f"{path}.{entry.name}")
            entries[entry.name] = entry
            if self.expands and entry.encoding == DICTIONARY:
                # Before anything is expanded: a few bytes may expand to gigabytes.
                self.expanded_nbytes += TensorSpec(entry.dtype, tuple(entry.shape)).nbytes
                self.limits.check("decompressed_nbytes", self.expanded_nbytes, path=path)

        def restore(name: str, torch: bool) -> Any:
            entry = entries.pop(name, None)
            if entry is None:
                raise IntegrityError(
                    f"the attributes name {name!r}, but there is no such tensor left",
                    path=path,
                    code="tensor-names",
                )
            return self.make(entry, torch, f"{path}.{name}")

        if row.attributes is None:
            raise DecodeError("the attributes are missing", path=path, code="attributes")
        values = join(
            row.attributes,
            restore,
            limits=self.limits,
            path=path,
            makes_scalars=self.makes_scalars,
        )
        if entries:
            raise IntegrityError(
                f"the attributes do not use the tensor {next(iter(entries))!r}",
                path=path,
                code="tensor-names",
            )
        for name, value in values.items():
            mapping = name in ("model_specific_data", "request_data")
            if name not in fields or (mapping and type(value) is not dict):
                raise DecodeError(
                    f"expected the fields {', '.join(fields)}, got {name!r}",
                    path=path,
                    code="attributes-field",
                )
            if not mapping and isinstance(value, BARE):
                raise DecodeError(
                    f"expected tensors in {name}, got {type(value).__name__}",
                    path=f"{path}.{name}",
                    code="attributes-field",
                )
        return values


def _integer(text: str | None, path: str) -> int | None:
    if text is None:
        return None
    try:
        return exact_int(text)
    except ValueError as error:
        raise DecodeError(str(error), path=f"{path}.hash", code="hash") from error
