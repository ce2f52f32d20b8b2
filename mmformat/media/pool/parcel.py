"""A request for another process: its sources as bytes in a message, and JSON that says which."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from mmformat.errors import MaterializeError, MMFormatError
from mmformat.media.fetch import Fetcher, read_source
from mmformat.media.lazy import load_lazy
from mmformat.media.load import load_image
from mmformat.media.materialize import MAX_LAZY_STEPS, load_values
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import MultimodalDataItem, MultimodalInputs
from mmformat.model.message import EncodedMessage
from mmformat.model.source import Source
from mmformat.model.tensors import is_tensor

__all__ = ["Decode", "Encode", "encode_numbered", "pack", "unpack"]

Encode: TypeAlias = Callable[[MultimodalInputs], EncodedMessage]
Decode: TypeAlias = Callable[[Any], MultimodalInputs]

_BOUNDS = ("max_nbytes", "max_pixels", "max_duration_s")


def pack(
    items: list[tuple[int, MultimodalDataItem]], *, encode: Encode, fetcher: Fetcher | None
) -> tuple[dict[str, Any], EncodedMessage]:
    """Return the items of a request as JSON and a message, every source in it as an array.

    Parameters
    ----------
    items : list of (int, MultimodalDataItem)
        Each with its number in the request, which errors name.
    encode : callable
        What makes the message.
    fetcher : callable, optional
        URLs are fetched here, in the caller's process.

    Raises
    ------
    LimitError, MaterializeError, EncodeError
        When a source cannot be read, or is of a kind that only a thread can take.

    Notes
    -----
    **Copies**: none of bytes and arrays; a file object is read, and lazy objects are loaded. A path
    travels as a path.
    """
    sources: list[dict[str, Any]] = []
    packed = []
    for place, (number, item) in enumerate(items):
        path = f"$.items[{number}]"

        def take(value: Any, where: str, at: list[int]) -> Any:
            for _ in range(MAX_LAZY_STEPS):
                if value is None or is_tensor(value) or isinstance(value, DictionaryTensor):
                    return value
                if isinstance(value, (list, tuple)):
                    return [take(v, f"{where}[{i}]", [*at, i]) for i, v in enumerate(value)]
                if isinstance(value, Source):
                    array, said = _array_of(value, fetcher, where)
                    bounds = {name: getattr(value, name) for name in _BOUNDS}
                    sources.append({"at": at, **said, **bounds})
                    return array
                value = load_lazy(value, path=where)
            raise MaterializeError(
                f"expected a tensor after {MAX_LAZY_STEPS} lazy steps", path=where
            )

        packed.append(
            replace(
                item,
                feature=take(item.feature, f"{path}.feature", [place]),
                precomputed_embeddings=load_values(
                    item.precomputed_embeddings, f"{path}.precomputed_embeddings"
                ),
                model_specific_data=load_values(
                    item.model_specific_data, f"{path}.model_specific_data"
                ),
            )
        )
    numbers = [number for number, _ in items]
    return {"numbers": numbers, "sources": sources}, encode_numbered(packed, numbers, encode=encode)


def encode_numbered(
    items: list[MultimodalDataItem], numbers: list[int], *, encode: Encode
) -> EncodedMessage:
    """Encode some items of a request; an error names the item by its number there."""
    try:
        return encode(MultimodalInputs(items=items))
    except MMFormatError as error:
        match = re.match(r"\$\.items\[(\d+)\]", error.path or "")
        if match is None:
            raise
        path = f"$.items[{numbers[int(match[1])]}]{str(error.path)[match.end() :]}"
        raise type(error)(error.reason, path=path, hint=error.hint, code=error.code) from error


def unpack(
    head: dict[str, Any], body: memoryview, *, decode: Decode
) -> list[tuple[int, MultimodalDataItem]]:
    """Return the items of a request with their sources, as they were packed."""
    items = decode(body).items
    for said in head["sources"]:
        place, *inside = said["at"]
        if not inside:
            items[place].feature = _source_of(said, items[place].feature)
            continue
        parent: Any = items[place].feature
        for index in inside[:-1]:
            parent = parent[index]
        parent[inside[-1]] = _source_of(said, parent[inside[-1]])
    return list(zip(head["numbers"], items, strict=True))


def _array_of(source: Source, fetcher: Fetcher | None, path: str) -> tuple[Any, dict[str, Any]]:
    if source.kind == "array":
        return np.asarray(source.data), {"kind": "array"}
    if source.kind == "path":
        return _bytes_array(os.fsencode(os.path.abspath(source.data))), {"kind": "path"}  # noqa: PTH100 - bytes paths too
    if source.kind == "image":
        return _bytes_array(_image_bytes(source, path)), {"kind": "bytes"}
    if source.kind == "medium":
        raise MaterializeError(
            f"expected a medium that another process can be sent, got {source!r}",
            path=path,
            hint="use a pool of kind='thread'",
        )
    return _bytes_array(read_source(source, fetcher=fetcher, path=path)), {"kind": "bytes"}


def _bytes_array(data: bytes) -> Any:
    return np.frombuffer(data, np.uint8)


def _image_bytes(source: Source, path: str) -> bytes:
    image = load_image(source, path=path)
    file = io.BytesIO()
    try:
        # TIFF keeps every mode as it is, and uncompressed it is little more than a copy.
        if "transparency" in image.info or image.mode in ("P", "PA"):
            image.save(file, "PNG", compress_level=1)
        else:
            image.save(file, "TIFF")
    except Exception as error:
        raise MaterializeError(
            f"expected an image that can be sent, got mode {image.mode}: {error}",
            path=path,
            hint="use a pool of kind='thread'",
        ) from error
    return file.getvalue()


def _source_of(said: dict[str, Any], array: Any) -> Source:
    data: Any = array
    if said["kind"] != "array":
        data = np.asarray(array).tobytes()
    if said["kind"] == "path":
        data = os.fsdecode(data)
    return Source(data, kind=said["kind"], **{name: said[name] for name in _BOUNDS})
