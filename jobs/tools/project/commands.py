"""Unpacks submitted projects, and plans the commands that build, test or lint them.

The commands are those of the project's `intray.toml`, or the standard ones of the first kind of project in PLANNERS that matches.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from monolith.job_types.registry import Job, Permanent

from ..sandbox import init_process
from ..sandbox.workdir import work_dir
from . import unpacking
from .archive import MAX_NAME

MAX_FILES = 500  # in params; larger projects are submitted as an archive
MAX_CHARACTERS = 1_000_000
MAX_MANIFEST = 1024 * 1024  # bytes of intray.toml, package.json and the like
JUNIT_FILE, FINDINGS_FILE = "out/junit.xml", "out/findings.json"  # relative to the workspace
OUT, JUNIT, FINDINGS = (
    f"{init_process.WORKSPACE}/out",
    f"{init_process.WORKSPACE}/{JUNIT_FILE}",
    f"{init_process.WORKSPACE}/{FINDINGS_FILE}",
)
BACKEND = re.compile(r"^\[(build-system|project)\]", re.MULTILINE)
INSTALL = (
    f"python3 -m pip install --quiet --no-deps --no-build-isolation --target {init_process.WORKSPACE}/home/installed . "
    "|| echo 'Installation failed; running the tests anyway.'"
)
RUFF = "ruff check --no-cache"
NODE_REPORT = f"--test-reporter=junit --test-reporter-destination={JUNIT} --test-reporter=spec --test-reporter-destination=stdout"
NO_TESTS = "no test specified"  # npm's placeholder
ESLINT = "node_modules/eslint/bin/eslint.js"


def _small(files: dict[str, str]) -> None:
    if sum(len(name) + len(text) for name, text in files.items()) > MAX_CHARACTERS:
        raise ValidationError(f"At most {MAX_CHARACTERS:,} characters in all. Submit a larger project as a zip or tar.gz.")


class ProjectParams(Schema):
    """The parameters of `build`, `test` and `lint`."""

    files = fields.Dict(
        keys=fields.String(validate=validate.Length(1, MAX_NAME)),
        values=fields.String(),
        validate=[validate.Length(1, MAX_FILES), _small],
        metadata={"description": "The project's files as a mapping of path to text, if no document is given"},
    )


@dataclass(frozen=True)
class Project:
    """A submitted project: a work directory with its files in `given`, and the symbolic links (path to target) to make in it."""

    folder: Path
    links: dict[str, str]

    @property
    def given(self) -> Path:
        return self.folder / "given"


@dataclass(frozen=True)
class Plan:
    """The kind of project, the commands in order, and the patterns of files to collect, relative to the workspace."""

    kind: str
    steps: list[str]
    collect: list[str] = field(default_factory=list)


@contextmanager
def unpacked_project(job: Job, params: dict[str, Any]) -> Iterator[Project]:
    """Unpacks the project into a work directory that is removed on exit. Raises `Permanent` if it is not a project."""
    job.progress(5, "unpacking")
    with work_dir() as folder:
        place = folder / "unpacked" / "all"
        place.mkdir(parents=True)
        place.chmod(0o755)
        links = _unpack(job, params, place)
        root = unpacking.root_of(place)
        inner = "" if root == place else f"{root.name}/"
        links = {path.removeprefix(inner): target for path, target in links.items() if path.startswith(inner)}
        root.rename(folder / "given")
        yield Project(folder, links)


def _unpack(job: Job, params: dict[str, Any], place: Path) -> dict[str, str]:
    if job.document is None:
        return unpacking.write_files(params.get("files") or {}, place)
    if job.document.content is None:
        raise Permanent("A web page is not a project. Submit a zip or tar.gz, or the files.")
    return unpacking.unpack(job.document.content, place)


def plan(action: str, project: Project) -> Plan:
    """Returns the plan for an action (`build`, `test` or `lint`). Raises `Permanent` if no kind of project matches."""
    for planner in PLANNERS:
        if found := planner(action, project.given):
            return found
    raise Permanent(
        f"Nothing in the project says how to {action} it: there is no intray.toml, and no matching Python, Node or make setup. "
        f'Add intray.toml with [{action}] and commands = ["..."].'
    )


class _Declared(Schema):
    """One table of `intray.toml`."""

    commands = fields.List(fields.String(validate=validate.Length(1, 2000)), required=True, validate=validate.Length(1, 50))
    artifacts = fields.List(fields.String(validate=validate.Length(1, 200)), load_default=list, validate=validate.Length(max=50))
    junit = fields.String(load_default=None, validate=validate.Length(1, 200))
    findings = fields.String(load_default=None, validate=validate.Length(1, 200))


class _Manifest(Schema):
    build = fields.Nested(_Declared)
    test = fields.Nested(_Declared)
    lint = fields.Nested(_Declared)


def declared(action: str, project: Path) -> Plan | None:
    """Plans with the commands of `intray.toml`."""
    path = project / "intray.toml"
    if not path.is_file():
        return None
    try:
        table = _Manifest().load(tomllib.loads(_text(path))).get(action)
    except (tomllib.TOMLDecodeError, ValidationError, RecursionError) as error:
        raise Permanent(f"intray.toml cannot be used: {str(error)[:500]}. See docs/projects.md for its format.") from None
    if table is None:
        return None
    patterns = [*table["artifacts"], *(table[name] for name in ("junit", "findings") if table[name])]
    for pattern in patterns:
        if pattern.startswith("/") or ".." in Path(pattern).parts:
            raise Permanent(f"intray.toml: {pattern!r} is outside the project. Use a path inside it.")
    return Plan("declared", table["commands"], [f"project/{pattern}" for pattern in patterns])


def python(action: str, project: Path) -> Plan | None:
    """Plans a project with a Python manifest."""
    is_named = any((project / name).is_file() for name in ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt"))
    return plain_python(action, project) if is_named else None


def plain_python(action: str, project: Path) -> Plan | None:
    """Plans any Python: a package with a build backend, or plain `*.py` files."""
    is_package = (project / "setup.py").is_file() or bool(BACKEND.search(_read(project, "pyproject.toml")))
    if not is_package and not any(project.rglob("*.py")):
        return None
    if action == "lint":
        return Plan(
            "python",
            [f"{RUFF} --exit-zero --output-format json --output-file {FINDINGS} .", f"{RUFF} --output-format concise ."],
            [FINDINGS_FILE],
        )
    if action == "test":
        return Plan(
            "python",
            [*([INSTALL] if is_package else []), f"python3 -m pytest --continue-on-collection-errors --junitxml={JUNIT}"],
            [JUNIT_FILE],
        )
    if is_package:
        return Plan("python", [f"python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir {OUT} ."], ["out/*.whl"])
    return Plan("python", ["python3 -m compileall -q ."])


def node(action: str, project: Path) -> Plan | None:
    """Plans a Node project. Its dependencies must be in `node_modules`: nothing is downloaded."""
    if not (project / "package.json").is_file():
        return None
    scripts = _scripts(project)
    linked = ["npm rebuild --silent --ignore-scripts"] if (project / "node_modules").is_dir() else []
    if action == "build" and "build" in scripts:
        return Plan("node", [*linked, "npm run build"], ["project/dist/**/*", "project/build/**/*"])
    if action == "build":
        return Plan("node", [f"npm pack --pack-destination {OUT}"], ["out/*.tgz"])
    if action == "test":
        tests = "node --test" if NO_TESTS in str(scripts.get("test", NO_TESTS)) else "npm test"
        return Plan("node", [*linked, f"NODE_OPTIONS='{NODE_REPORT}' {tests}"], [JUNIT_FILE])
    if (project / ESLINT).is_file():
        return Plan("node", [f"node {ESLINT} --format json --output-file {FINDINGS} . || true", f"node {ESLINT} ."], [FINDINGS_FILE])
    return Plan("node", [*linked, "npm run lint"]) if "lint" in scripts else None


def _scripts(project: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read(project, "package.json"))
    except (ValueError, RecursionError):
        raise Permanent("package.json is not valid JSON. Fix it and submit the project again.") from None
    scripts = manifest.get("scripts") if isinstance(manifest, dict) else None
    return scripts if isinstance(scripts, dict) else {}


def make(action: str, project: Path) -> Plan | None:
    """Plans a project with a Makefile that has a matching target; `build` also takes the first target."""
    text = next((text for name in ("GNUmakefile", "makefile", "Makefile") if (text := _read(project, name))), "")
    targets = re.findall(r"^([\w.-]+)[ \t]*:(?!=)", text, re.MULTILINE)
    names = {"build": ("build", "all"), "test": ("test", "check"), "lint": ("lint",)}[action]
    target = next((name for name in names if name in targets), None)
    if target is None and not (action == "build" and targets):
        return None
    return Plan("make", [f"make {target or ''}".strip()], ["project/**/*"] if action == "build" else [])


PLANNERS: tuple[Callable[[str, Path], Plan | None], ...] = (declared, python, node, make, plain_python)


def _read(project: Path, name: str) -> str:
    return _text(project / name) if (project / name).is_file() else ""


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_MANIFEST:
        raise Permanent(f"{path.name} is larger than {MAX_MANIFEST // 1024 // 1024} MB. Shorten it and submit the project again.")
    return path.read_text(errors="replace")
