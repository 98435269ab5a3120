"""The shape of the tests: what they share is in tests/support, and each of them is where the module that it tests is."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.processes import ROOT

TESTS = ROOT / "tests"
FILES = [path.relative_to(TESTS) for path in sorted(TESTS.rglob("*.py"))]
SHARED = ("support", "trial_jobs")
MIRRORED = ("monolith", "jobs")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((TESTS / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_tests_import_nothing_of_tests_but_what_is_shared() -> None:
    shared = tuple(f"tests.{name}" for name in SHARED)
    wrong = {str(path): name for path in FILES for name in imported(path) if name.startswith("tests") and not name.startswith(shared)}
    assert wrong == {}, "move what both need to tests/support"


def test_what_is_no_test_is_shared() -> None:
    own = [path for path in FILES if path.parts[0] not in SHARED and path.name not in ("conftest.py", "__init__.py")]
    assert [str(path) for path in own if not path.name.startswith("test_")] == []


def test_a_test_is_named_after_the_module_it_tests() -> None:
    """tests/monolith/web/test_metrics.py tests monolith/web/metrics.py; so does test_metrics_grafana.py beside it."""
    lost = []
    for path in FILES:
        if path.parts[0] in MIRRORED and path.name.startswith("test_"):
            modules = [module.stem for module in (ROOT / path.parent).glob("*.py")]
            name = path.stem.removeprefix("test_")
            if not any(name == module or name.startswith(f"{module}_") for module in modules):
                lost.append(str(path))
    assert lost == [], "there is no such module"
