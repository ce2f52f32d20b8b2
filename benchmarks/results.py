"""What a measurement yields: cells with raw samples, the machine, and the JSON of both."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.baselines import method_class, why_missing
from benchmarks.baselines.catalogue import METHODS
from benchmarks.payloads import PAYLOADS, payload
from mmformat._files import written_whole
from mmformat.bench.measure import Cell, environment
from mmformat.errors import MMFormatError

__all__ = ["Result", "Subject", "available", "load"]

VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Name what was measured, where it is no payload of the catalogue.

    Parameters
    ----------
    name, title : str
        In the cells, and for a table.
    nbytes : int
        Bytes of the features, or of the file.
    axis : str
        What grows, of the scenario ``growth``.
    at : float
        How far it has grown.
    """

    name: str
    title: str
    nbytes: int
    axis: str = ""
    at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the subject for the file."""
        told: dict[str, Any] = {"name": self.name, "title": self.title, "nbytes": self.nbytes}
        return {**told, "axis": self.axis, "at": self.at} if self.axis else told


@dataclass(slots=True, kw_only=True)
class Result:
    """Hold one run of a scenario.

    Parameters
    ----------
    scenario : str
        Its name.
    settings : dict
        What was chosen.
    cells : list of Cell
        What was measured.
    subjects : dict of str to Subject
        What the cells' payloads are, where they are none of the catalogue.
    notes : dict of str to (str, str)
        Title and note of each method that is none of the catalogue.
    missing : dict of str to str
        Why something was not measured.
    environment : dict
        The machine and the software.
    """

    scenario: str
    settings: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)
    subjects: dict[str, Subject] = field(default_factory=dict)
    notes: dict[str, tuple[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=environment)

    @property
    def is_correct(self) -> bool:
        """Whether every method carried every bit."""
        return all(cell.correct for cell in self.cells)

    def subject(self, name: str) -> Subject:
        """Return what a cell's payload is."""
        if name in self.subjects:
            return self.subjects[name]
        found = payload(name)
        return Subject(name=name, title=found.title, nbytes=found.nbytes)

    def to_json(self) -> dict[str, Any]:
        """Return everything, raw samples included."""
        order = [*self.subjects, *PAYLOADS]
        names = sorted({cell.payload for cell in self.cells}, key=order.index)
        return {
            "mmformat_bench": VERSION,
            "scenario": self.scenario,
            "settings": self.settings,
            "environment": self.environment,
            "arms": [
                self._method(name) for name in dict.fromkeys(cell.method for cell in self.cells)
            ],
            "missing": self.missing,
            "payloads": [self.subject(name).to_json() for name in names],
            "cells": [cell.to_json() for cell in self.cells],
        }

    def save(self, path: Path) -> None:
        """Write the JSON file.

        Raises
        ------
        TransportError
            When it cannot be written.
        """
        with written_whole(path) as file:
            file.write(json.dumps(self.to_json(), indent=1).encode() + b"\n")

    def _method(self, name: str) -> dict[str, str]:
        title, note = name, ""
        if name in self.notes:
            title, note = self.notes[name]
        elif name in METHODS:
            found = method_class(name)
            title, note = found.title, found.note
        return {"name": name, "title": title, "note": note}


def load(path: Path) -> dict[str, Any]:
    """Read a result's JSON.

    Raises
    ------
    MMFormatError
        When it is none.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MMFormatError(f"expected a benchmark's JSON in {path}, got: {error}") from error
    if not isinstance(value, dict) or value.get("mmformat_bench") != VERSION:
        raise MMFormatError(f"expected a benchmark's JSON of version {VERSION}, got {path}")
    return value


def available(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the methods that can run here, and why each of the others cannot."""
    reasons = {name: why_missing(name) for name in names}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    return [name for name in names if name not in missing], missing
