"""The docs say what the code does: every job type, setting, route, command and folder, every walk through the code, and every link."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click import Context, Group
from flask import Flask

import manage
from monolith.config import Settings
from monolith.db.models import STATUSES
from monolith.job_types import registry

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
AREAS = sorted((DOCS / "decisions").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *AREAS]
EXAMPLE = "jobs/word_count.py"  # a job type that a reader writes
EXPECTED = (
    "index",
    "architecture",
    "lifecycle",
    "promises",
    "worker",
    "glossary",
    "adding-a-job-type",
    "job-types",
    "projects",
    "api",
    "operations",
    "deploy-heroku",
    "performance",
    "security",
    "decisions/index",
    "changelog",
)


def read(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_folders() -> Iterator[str]:
    """The folders of the application that have Python files, as the page of the architecture names them."""
    for path in sorted({path.parent for top in ("monolith", "jobs") for path in (ROOT / top).rglob("*.py")}):
        if path.name != "versions":  # of Alembic
            yield f"{path.relative_to(ROOT)}/"


def definitions(path: Path) -> set[str]:
    """The functions of a file, and the methods of its classes as `Class.method`."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, functions):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, functions)}
    return found


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---- pages and links


@pytest.mark.parametrize("name", EXPECTED)
def test_the_page_exists_and_the_index_links_it(name: str) -> None:
    assert read(name).startswith("# ")
    assert name == "index" or f"({name}.md)" in read("index")


def test_every_page_is_expected() -> None:
    assert sorted(str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.glob("*.md")) == sorted(set(EXPECTED) - {"decisions/index"})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_picture_leads_somewhere(page: Path) -> None:
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        if "://" in target:
            continue
        there = page.parent / target if target else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_file_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`([\w/*-]+/[\w*]+\.py)\b", page.read_text())) - {EXAMPLE}
    assert [name for name in sorted(named) if not any(ROOT.glob(name))] == []


# ---- the architecture


def test_every_step_of_a_walk_is_a_function_that_exists() -> None:
    steps = re.findall(r"`([\w/]+\.py):([\w.]+)`", read("architecture"))
    assert len(steps) >= 25
    assert [f"{path}:{name}" for path, name in steps if not (ROOT / path).exists() or name not in definitions(ROOT / path)] == []


def test_there_are_three_walks_in_numbered_steps() -> None:
    sections = re.split(r"^## ", read("architecture"), flags=re.MULTILINE)
    walks = [section for section in sections if re.search(r"^1\. `[\w/]+\.py:", section, re.MULTILINE)]
    assert [walk.split(":")[0].split("\n")[0] for walk in walks] == ["A submission", "A job's run", "A repair"]


def test_every_folder_has_its_row_and_every_row_its_folder() -> None:
    rows = set(re.findall(r"^\| `([\w/]+/)` \|", read("architecture"), re.MULTILINE))
    assert [folder for folder in python_folders() if folder not in rows] == []
    assert [folder for folder in sorted(rows) if not (ROOT / folder).is_dir()] == []


# ---- promises


def test_every_promise_names_a_test_that_exists() -> None:
    tests = {name for path in (ROOT / "tests").rglob("test_*.py") for name in definitions(path)}
    named = re.findall(r"^\|.*`(test_\w+)` \|$", read("promises"), re.MULTILINE)
    assert len(named) == read("promises").split("## ")[0].count("\n| ") - 1
    assert [name for name in named if name not in tests] == []


# ---- decisions


def test_the_index_of_decisions_links_every_area() -> None:
    assert [page.name for page in AREAS if page.stem != "index" and f"({page.name})" not in read("decisions/index")] == []


@pytest.mark.parametrize("page", [page for page in AREAS if page.stem != "index"], ids=name_of)
def test_every_decision_has_its_context_its_decision_and_its_consequence(page: Path) -> None:
    entries = re.split(r"^### ", page.read_text(), flags=re.MULTILINE)[1:]
    lines = r"[^\n]+\n\n- \*\*Context\*\*: [^\n]+\n- \*\*Decision\*\*: [^\n]+\n- \*\*Consequence\*\*: [^\n]+\n*"
    form = re.compile(lines + r"(?:[^\n]+\n\n(?:\|[^\n]+\n)+\n*)?")  # a table may follow
    assert entries
    assert [entry.split("\n")[0] for entry in entries if not form.fullmatch(entry)] == []


# ---- what the code has is documented


def test_the_page_of_job_types_is_as_the_declarations_are() -> None:
    assert read("job-types") == load(ROOT / "tools" / "job_types.py").markdown(), "run: .venv/bin/python -m tools.job_types"
    ours = [name for name, one in registry.discover().items() if one.function.__module__.startswith("jobs.")]
    assert [name for name in ours if f"## `{name}`" not in read("job-types")] == []


def test_every_setting_is_documented() -> None:
    source = (ROOT / "monolith" / "config.py").read_text()
    variables = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', source))
    assert len(variables) >= len(dataclasses.fields(Settings)) - 2
    assert [name for name in sorted(variables) if f"`{name}`" not in read("operations")] == []


def test_every_route_of_the_api_is_documented(app: Flask) -> None:
    routes = {re.sub(r"<(?:[^<>]+:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/v1")}
    assert [route for route in sorted(routes) if f"`{route.removeprefix('/api/v1')}`" not in read("api")] == []


def test_every_command_is_documented() -> None:
    commands = []
    for name, one in manage.main.commands.items():
        inner = one.list_commands(Context(one)) if isinstance(one, Group) else [""]
        commands += [f"manage.py {name} {command}".strip() for command in inner]
    assert len(commands) >= 20
    assert [command for command in commands if f"`{command}" not in read("operations")] == []


def test_every_status_is_in_the_life_of_a_job() -> None:
    assert [status for status in STATUSES if f"`{status}`" not in read("lifecycle")] == []


def test_the_glossary_has_the_words_that_the_house_uses() -> None:
    words = ("job type", "job", "job spec", "attempt", "interruption", "queue", "priority", "worker", "child", "slot", "hook process")
    words += ("clock", "ledger", "claim", "submit", "push", "snooze", "trash", "error group", "I/O-bound job", "safe position", "snapshot")
    assert [word for word in words if f"**{word}**" not in read("glossary")] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "changelog.md"], ids=name_of)
def test_no_page_uses_a_word_that_the_glossary_has_replaced(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    replaced = r"\b(mend(s|ed|ing)?|park(s|ed|ing)?|horizon|switchboard|teller|waiting child(ren)?)\b"
    assert [found[0] for found in re.finditer(replaced, text, re.IGNORECASE)] == []


# ---- the README


def test_the_readme_has_its_parts() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make run" in readme and "make test" in readme
    assert re.search(r"!\[[^\]]+\]\(docs/images/[\w-]+\.png\)", readme)
    assert "@job_type" in readme


def test_the_job_type_of_the_readme_works(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?@job_type.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code
    path = tmp_path / "word_count.py"
    path.write_text(code[1])
    module = load(path)
    try:
        declared = registry._declared["word_count"]
        assert declared.function is module.word_count and declared.title
    finally:
        registry._declared.pop("word_count", None)


def test_nothing_generated_is_committed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    litter = (".venv", "instance", ".schemathesis", ".hypothesis")
    assert [name for name in tracked if "__pycache__" in name or name.startswith(litter)] == []
