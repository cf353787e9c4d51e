"""The tree's rules: who may import whom, file lengths, docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "steerpipe"
FILES = sorted(PACKAGE.rglob("*.py"))
BASE = {"data", "config", "errors", "device", "digest", "progress"}
LIBRARY = {"evaluate", "interpret", "steering", "sae", "activations", "pretraining", "models"}
ALLOWED = {
    "__init__": {"api"},
    "api": {"pipeline", "past", "store"} | LIBRARY | BASE,
    "commands": {"studies", "pipeline", "plot", "report", "run", "store"} | LIBRARY | BASE,
    "studies": {"pipeline", "plot"} | LIBRARY | BASE,
    "pipeline": {"store"} | LIBRARY | BASE,
    "plot": LIBRARY | BASE,
    "report": {"plot"} | LIBRARY | BASE,
    **dict.fromkeys(LIBRARY, LIBRARY | BASE),
    "data": {"config", "errors", "digest", "progress"},
    "config": {"errors", "folders"},
    "past": {"run", "errors"},
    "run": {"store", "tracking"},
    "store": {"errors"},
}
"""Who may import whom, beside itself; cli may import everything, what is not named only BASE."""


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """The top-level parts of the package that a file imports, and its imports from outside."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parent
            for _ in range(node.level - 1):
                base = base.parent
            names = [node.module.split(".")] if node.module else [[alias.name] for alias in node.names]
            inside |= {(base.joinpath(*name)).relative_to(PACKAGE).parts[0] for name in names}
        elif isinstance(node, ast.ImportFrom):
            outside.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
    return inside, outside


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    part, (inside, outside) = part_of(path), imports(path)
    if part == "cli":
        return
    assert inside <= {part} | ALLOWED.get(part, BASE)
    assert not outside & {"hydra", "omegaconf", "typer"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("studies/*/*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_study_imports_another(path):
    others = {folder.name for folder in (PACKAGE / "studies").iterdir()} - {path.parent.name}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module not in ("findings", "labelled"):
            raise AssertionError(f"{path.parent.name} imports studies.{node.module}")
        if isinstance(node, ast.ImportFrom) and node.level > 2:
            assert not (node.module or "").startswith("studies")
            assert not (node.module is None and {alias.name for alias in node.names} & ({"studies"} | others))


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= 400


def test_public_names_have_docstrings():
    missing = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        if path.stat().st_size and not ast.get_docstring(tree):
            missing.append(str(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(f"{path.name}:{node.name}")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(f"{path.name}:{node.name}")
    assert not missing


def test_the_tree_of_the_readme_is_the_tree():
    """Every part of the package is listed once, and what is listed is there; so are the studies."""
    text = (ROOT / "README.md").read_text()
    block = text[text.index("    steerpipe/\n") : text.index("    benchmarks/ ")].splitlines()[1:]
    heads = [re.match(r" {6}((?:[a-z_]+(?:/|\.py)\s?)+)", line) for line in block]
    assert all(heads)
    listed = [name.rstrip("/") for head in heads for name in head[1].split()]
    there = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))} - {"__init__.py"}
    assert sorted(listed) == sorted(there)
    (studies,) = [line for line in block if line.startswith("      studies/")]
    folders = {path.parent.name for path in PACKAGE.glob("studies/*/__init__.py")}
    assert set(re.findall(r"(\w+)/", studies)) - {"studies"} == folders
