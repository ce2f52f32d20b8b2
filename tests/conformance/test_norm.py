"""SPEC.md, schema.json and the code say the same, and something that runs holds every clause."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmformat import errors
from mmformat.codec import attributes, columns, schema, tensors
from mmformat.codec.decode import _FIELDS
from mmformat.codec.verify import CALLER_CODES, CLAUSES, VERIFY_CODES
from mmformat.model import InputFormat, Limits, Modality
from mmformat.model.tensors import ITEMSIZE
from mmformat.testing import golden_vectors

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "schemas" / "v1" / "SPEC.md").read_text("utf-8")
NORM: dict[str, Any] = json.loads((ROOT / "schemas" / "v1" / "schema.json").read_text("utf-8"))
CLAUSE = re.compile(r"^- \[([A-Z]-\d+)\] (.*?)(?=^- \[|^$)", re.DOTALL | re.MULTILINE)
SPECIFIED = dict(CLAUSE.findall(SPEC))


def test_clauses_are_numbered_once_and_in_order() -> None:
    names = [name for name, _ in CLAUSE.findall(SPEC)]
    assert len(names) == len(set(names)) >= 60
    for letter in {name[0] for name in names}:
        numbers = [int(name[2:]) for name in names if name[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def test_schema_json_lists_the_clauses_of_the_spec() -> None:
    assert list(NORM["clauses"]) == [name for name, _ in CLAUSE.findall(SPEC)]
    for name, text in SPECIFIED.items():
        codes = re.findall(r"[Cc]ode\s+`([a-z0-9-]+)`", text)
        must = bool(re.search(r"\bMUST\b", text))
        assert NORM["clauses"][name] == {"must": must, "codes": codes}, name


def _named_in_tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                text = ast.get_docstring(node) or ""
                for clauses in re.findall(r"Clauses?: ([A-Z]-\d+(?:, [A-Z]-\d+)*)", text):
                    found |= set(clauses.split(", "))
    return found


def test_every_clause_is_held_by_a_vector_or_a_test() -> None:
    held = {clause for vector in golden_vectors() for clause in vector.clauses}
    named = _named_in_tests()
    must = {name for name, text in SPECIFIED.items() if re.search(r"\bMUST\b", text)}
    assert not must - held - named, f"no vector and no test for {sorted(must - held - named)}"
    unknown = (held | named) - set(SPECIFIED)
    assert not unknown, f"not in SPEC.md: {sorted(unknown)}"


def test_every_code_stands_in_its_clause() -> None:
    for code, clause in CLAUSES.items():
        assert code in NORM["clauses"][clause]["codes"], f"{code} is not in {clause}"
    specified = {code for clause in NORM["clauses"].values() for code in clause["codes"]}
    assert specified == set(CLAUSES)
    assert not CALLER_CODES & set(CLAUSES)
    assert set(CLAUSES) > VERIFY_CODES


def _codes_in(path: Path) -> set[str]:
    """Codes that a module can raise: literal ones, and those of the classes that it names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "code":
            found |= {
                part.value
                for part in ast.walk(node.value)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
        raised = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(raised, ast.Call) and isinstance(raised.func, ast.Name):
            given = any(keyword.arg == "code" for keyword in raised.keywords)
            kind = getattr(errors, raised.func.id, None)
            if kind is not None and not given:
                found.add(kind.code)
    return found


def test_the_table_of_clauses_is_complete() -> None:
    """A code that decoding can raise has a clause; one that is the caller's has none."""
    folder = ROOT / "mmformat" / "codec"
    found = {code for path in folder.glob("*.py") for code in _codes_in(path)}
    found -= {"encode"}  # EncodeError without a code of its own: no message was there
    missing = found - set(CLAUSES) - CALLER_CODES
    assert not missing, f"codes without a clause: {sorted(missing)}"
    # Limits raises "limit", and a dictionary's codes are checked in the model.
    never = set(CLAUSES) - VERIFY_CODES - found - {"limit", "dictionary-code"}
    assert not never, f"codes that nothing raises: {sorted(never)}"


def _field(field: pa.Field) -> dict[str, Any]:
    kinds = {"string": "utf8", "string_view": "utf8_view"}
    told: dict[str, Any] = {"name": field.name, "nullable": field.nullable}
    if pa.types.is_list(field.type):
        return told | {"type": "list", "element": _field(field.type.value_field)}
    if pa.types.is_struct(field.type):
        fields = [_field(field.type.field(at)) for at in range(field.type.num_fields)]
        return told | {"type": "struct", "fields": fields}
    return told | {"type": kinds.get(str(field.type), str(field.type))}


def test_the_columns_are_those_of_the_code() -> None:
    assert NORM["columns"] == [_field(field) for field in schema.SCHEMA]
    assert {k.decode(): v.decode() for k, v in schema.SCHEMA.metadata.items()} == NORM["metadata"]
    assert NORM["schema_version"] == schema.VERSION


def test_the_columns_are_those_of_the_spec() -> None:
    """The tables of section 3, row by row."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (yes|no) \|", SPEC, re.MULTILINE)
    told = [(name, nullable == "yes") for name, _, nullable in rows]
    tensors = NORM["columns"][-1]["element"]["fields"]
    expected = [(f["name"], f["nullable"]) for f in [*NORM["columns"], *tensors]]
    assert told == expected


def test_the_sets_of_values_are_those_of_the_code() -> None:
    assert NORM["dtypes"] == ITEMSIZE
    assert NORM["modalities"] == [member.value for member in Modality]
    assert NORM["formats"] == [member.value for member in InputFormat]
    assert NORM["request_modality"] == schema.REQUEST
    assert sorted(NORM["dictionary_parameters"]) == sorted(tensors._PARAMETERS)
    assert sorted(NORM["item_fields"]) == sorted(_FIELDS)
    assert NORM["inline_nbytes"] == columns.INLINE_NBYTES
    assert NORM["chunk_nbytes"] == columns.CHUNK_NBYTES
    assert NORM["arrays"] == len(schema.ARRAYS)
    assert NORM["column_buffers"] == schema.BUFFERS
    assert NORM["alignment_nbytes"]["data_buffer"] == schema.ALIGNMENT
    source = Path(attributes.__file__).read_text("utf-8")
    assert sorted(NORM["tags"]) == sorted(set(re.findall(r'"(\$[a-z]+)"', source)))


def test_the_limits_are_those_of_the_code() -> None:
    """Clauses: B-1."""
    limits = Limits()
    assert NORM["limits"] == {name: getattr(limits, name) for name in Limits.__slots__}
    for name in NORM["limits"]:
        assert f"`{name}`" in SPEC, name


@pytest.mark.parametrize("kind", ["dtypes", "modalities", "formats", "tags", "encodings"])
def test_the_spec_names_every_value(kind: str) -> None:
    for value in NORM[kind]:
        assert f"`{value}`" in SPEC or f'"{value}"' in SPEC, value
