"""The package's text keeps the house rules that a linter does not know."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.tree import PACKAGE, ROOT, Module, modules

MAX_CAPTION_CHARS = 100
VAGUE = {"utils", "util", "helpers", "helper", "common", "core", "manager", "misc"}
PICKLES = {"pickle", "_pickle", "pickletools", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
# Rooms that may touch pickle: one converts old files, the other measures pickle as the baseline.
PICKLE_ROOMS = {"legacy", "bench"}
PRINTS = {"mmformat/cli/output.py"}

each_module = pytest.mark.parametrize("module", modules(), ids=lambda module: module.where)


def _lines(nodes: list[ast.AST]) -> list[int]:
    return [getattr(node, "lineno", 0) for node in nodes]


@each_module
def test_no_assert(module: Module) -> None:
    """python -O removes assertions, so a check must be an error of the tree."""
    found = [node for node in ast.walk(module.tree) if isinstance(node, ast.Assert)]
    assert not found, f"{module.where}: assert in lines {_lines(found)}"


@each_module
def test_no_bare_not_implemented_error(module: Module) -> None:
    found = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and node.id == "NotImplementedError"
    ]
    assert not found, f"{module.where}: NotImplementedError in lines {_lines(found)}"


@each_module
def test_prints_only_at_the_front_desk(module: Module) -> None:
    found = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not found or module.where in PRINTS, f"{module.where}: print in lines {_lines(found)}"


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return {node.module.partition(".")[0]}
    return set()


@each_module
def test_pickle_stays_in_its_rooms(module: Module) -> None:
    """No import, no torch.load or torch.save, no numpy file that may hold objects."""
    if module.room in PICKLE_ROOMS:
        return
    found: list[ast.AST] = []
    for node in ast.walk(module.tree):
        if _imported(node) & PICKLES:
            found.append(node)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if name in {"torch.load", "torch.save", "pickle.loads", "pickle.dumps"}:
                found.append(node)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            refused = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if refused else [node]
    assert not found, f"{module.where}: pickle in lines {_lines(found)}"


@each_module
def test_caption(module: Module) -> None:
    """The first sentence of a module's docstring explains it in a listing."""
    caption = module.caption
    assert caption is not None, f"{module.where} has no docstring"
    assert caption.endswith("."), f"{module.where}: the caption is not a sentence: {caption!r}"
    assert len(caption) <= MAX_CAPTION_CHARS, f"{module.where}: {len(caption)} characters"


@each_module
def test_has_a_name_that_says_something(module: Module) -> None:
    parts = {part.removesuffix(".py") for part in module.path.relative_to(PACKAGE).parts}
    assert not parts & VAGUE, f"{module.where}: {parts & VAGUE} says nothing about the module"


@each_module
def test_postpones_annotations(module: Module) -> None:
    """Annotations may name torch without importing it; a module without code needs none."""
    plain = ast.Expr | ast.Import | ast.ImportFrom | ast.Assign
    if all(isinstance(node, plain) for node in module.tree.body):
        return
    found = any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == "annotations" for alias in node.names)
        for node in module.tree.body
    )
    assert found, f"{module.where}: add `from __future__ import annotations`"


def test_no_file_names_the_folder_that_it_was_made_in() -> None:
    """A result, a document or a vector says what machine it is of, not whose folder it lay in."""
    here = f"{ROOT}/".encode()
    if here.count(b"/") < 3:
        return  # a name as short as /src/ may stand anywhere
    folders = ("mmformat", "tests", "benchmarks", "docs", "schemas")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    made = {"__pycache__", "node_modules"}
    found = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if not made & set(path.parts) and here in path.read_bytes()
    ]
    assert not found, f"{here.decode()} stands in {found}"
