"""Imports flow one way: no module reaches sideways, up, or into private parts."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxkit"
# _core and typing are both layer 0 of the style guide; _core stands on typing.
LAYERS = {
    "typing": 0,
    "_core": 0.5,
    "ops": 1,
    "mesa": 2,
    "preference": 2,
    "hypersphere": 2,
    "distillation": 2,
    "dag": 2,
    "entanglement": 3,
    "nn": 4,
}
ALLOWED_OUTSIDE = {"jax", "numpy", "optax"}
STANDARD_LIBRARY = {
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "importlib",
    "inspect",
    "itertools",
    "math",
    "os",
    "typing",
    "warnings",
    "zipfile",
    "zlib",
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(source: str) -> Iterator[str]:
    """Yields the full dotted name of everything a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(unit: str, source: str) -> list[str]:
    found = []
    for name in imported_names(source):
        root, *rest = name.split(".")
        if root != "jaxkit":
            outside = ALLOWED_OUTSIDE | STANDARD_LIBRARY
            if root not in outside | ({"flax"} if unit == "nn" else set()):
                found.append(f"{unit} imports {name}")
            continue
        target = rest[0]
        own = target == unit
        if not own and LAYERS[target] >= LAYERS[unit]:
            found.append(f"{unit} (layer {LAYERS[unit]}) imports {name}")
        if not own and target != "_core" and any(p.startswith("_") for p in rest[1:]):
            found.append(f"{unit} reaches into {name}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_imports_only_from_below(path: Path):
    unit = unit_of(path)
    if unit == "__init__":
        return
    assert violations(unit, path.read_text()) == []


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("ops", "from jaxkit import mesa"),
        ("ops", "import flax"),
        ("mesa", "from jaxkit.ops._ode import integrate"),
        ("mesa", "from jaxkit import nn"),
        ("mesa", "import chex"),
    ],
)
def test_the_rule_can_fail(unit: str, source: str):
    assert violations(unit, source)


def test_every_unit_has_a_layer():
    assert {unit_of(path) for path in MODULES} - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("folder", ["examples", "tests", "benchmarks"])
def test_programs_import_only_public_names(folder: str):
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.name == "test_checks.py":
            continue
        private = [
            name
            for name in imported_names(path.read_text())
            if name.startswith("jaxkit.")
            and any(part.startswith("_") for part in name.split(".")[1:])
            and not name.endswith("__")
        ]
        assert private == [], path.name


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.name == "__init__.py" and p.parent != PACKAGE],
    ids=lambda p: str(p.parent.relative_to(ROOT)),
)
def test_init_holds_only_imports_and_a_sorted_all(path: Path):
    tree = ast.parse(path.read_text())
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            assert isinstance(node.value, ast.List)
            names = [element.value for element in node.value.elts]
        else:
            docstring = isinstance(node, ast.Expr)
            assert docstring or isinstance(node, ast.Import | ast.ImportFrom)
    # Constants first, as ruff sorts them.
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))


def test_import_of_the_package_does_not_import_flax():
    code = (
        "import sys, jaxkit; assert 'flax' not in sys.modules; "
        "jaxkit.nn; assert 'flax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
