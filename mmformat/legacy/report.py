"""What a conversion did: where it read from, what it changed, what it left out."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["ConversionReport", "Note"]


@dataclass(frozen=True, slots=True)
class Note:
    """Say that a value of the pickle came out differently, or not at all.

    Parameters
    ----------
    path : str
        Where it stood in the pickle, as ``$.mm_items[0].feature``.
    kind : {"changed", "dropped", "assumed"}
        What happened to it.
    text : str
        What it was and what became of it.
    """

    path: str
    kind: str
    text: str


@dataclass(slots=True)
class ConversionReport:
    """Collect what a conversion did.

    Parameters
    ----------
    source : str
        The path, or ``"<bytes>"``.
    nbytes : int
        Bytes of the source.
    container : {"pickle", "torch-stream", "torch-zip"}
        How the pickles are wrapped.
    protocol : int
        The highest protocol seen; 0 also stands for 1.
    pickles, tensors, tensor_nbytes : int
        Counts of the source and of the result.
    writer : str or None
        The classes of which library and versions wrote it, as far as they say.
    isolation : str
        ``"process"``, ``"process+seccomp"`` or ``"none"``.
    globals : list of str
        The allow-listed names that the pickles mention.
    notes : list of Note
        What was changed, dropped or assumed.

    Examples
    --------
    >>> ConversionReport(source="<bytes>").dropped
    []
    """

    source: str
    nbytes: int = 0
    container: str = "pickle"
    protocol: int = 0
    pickles: int = 0
    tensors: int = 0
    tensor_nbytes: int = 0
    writer: str | None = None
    isolation: str = "none"
    globals: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add(self, path: str, kind: str, text: str) -> None:
        """Add a note."""
        self.notes.append(Note(path, kind, text))

    @property
    def dropped(self) -> list[Note]:
        """The notes of what was left out."""
        return [note for note in self.notes if note.kind == "dropped"]

    @property
    def changed(self) -> list[Note]:
        """The notes of what came out as another type."""
        return [note for note in self.notes if note.kind == "changed"]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        # By hand: dataclasses.asdict copies deeply, which took a tenth of a small file's time.
        told: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        told["globals"] = list(self.globals)
        told["notes"] = [
            {"path": note.path, "kind": note.kind, "text": note.text} for note in self.notes
        ]
        return told
