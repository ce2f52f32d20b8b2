"""Turn every source of a request into tensors, once, and freeze the items."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from mmformat.errors import MaterializeError, MissingExtraError, MMFormatError
from mmformat.media.lazy import is_lazy, load_lazy
from mmformat.media.processor_output import Draft, ProcessorOutput, processor_output
from mmformat.media.sources import Fetcher, reason_of
from mmformat.model.arguments import check_callable, check_type
from mmformat.model.identity import hash_of, identity_of, pad_value_of_hash
from mmformat.model.item import Modality, MultimodalDataItem, MultimodalInputs
from mmformat.model.source import Source
from mmformat.model.values import Budget, check_values, kind_of, refusal_of

__all__ = ["materialize", "materialize_async"]


MAX_LAZY_STEPS = 8
"""A lazy object may load another one, up to this depth."""


def materialize(
    inputs: MultimodalInputs, processor: Any = None, *, fetcher: Fetcher | None = None
) -> MultimodalInputs:
    """Load and process every source and lazy object, and freeze the items.

    Parameters
    ----------
    inputs : MultimodalInputs
        Not changed.
    processor : callable, or a mapping of Modality to callables, optional
        ``processor(medium)`` returns an object with ``feature`` and ``model_specific_data``, as
        this library's own processors do, a mapping of updates, or a tensor. A callable that needs
        two arguments is called ``processor(medium, item)``. Keys of a mapping that are no fields of
        the item go to ``model_specific_data``. The medium is a ``PIL.Image`` for images, a
        :class:`mmformat.media.Video` and an :class:`mmformat.media.Audio` for the others, or the
        data itself of ``Source(data, kind="medium")``. May be omitted when nothing is a source.
    fetcher : callable, optional
        ``fetcher(url) -> bytes`` for sources that are URLs. Without one no URL is opened.

    Returns
    -------
    MultimodalInputs
        New items, frozen: every tensor there, ``hash``, ``identity`` and ``pad_value`` set. A hash
        or a pad value that came with an item is kept. Where a feature is a list, the processor's
        arrays in ``model_specific_data`` are joined along their first axis, in order.

    Raises
    ------
    LimitError
        When a medium is over a bound of its source; the path names it.
    MaterializeError
        When a medium cannot be read, decoded or processed, or an argument is of the wrong type; the
        path names it.
    MissingExtraError
        When the library that opens the medium is not installed.

    Notes
    -----
    **Copies**: no tensor that is there already. **Cost**: decoding, and one hash of all bytes.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.zeros((2, 2, 3), np.uint8)
    >>> item = MultimodalDataItem(modality=Modality.IMAGE, feature=Source(pixels))
    >>> out = materialize(MultimodalInputs(items=[item]), processor=np.asarray)
    >>> out.items[0].feature.shape, out.items[0].frozen, item.frozen
    ((2, 2, 3), True, False)
    """
    check_arguments(inputs, processor, fetcher)
    items = [
        materialize_item(item, processor, fetcher=fetcher, path=f"$.items[{index}]")
        for index, item in enumerate(inputs.items)
    ]
    return MultimodalInputs(
        items=items, request_data=load_values(inputs.request_data, "$.request_data")
    )


async def materialize_async(
    inputs: MultimodalInputs, processor: Any = None, *, fetcher: Fetcher | None = None
) -> MultimodalInputs:
    """Materialize in a thread; an asynchronous fetcher fetches all URLs concurrently.

    Parameters
    ----------
    inputs, processor, fetcher
        As for :func:`materialize`; the fetcher may be a coroutine function.

    Raises
    ------
    LimitError, MaterializeError, MissingExtraError
        As :func:`materialize`.

    Notes
    -----
    A cancelled await abandons the result; the thread runs to its end.

    Examples
    --------
    >>> import asyncio
    >>> asyncio.run(materialize_async(MultimodalInputs())).items
    []
    """
    check_arguments(inputs, processor, fetcher)
    fetched = await _fetched_inputs(inputs, fetcher)
    return await asyncio.to_thread(materialize, fetched, processor, fetcher=fetcher)


def check_arguments(inputs: object, processor: object, fetcher: object) -> None:
    """Raise MaterializeError unless these are inputs, a processor and a fetcher."""
    check_type(inputs, MultimodalInputs, "MultimodalInputs", name="inputs", error=MaterializeError)
    check_callable(fetcher, name="fetcher", error=MaterializeError)
    if isinstance(processor, Mapping):
        for modality, each in processor.items():
            check_callable(each, name=f"processor[{modality!s}]", error=MaterializeError)
    else:
        check_callable(processor, name="processor", error=MaterializeError)


def materialize_item(
    item: MultimodalDataItem, processor: Any, *, fetcher: Fetcher | None, path: str
) -> MultimodalDataItem:
    """Materialize one item; errors name it by ``path``. The rest is as for :func:`materialize`."""
    if is_done(item):
        return item
    return assign_identity(
        draft_item(item, processor, fetcher=fetcher, path=path).build(), path=path
    )


def is_done(item: MultimodalDataItem) -> bool:
    """Return whether an item is already materialized."""
    return item.frozen and item.hash is not None and not has_pending(item.feature)


def draft_item(
    item: MultimodalDataItem,
    processor: Any,
    *,
    fetcher: Fetcher | None,
    path: str,
    process: Callable[[Source, MultimodalDataItem, Any, str], ProcessorOutput | None] | None = None,
) -> Draft:
    """Return an item with every source processed and every lazy object loaded.

    Parameters
    ----------
    process : callable, optional
        ``process(source, item, processor, path)`` is asked first; what it gives is the source's
        output, and None leaves the source to the processor.
    """
    chosen = _chosen(processor, item.modality)
    outputs: list[ProcessorOutput] = []

    def take(source: Source, where: str) -> ProcessorOutput:
        output = None if process is None else process(source, item, chosen, where)
        if output is None:
            output = _processed(source, item, chosen, fetcher=fetcher, path=where)
        outputs.append(output)
        return output

    return Draft(
        item=item,
        feature=_resolved(item.feature, take, f"{path}.feature"),
        precomputed_embeddings=load_values(
            item.precomputed_embeddings, f"{path}.precomputed_embeddings"
        ),
        data=load_values(item.model_specific_data, f"{path}.model_specific_data"),
        outputs=outputs,
    )


def _resolved(
    value: Any,
    take: Callable[[Source, str], ProcessorOutput],
    path: str,
    depth: int = 0,
    budget: Budget | None = None,
) -> Any:
    # A module-level function: a recursive closure is a reference cycle, which would keep the
    # tensors alive until the cyclic collector runs.
    budget = budget or Budget(MaterializeError)
    for _ in range(MAX_LAZY_STEPS):
        kind = kind_of(value)
        if kind in ("list", "tuple"):
            budget.enter(len(value), depth, path=path)
            return [
                _resolved(each, take, f"{path}[{index}]", depth + 1, budget)
                for index, each in enumerate(value)
            ]
        if kind == "dict":
            budget.enter(len(value), depth, path=path)
            return {
                key: _resolved(each, take, f"{path}.{key}", depth + 1, budget)
                for key, each in value.items()
            }
        if kind in ("none", "tensor", "dictionary") or (kind is not None and depth):
            return value
        if isinstance(value, Source):
            return take(value, path)
        value = load_lazy(value, path=path)
    raise MaterializeError(
        f"no tensor after {MAX_LAZY_STEPS} lazy steps, but {type(value).__name__}",
        path=path,
    )


def assign_identity(made: MultimodalDataItem, *, path: str) -> MultimodalDataItem:
    """Set an item's missing identity, hash and pad value, and freeze it."""
    with ErrorPath(path):
        if made.identity is None:
            made.identity = identity_of(made)
        else:
            check_values(made.model_specific_data, path="$.model_specific_data")
        if made.hash is None:
            made.hash = hash_of(made)
        if made.pad_value is None:
            # Hashes of SGLang 0.5.5 may be negative or longer; only its own rule takes those.
            wide = 0 <= made.hash < 2**64
            made.pad_value = pad_value_of_hash(
                made.hash, rule="sglang-0.5.23" if wide else "sglang-0.5.5"
            )
    made.freeze()
    return made


def _processed(
    source: Source, item: MultimodalDataItem, processor: Any, *, fetcher: Fetcher | None, path: str
) -> ProcessorOutput:
    if processor is None:
        raise MaterializeError(
            f"no processor for {item.modality.value} was given",
            path=path,
            hint="mmformat.materialize(inputs, processor=...)",
            code="no-processor",
        )
    with ErrorPath(path):
        medium = _medium_of(source, item.modality, fetcher=fetcher, path=path)
        try:
            made = processor(medium, item) if _takes_item(processor) else processor(medium)
        finally:
            close = getattr(medium, "close", None)
            if item.modality is Modality.VIDEO and source.kind != "medium" and close is not None:
                close()
        return processor_output(made)


def _medium_of(source: Source, modality: Modality, *, fetcher: Fetcher | None, path: str) -> Any:
    if source.kind == "medium":
        return source.data
    if modality is Modality.VIDEO:
        from mmformat.media.video import open_video

        return open_video(source, fetcher=fetcher, path=path)
    if modality is Modality.AUDIO:
        from mmformat.media.audio import load_audio

        return load_audio(source, fetcher=fetcher, path=path)
    from mmformat.media.sources import load_image

    return load_image(source, fetcher=fetcher, path=path)


def _chosen(processor: Any, modality: Modality) -> Any:
    return processor.get(modality) if isinstance(processor, Mapping) else processor


def _takes_item(processor: Any) -> bool:
    try:
        inspect.signature(processor).bind(None)
    except TypeError:
        return True
    except ValueError:  # a builtin without a signature: numpy.asarray
        return False
    return False


def load_values(value: Any, path: str, depth: int = 0, budget: Budget | None = None) -> Any:
    """Load the lazy objects of a nested value, in which a Source is an error."""
    budget = budget or Budget(MaterializeError)
    kind = kind_of(value)
    if kind == "dict":
        budget.enter(len(value), depth, path=path)
        return {
            key: load_values(each, f"{path}.{key}", depth + 1, budget)
            for key, each in value.items()
        }
    if kind in ("list", "tuple"):
        budget.enter(len(value), depth, path=path)
        parts = [
            load_values(each, f"{path}[{index}]", depth + 1, budget)
            for index, each in enumerate(value)
        ]
        return parts if kind == "list" else tuple(parts)
    for _ in range(MAX_LAZY_STEPS):
        if isinstance(value, Source):
            raise MaterializeError("a Source is only allowed in an item's feature", path=path)
        if kind_of(value) is not None:
            return value
        if not is_lazy(value):
            refusal = refusal_of(value, path=path)
            raise MaterializeError(refusal.reason, path=path, hint=refusal.hint)
        value = load_lazy(value, path=path)
    raise MaterializeError(f"no value after {MAX_LAZY_STEPS} lazy steps", path=path)


def has_pending(value: Any) -> bool:
    """Return whether a feature still holds a source or a lazy object."""
    kind = kind_of(value)
    if kind in ("list", "tuple"):
        return any(has_pending(each) for each in value)
    return any(has_pending(each) for each in value.values()) if kind == "dict" else kind is None


class ErrorPath:
    """A context that turns every exception into one of ours, with the path of the medium."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        if isinstance(error, MissingExtraError):
            raise error
        if isinstance(error, MMFormatError):
            if error.path is not None and error.path.startswith(self._path):
                raise error
            inner = "" if error.path in (None, "$") else f" (in {error.path})"
            code = "materialize" if error.code == type(error).code else error.code
            raise MaterializeError(
                f"{error.reason}{inner}", path=self._path, hint=error.hint, code=code
            ) from error
        raise MaterializeError(
            f"processor raised {type(error).__name__}: {reason_of(error)}",
            path=self._path,
        ) from error


async def _fetched_inputs(inputs: MultimodalInputs, fetcher: Fetcher | None) -> MultimodalInputs:
    sources: list[tuple[Source, str]] = []
    for index, item in enumerate(inputs.items):
        _collect_urls(item.feature, fetcher, f"$.items[{index}].feature", sources)
    if not sources:
        return inputs
    fetches = [_fetch(source, fetcher, where) for source, where in sources]
    found = dict(
        zip((id(source) for source, _ in sources), await asyncio.gather(*fetches), strict=True)
    )
    items = [
        replace(item, feature=_with_bytes(item.feature, found))
        if has_pending(item.feature)
        else item
        for item in inputs.items
    ]
    return MultimodalInputs(items=items, request_data=inputs.request_data)


def _collect_urls(
    value: Any, fetcher: Fetcher | None, path: str, into: list[tuple[Source, str]]
) -> None:
    if isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            _collect_urls(each, fetcher, f"{path}[{index}]", into)
    elif isinstance(value, Source) and value.kind == "url":
        chosen = value.fetcher or fetcher
        call = getattr(chosen, "__call__", None)  # noqa: B004 - an object may have an async __call__
        if inspect.iscoroutinefunction(chosen) or inspect.iscoroutinefunction(call):
            into.append((value, path))


async def _fetch(source: Source, fetcher: Fetcher | None, path: str) -> Source:
    with ErrorPath(path):
        chosen: Any = source.fetcher or fetcher
        data = await chosen(source.data)
        return Source(
            data,
            kind="bytes",
            max_nbytes=source.max_nbytes,
            max_pixels=source.max_pixels,
            max_duration_s=source.max_duration_s,
        )


def _with_bytes(value: Any, found: dict[int, Source]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_with_bytes(each, found) for each in value]
    return found.get(id(value), value)
