"""Import the engines' real modules, or say why a test cannot run here."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

import pytest

from tests.integration.engines.absent import stand_in

HOW = "run `make engines`"


def has(engine: str) -> bool:
    """Say whether an engine's package is installed, without importing it."""
    return importlib.util.find_spec(engine) is not None


def module(name: str) -> Any:
    """Import a module of an engine; its warnings are its own affair."""
    if name.startswith("sglang"):
        stand_in("torchvision", "sgl_kernel")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def needs(engine: str) -> None:
    """Skip the calling test module where the engine is not installed."""
    if not has(engine):
        pytest.skip(f"{engine} is not installed here: {HOW}", allow_module_level=True)
