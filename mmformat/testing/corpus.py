"""The golden vectors: messages with their expected values, or with the error that refuses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmformat.errors import ModelError

__all__ = ["Kind", "Vector", "corpus_path", "golden_vectors"]

Kind = Literal["valid", "invalid", "future"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """Hold one golden vector.

    Parameters
    ----------
    name : str
        The file's name without its suffix.
    kind : {"valid", "invalid", "future"}
        The folder: readable, to be refused, or to be refused by version.
    about : str
        What it shows, in a sentence.
    clauses : tuple of str
        Clauses of SPEC.md that it is an example of, or breaks.
    sha256 : str
        Of the file.
    reproducible : bool
        Whether encoding again gives the same bytes; not where a codec's library had a choice.
    optional : str or None
        The code by which a reader may refuse a valid vector that lacks what it needs.
    error, code : str or None
        The class and the code of the error that refuses it.
    limits : dict
        The reader's limits that it is refused under, where they are not the defaults.
    path : Path
        The message.
    """

    name: str
    kind: Kind
    about: str
    clauses: tuple[str, ...]
    sha256: str
    path: Path
    reproducible: bool = True
    optional: str | None = None
    error: str | None = None
    code: str | None = None
    limits: dict[str, int] = field(default_factory=dict)

    def read(self) -> bytes:
        """Return the message."""
        return self.path.read_bytes()

    def expected(self) -> dict[str, Any]:
        """Return the expected values of a valid vector, as ``twin_of`` makes them."""
        twin: dict[str, Any] = json.loads(self.path.with_suffix(".json").read_text("utf-8"))
        return twin


def corpus_path() -> Path:
    """Return the folder of the golden vectors, in the wheel or in the repository.

    Raises
    ------
    ModelError
        When there is none: a missing corpus must never look like a passing one.
    """
    for path in (_HERE / "vectors_v1", _HERE.parents[1] / "schemas" / "v1" / "vectors"):
        if (path / "manifest.json").is_file():
            return path
    raise ModelError("expected the golden vectors, found no manifest.json", code="corpus")


def golden_vectors(kind: Kind | None = None, *, root: Path | None = None) -> list[Vector]:
    """Return the golden vectors, or those of one kind.

    Raises
    ------
    ModelError
        When there is no corpus, or a file of the manifest is missing.

    Examples
    --------
    >>> [vector.kind for vector in golden_vectors("future")][:2]
    ['future', 'future']
    """
    return list(_read(corpus_path() if root is None else root, kind))


def _read(root: Path, kind: Kind | None) -> Iterator[Vector]:
    manifest = json.loads((root / "manifest.json").read_text("utf-8"))
    for entry in manifest["vectors"]:
        path = root / entry["kind"] / f"{entry['name']}.arrows"
        if not path.is_file():
            raise ModelError(f"expected {path}, which the manifest names", code="corpus")
        if kind in (None, entry["kind"]):
            yield Vector(path=path, **{**entry, "clauses": tuple(entry["clauses"])})
