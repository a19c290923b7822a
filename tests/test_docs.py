"""The reference lists every public name, and the README the true commands."""

import importlib
import re
from pathlib import Path

import pytest

import jaxkit

ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api"
PACKAGES = sorted(set(jaxkit.__all__) - {"__version__"})


def documented(page: str) -> set[str]:
    pattern = r"^\.\. auto(?:function|class|data):: ([\w.]+)$"
    return set(re.findall(pattern, page, re.M))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_stands_in_the_reference(package: str):
    module = importlib.import_module(f"jaxkit.{package}")
    page = (API / f"{package}.md").read_text()
    assert documented(page) == set(module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_complete(package: str):
    module = importlib.import_module(f"jaxkit.{package}")
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), name


def test_readme_holds_the_two_commands_and_ci_runs_the_tests():
    readme = (ROOT / "README.md").read_text()
    run = (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[examples]' "
        "&& .venv/bin/python examples/tour.py"
    )
    test = (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test,examples]' "
        "&& .venv/bin/pytest"
    )
    assert run in readme
    assert test in readme
    assert ".venv/bin/pytest" in (ROOT / ".ci" / "run").read_text()


def test_the_examples_of_the_readme_run():
    readme = (ROOT / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", readme, re.S)
    assert examples
    for example in examples:
        scope: dict[str, object] = {}
        exec(compile(example, "README.md", "exec"), scope)
