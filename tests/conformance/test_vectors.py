"""The golden vectors: what each must give, that none changes, and that none is missing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from mmformat.codec import decode
from mmformat.codec.verify import CLAUSES, VERIFY_CODES, verify
from mmformat.errors import MMFormatError, ModelError, VersionError
from mmformat.model import Limits
from mmformat.testing import Vector, golden_vectors
from mmformat.testing.corpus import corpus_path
from mmformat.testing.equality import twin_of
from tests.support.vectors import made_vectors, write

VALID = golden_vectors("valid")
REFUSED = [*golden_vectors("invalid"), *golden_vectors("future")]
each_valid = pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.name)
each_refused = pytest.mark.parametrize("vector", REFUSED, ids=lambda vector: vector.name)


@each_valid
def test_a_valid_vector_gives_its_expected_values(vector: Vector) -> None:
    assert twin_of(decode(vector.read())) == vector.expected()


@each_valid
def test_a_valid_vector_breaks_no_promise(vector: Vector) -> None:
    assert verify(vector.path) == []


@each_valid
def test_a_valid_vector_gives_the_same_from_a_file_and_from_frames(vector: Vector) -> None:
    """Wherever the frames are cut."""
    data = vector.read()
    assert twin_of(decode(vector.path)) == vector.expected()
    for nbytes in (1, 7, 64, 1000):
        frames = [data[at : at + nbytes] for at in range(0, len(data), nbytes)]
        assert twin_of(decode(frames)) == vector.expected(), nbytes


@each_refused
def test_an_invalid_vector_is_refused_by_class_and_code(vector: Vector) -> None:
    """Clauses: E-1. A version of the future is a VersionError, whatever else is in the message."""
    with pytest.raises(MMFormatError) as caught:
        decode(vector.read(), limits=Limits(**vector.limits))
    assert (type(caught.value).__name__, caught.value.code) == (vector.error, vector.code)
    assert (vector.kind == "future") == isinstance(caught.value, VersionError)


@each_refused
def test_verify_names_the_code_that_decode_raises(vector: Vector) -> None:
    first = verify(vector.path, limits=Limits(**vector.limits))[0]
    assert (first.code, first.refused) == (vector.code, True)
    assert first.clause == CLAUSES[first.code]


def test_the_corpus_has_every_code_of_a_refusal() -> None:
    assert {vector.code for vector in REFUSED} == set(CLAUSES) - VERIFY_CODES


def test_the_corpus_is_large_enough_and_small_enough() -> None:
    assert len(VALID) >= 16
    assert len(golden_vectors("invalid")) >= 24
    assert len(golden_vectors("future")) >= 2
    sizes = [vector.path.stat().st_size for vector in golden_vectors()]
    assert max(sizes) < 20_000
    assert sum(sizes) < 500_000


def test_every_file_is_in_the_manifest() -> None:
    named = {vector.path for vector in golden_vectors()}
    named |= {vector.path.with_suffix(".json") for vector in VALID}
    there = {path for path in corpus_path().glob("*/*") if path.is_file()}
    assert there == named


def test_version_1_is_frozen() -> None:
    """Clauses: E-5. The files are those of the manifest."""
    for vector in golden_vectors():
        assert hashlib.sha256(vector.read()).hexdigest() == vector.sha256, vector.name


def test_making_every_vector_again_gives_the_same_bytes() -> None:
    """Clauses: E-5. Where LZ4 has a choice, the same meaning."""
    known = {(vector.kind, vector.name): vector for vector in golden_vectors()}
    made = list(made_vectors())
    assert len(made) == len(known)
    for entry, data, twin in made:
        vector = known[entry["kind"], entry["name"]]
        if vector.reproducible:
            assert data == vector.read(), vector.name
        if twin is not None:
            assert json.loads(twin) == vector.expected(), vector.name


def test_writing_adds_and_never_changes(tmp_path: Path) -> None:
    count = write(tmp_path)
    assert count == len(golden_vectors())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert write(tmp_path) == 0
    assert {path: path.read_bytes() for path in before} == before
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    name = manifest["vectors"][0]["name"]
    manifest["vectors"][0]["sha256"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=f"{name}.arrows as it is frozen"):
        write(tmp_path)


def test_writing_does_not_replace_a_lost_file(tmp_path: Path) -> None:
    """Else a vector could be changed by deleting it first."""
    write(tmp_path)
    lost = tmp_path / "valid" / "empty.arrows"
    lost.unlink()
    with pytest.raises(ModelError, match=r"empty\.arrows"):
        write(tmp_path)
    assert not lost.exists()


def test_a_missing_corpus_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmformat.testing.corpus._HERE", tmp_path / "a" / "b" / "c")
    with pytest.raises(ModelError) as caught:
        golden_vectors()
    assert caught.value.code == "corpus"
