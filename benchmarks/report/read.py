"""Read results of every kind into one shape: payloads, methods, cells with metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from benchmarks.results import load
from mmformat.errors import MMFormatError

__all__ = ["read_result"]

_PLACEMENT: Final = frozenset({"placement", "placement-ranks", "expansion", "pool", "tower"})
_AFTERTHOUGHTS: Final = frozenset({"title", "float32_nbytes", "nbytes", "correct", "equal"})


def read_result(path: Path) -> dict[str, Any]:
    """Return a result with ``payloads``, ``methods`` and ``cells`` as `bench codec` writes them.

    Raises
    ------
    MMFormatError
        When the file is none.
    """
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MMFormatError(f"expected a benchmark's JSON in {path}, got: {error}") from error
    if isinstance(told, dict) and told.get("scenario") in _PLACEMENT:
        return _placement(told)
    result = load(path)
    return _strategies(result) if result["scenario"] == "strategies" else result


def _strategies(result: dict[str, Any]) -> dict[str, Any]:
    settings = result["settings"]
    payload = settings["payload"]
    nbytes = settings.get("feature_nbytes_of_the_first_request", 0)
    where = f"{settings['requests']} requests of {payload}, {settings['tp']} ranks"
    cells = [
        {"payload": payload, "arm": cell["way"], "wire_nbytes": 0, "correct": True, **cell}
        for cell in result["cells"]
    ]
    return {
        **result,
        "missing": result.get("missing", {}),
        "payloads": [{"name": payload, "title": where, "nbytes": nbytes}],
        "arms": [
            {"name": cell["way"], "title": cell["title"], "note": ""} for cell in result["cells"]
        ],
        "cells": cells,
    }


def _placement(told: dict[str, Any]) -> dict[str, Any]:
    cells = []
    for cell in [*told.get("cells", []), *told.get("transfers", [])]:
        metrics = {name: value for name, value in cell.items() if isinstance(value, dict)}
        names = {
            name: value
            for name, value in cell.items()
            if name not in metrics and name not in _AFTERTHOUGHTS
        }
        payload = str(names.pop("request", "request"))
        named = ", ".join(
            str(value) if isinstance(value, str) else f"{name} {value}"
            for name, value in names.items()
        )
        cells.append(
            {
                "payload": payload,
                "arm": named,
                "wire_nbytes": 0,
                "correct": cell.get("correct", cell.get("equal", True)),
                "metrics": metrics,
            }
        )
    devices = told.get("devices", [])
    return {
        "scenario": "placement",
        "settings": {"part": told["scenario"], "devices": devices},
        "environment": told["environment"],
        "missing": {},
        "payloads": [
            {"name": name, "title": name, "nbytes": 0}
            for name in dict.fromkeys(cell["payload"] for cell in cells)
        ],
        "arms": [
            {"name": name, "title": name, "note": ""}
            for name in dict.fromkeys(cell["arm"] for cell in cells)
        ],
        "cells": cells,
    }
