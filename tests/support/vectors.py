"""Write golden vectors: ``python -m tests.support.vectors write DIR`` adds, never changes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from mmformat.codec import decode
from mmformat.errors import MMFormatError, ModelError
from mmformat.testing.corpus import Kind
from mmformat.testing.equality import twin_of
from tests.support.attacks import Attack, future, stream_attacks, value_attacks
from tests.support.samples import samples

__all__ = ["Made", "attacks", "made_vectors", "write"]

SCHEMA_VERSION: Final = 1

_ALIKE: Final = """
    truncated-length truncated-metadata truncated-marker metadata-vector body-negative body-huge
    version-empty version-text column-more column-order column-name column-nullable negative-at
    unaligned swapped negative array-negative array-length offsets-start offsets-end
    offsets-negative nulls-behind view-far view-length view-negative view-inline lz4-negative
    lz4-no-length lz4-short two-streams schema-twice rows-twice rows-gap requests request-image
    item-request item-negative format hash-empty hash-space hash-long hash-script
    continuation-attributes continuation-request continuation-modality dtype-object shape-long
    shape-none tensor-again parameters-null parameters-list parameters-bool parameters-codes
    parameters-no-entries parameters-repeat parameters-axis parameters-entries parameters-text
    dictionary-axes attributes-empty attributes-list attributes-more attributes-comment
    attributes-cut value-tensor value-int-number value-int-long value-bytes-space value-complex
    value-complex-int value-dict value-dict-list-key value-scalar-short value-float value-mixed
    attributes-deeper field-text schema-v6 field-list shape-zero format-null
"""
IN_TESTS_ALONE: Final = frozenset(_ALIKE.split())
"""Attacks much like one that is golden: they run in the tests, and keep the corpus small."""


class Made(NamedTuple):
    """Hold a vector as it is made now: its line of the manifest, its bytes, its expected values."""

    entry: dict[str, Any]
    data: bytes
    twin: str | None


def attacks() -> Iterator[Attack]:
    """Yield every message of version 1 that must be refused, golden or not."""
    yield from stream_attacks()
    yield from value_attacks()


def made_vectors() -> Iterator[Made]:
    """Yield every golden vector as the code of today makes it."""
    for sample in samples():
        data = sample.make()
        twin = json.dumps(twin_of(decode(data)), separators=(",", ":")) + "\n"
        entry = _entry("valid", sample.name, sample.about, tuple(sample.clauses.split()), data)
        if not sample.reproducible:
            entry["reproducible"] = False
        if sample.optional is not None:
            entry["optional"] = sample.optional
        yield Made(entry, data, twin)
    for kind, found in (("invalid", attacks()), ("future", future())):
        for attack in found:
            if attack.name in IN_TESTS_ALONE:
                continue
            entry = _entry(kind, attack.name, attack.about, attack.broken, attack.data)
            entry |= {"error": attack.error, "code": attack.code}
            if attack.limits:
                entry["limits"] = attack.limits
            yield Made(entry, attack.data, None)


def _entry(
    kind: Kind | str, name: str, about: str, clauses: tuple[str, ...], data: bytes
) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "about": about,
        "clauses": list(clauses),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def write(root: Path) -> int:
    """Write the vectors that are not there yet, and return how many they were.

    Parameters
    ----------
    root : Path
        The folder with, or for, ``manifest.json``.

    Raises
    ------
    ModelError
        When a vector that is there would change, or its file is missing; nothing is written then.
    """
    manifest = root / "manifest.json"
    entries: list[dict[str, Any]] = []
    if manifest.exists():
        entries = json.loads(manifest.read_text("utf-8"))["vectors"]
    known = {(entry["kind"], entry["name"]): entry for entry in entries}
    fresh: list[tuple[Path, Made]] = []
    for made in made_vectors():
        path = root / made.entry["kind"] / f"{made.entry['name']}.arrows"
        old = known.get((made.entry["kind"], made.entry["name"]))
        if old is None:
            if path.exists():
                raise ModelError(f"expected no file {path} without a line in the manifest")
            fresh.append((path, made))
        elif not path.exists():
            raise ModelError(f"expected {path}, which the manifest names")
        elif old != made.entry and old.get("reproducible", True):
            raise ModelError(
                f"expected {path.name} as it is frozen, got other bytes or another line",
                hint="a golden vector never changes; give the new one another name",
            )
    for path, made in fresh:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(made.data)
        if made.twin is not None:
            with path.with_suffix(".json").open("x", encoding="utf-8") as file:
                file.write(made.twin)
        entries.append(made.entry)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    text = f'{{"schema_version": {SCHEMA_VERSION}, "vectors": [\n{lines}\n]}}\n'
    manifest.write_text(text, "utf-8")
    return len(fresh)


def _main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "write":
        sys.stderr.write("usage: python -m tests.support.vectors write DIR\n")
        return 2
    try:
        count = write(Path(arguments[1]))
    except MMFormatError as error:
        sys.stderr.write(f"error: {error}\n\nhint: {error.hint}\n")
        return 1
    sys.stdout.write(f"{count} vectors written\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
