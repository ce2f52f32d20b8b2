"""Lazy objects of other libraries, and how each is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar

from mmformat.errors import MaterializeError, MMFormatError, ModelError
from mmformat.media.sources import reason_of

__all__ = ["is_lazy", "load_lazy", "register_lazy"]

_LOADERS: dict[type, Callable[[Any], Any]] = {}
_MISSING: Final = object()

Kind = TypeVar("Kind", bound=type)


def register_lazy(kind: Kind, loader: Callable[[Any], Any] | str) -> Kind:
    """Register how objects of a class are loaded where a tensor is expected.

    Parameters
    ----------
    kind : type
        The class; its subclasses are meant too.
    loader : callable or str
        ``loader(value)`` returns the value of the object: a tensor, a list of tensors, a
        ``Source``, or another lazy object. A text names an attribute that loads on first touch.

    Returns
    -------
    type
        The class itself.

    Raises
    ------
    ModelError
        When ``kind`` is no class or ``loader`` neither callable nor text.

    Notes
    -----
    Two kinds need no registration: an object whose class has a ``materialize()`` method without
    parameters, and one with an attribute ``_lazy_data`` (a value, or a function to call).

    Examples
    --------
    >>> class Later:
    ...     @property
    ...     def pixels(self):
    ...         return [1.0]
    >>> register_lazy(Later, "pixels") is Later
    True
    >>> load_lazy(Later())
    [1.0]
    """
    if not isinstance(kind, type):
        raise ModelError(f"expected a class, got {type(kind).__name__}", path="$.kind")
    if isinstance(loader, str):
        name = loader
        _LOADERS[kind] = lambda value: getattr(value, name)
    elif callable(loader):
        _LOADERS[kind] = loader
    else:
        raise ModelError(
            f"expected a callable or an attribute's name, got {type(loader).__name__}",
            path="$.loader",
        )
    return kind


def is_lazy(value: object) -> bool:
    """Return whether an object can be loaded, without loading it."""
    return _loader_of(value) is not None


def load_lazy(value: Any, *, path: str = "$") -> Any:
    """Load a lazy object.

    Raises
    ------
    MaterializeError
        When the object is not lazy, or its loader fails.

    Notes
    -----
    **Copies**: what the loader copies.
    """
    loader = _loader_of(value)
    if loader is None:
        raise MaterializeError(
            f"expected a tensor, a Source or a lazy object, got {type(value).__name__}",
            path=path,
            hint="mmformat.register_lazy(cls, loader) says how a class is loaded",
        )
    try:
        return loader(value)
    except MMFormatError:
        raise
    except Exception as error:
        raise MaterializeError(
            f"loading {type(value).__name__} raised {type(error).__name__}: {reason_of(error)}",
            path=path,
        ) from error


def _loader_of(value: object) -> Callable[[Any], Any] | None:
    for kind in type(value).__mro__:
        found = _LOADERS.get(kind)
        if found is not None:
            return found
    # Static look-ups: a plain getattr could trigger the load.
    if callable(getattr(type(value), "materialize", None)):
        return _call_materialize
    if inspect.getattr_static(value, "_lazy_data", _MISSING) is not _MISSING:
        return _take_lazy_data
    return None


def _call_materialize(value: Any) -> Any:
    return value.materialize()


def _take_lazy_data(value: Any) -> Any:
    data = value._lazy_data
    return data() if callable(data) else data
