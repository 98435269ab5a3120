"""What makes it a project: version, license, metadata, the example of an environment, and a command line that loads only what it needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from flask import Flask

from monolith import config
from monolith.config import version
from tests.support.processes import NewIntray
from tools import env_example

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def python(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_the_metadata_is_whole() -> None:
    assert (PROJECT["name"], PROJECT["version"], PROJECT["license"]) == ("intray", "0.9.0", "MIT")
    assert PROJECT["requires-python"] == ">=3.11" and PROJECT["description"]
    assert (ROOT / PROJECT["readme"]).exists()
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2026 Intray contributors\n")


def test_the_version_is_read_from_one_place() -> None:
    assert version() == PROJECT["version"]
    assert python("manage.py", "--version").stdout == f"Intray {PROJECT['version']}\n"


def test_health_and_the_api_document_show_the_version(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/health").json == {"status": "ok", "version": PROJECT["version"]}
    assert client.get("/api/openapi.json").json["info"]["version"] == PROJECT["version"]


def test_without_the_project_file_the_version_is_that_of_the_package_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "monolith").mkdir()
    for name in ("__init__.py", "aliases.py", "config.py", "errors.py", "rate.py", "setting_rules.py"):
        shutil.copy(ROOT / "monolith" / name, tmp_path / "monolith")
    asked = ("-c", "from monolith.config import version; print(version())")
    assert python(*asked, cwd=tmp_path).stdout == "unknown\n"
    (tmp_path / "intray-1.2.3.dist-info").mkdir()
    (tmp_path / "intray-1.2.3.dist-info" / "METADATA").write_text("Metadata-Version: 2.4\nName: intray\nVersion: 1.2.3\n")
    done = python(*asked, cwd=tmp_path)
    assert done.stdout == "1.2.3\n", done.stderr


def test_the_image_has_the_file_that_the_version_is_read_from() -> None:
    assert re.search(r"^COPY .*\bpyproject\.toml\b", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_the_command_line_loads_nothing_heavy_until_a_command_runs() -> None:
    code = "import json, sys; before = set(sys.modules); import manage; print(json.dumps(sorted(set(sys.modules) - before)))"
    done = python("-c", code)
    loaded = {name for name in json.loads(done.stdout) if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in loaded if name.split(".")[0] != "click"} == {"manage", "monolith", "monolith.aliases", "monolith.errors"}


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    """What an image has: the application without the folders of developers."""
    for name in ("manage.py", "pyproject.toml", "monolith", "jobs", "templates"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "start.py").write_text(
        "import sys; sys.path[0] = sys.path[0] or '.'; from manage import main; main(prog_name='manage.py')\n"
    )
    return tmp_path


@pytest.mark.parametrize("words", [("bench", "worker"), ("bench", "--help"), ("chaos",)])
def test_commands_of_developers_say_plainly_that_they_are_not_there(deployed: Path, words: tuple[str, ...]) -> None:
    done = python("start.py", *words, cwd=deployed)
    folder = "tests" if words[0] == "chaos" else "bench"
    assert done.stderr == f"Error: The folder {folder}/ is missing here: run `manage.py {words[0]}` in a checkout of Intray.\n"
    assert (done.returncode, done.stdout) == (1, "")
    helped = python("start.py", "--help", cwd=deployed)
    assert helped.returncode == 0 and "  bench " in helped.stdout, helped.stderr


@pytest.mark.parametrize("process", ["web", "clock"])
def test_what_goes_on_without_redis_logs_what_to_do_where_nothing_is_set(new_intray: NewIntray, process: str) -> None:
    one = new_intray()
    one.checked("db", "upgrade")
    one.spawn(process)
    one.wait_until(lambda: "Redis is not running. Start everything with `make run`" in one.output())


def test_the_example_of_an_environment_is_as_the_settings_are() -> None:
    assert env_example.FILE.read_text() == env_example.text(), "run: .venv/bin/python -m tools.env_example"


def test_every_default_of_the_example_holds_when_nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = dict(re.findall(r'^#([A-Z_]+)="?(.*?)"?$', env_example.text(), re.MULTILINE))
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', Path(config.__file__).read_text()))
    assert read <= set(shown)
    for name in {*shown, "DYNO"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INTRAY_HOME", str(tmp_path))
    unset = config._read(config.Env())
    for name, value in shown.items():
        if name != "INTRAY_HOME":
            monkeypatch.setenv(name, value)
    assert config._read(config.Env()) == unset


def test_the_example_can_be_loaded_by_a_shell(tmp_path: Path) -> None:
    lines = re.sub(r"^#(?=[A-Z_]+=)", "", env_example.text(), flags=re.MULTILINE)
    (tmp_path / ".env").write_text(lines)
    done = subprocess.run(
        ["sh", "-euc", "set -a; . ./.env; env"], cwd=tmp_path, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0 and "SIGN_IN_RATE=10 per minute\n" in done.stdout, done.stderr
