"""The docs say what the code does: every job type, setting, route, command and file that they should name, and every link."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from click import Context, Group
from flask import Flask

import manage
from monolith.config import Settings
from monolith.db.models import STATUSES
from monolith.job_types import registry
from tools import job_types

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
EXPECTED = (
    "index",
    "architecture",
    "lifecycle",
    "glossary",
    "adding-a-job-type",
    "job-types",
    "projects",
    "api",
    "operations",
    "deploy-heroku",
    "performance",
    "security",
    "decisions",
    "changelog",
)


def read(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", EXPECTED)
def test_the_page_is_there_and_the_index_links_it(name: str) -> None:
    assert read(name).startswith("# ")
    assert name == "index" or f"({name}.md)" in read("index")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_and_picture_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_the_page_of_job_types_is_as_the_declarations_are() -> None:
    assert read("job-types") == job_types.markdown(), "run: .venv/bin/python -m tools.job_types"
    assert [name for name in registry.discover() if name in read("job-types") or not name.startswith("trial_")]


def test_every_setting_is_documented() -> None:
    source = (ROOT / "monolith" / "config.py").read_text()
    variables = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', source))
    assert len(variables) >= len(dataclasses.fields(Settings)) - 2
    assert [name for name in sorted(variables) if f"`{name}`" not in read("operations")] == []


def test_every_route_of_the_api_is_documented(app: Flask) -> None:
    routes = {re.sub(r"<(?:[^<>]+:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/v1")}
    assert [route for route in sorted(routes) if f"`{route.removeprefix('/api/v1')}`" not in read("api")] == []


def test_every_command_is_documented() -> None:
    groups = manage.main.commands.items()
    commands = [
        f"{name} {inner}" for name, one in groups for inner in (one.list_commands(Context(one)) if isinstance(one, Group) else [""])
    ]
    assert [name.strip() for name in commands if f"manage.py {name.strip()}" not in read("operations")] == []


def test_every_status_is_in_the_lifecycle_and_every_word_in_the_glossary() -> None:
    assert [status for status in STATUSES if f"`{status}`" not in read("lifecycle")] == []
    words = (
        "job type",
        "job",
        "attempt",
        "interruption",
        "queue",
        "priority",
        "worker",
        "child",
        "clock",
        "ledger",
        "claim",
        "submit",
        "push",
    )
    assert [word for word in words if f"**{word}**" not in read("glossary")] == []


def test_the_house_is_as_the_architecture_page_says() -> None:
    named = set(re.findall(r"^    ?(\w+\.py)", read("architecture"), re.MULTILINE)) | set(
        re.findall(r"`([\w/]+\.py)`", read("architecture"))
    )
    existing = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert [name for name in named if not any(path == name or path.endswith(f"/{name}") for path in existing)] == []


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
