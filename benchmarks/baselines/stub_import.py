"""Let an engine import a package that it never calls here, as torchvision beside a CPU torch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["stand_in"]


def stand_in(name: str) -> None:
    """Answer imports of a package with empty modules, unless it is installed."""
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.meta_path.append(_Finder(name))


class _Nothing(type):
    """Have every attribute and be callable, for configurations that are made at import time."""

    def __getattr__(cls, name: str) -> Any:
        return _nothing(name)

    def __call__(cls, *_arguments: Any, **_options: Any) -> Any:
        return cls


def _nothing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Nothing(name, (), {})


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return "0" if name == "__version__" else _nothing(name)


class _Finder(MetaPathFinder, Loader):
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self._package:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None
