"""Projects that people hand in: their files in a folder, and the commands by which one is built, tested or linted.

The commands are the project's own, declared in its `intray.toml`, or the usual ones of the first kind in KINDS that it is.
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

from ...tools.project import unpacking
from ...tools.project.archive import MAX_NAME
from ...tools.sandbox import init_process
from ...tools.sandbox.workdir import workplace

MAX_FILES = 500  # in params; more come as an archive
MAX_CHARACTERS = 1_000_000
MAX_MANIFEST = 1024 * 1024  # bytes of a file that says what the project is
TESTED, FOUND = "out/junit.xml", "out/findings.json"  # below the sandbox's space
OUT, JUNIT, FINDINGS = f"{init_process.SPACE}/out", f"{init_process.SPACE}/{TESTED}", f"{init_process.SPACE}/{FOUND}"
BACKEND = re.compile(r"^\[(build-system|project)\]", re.MULTILINE)
INSTALL = (
    f"python3 -m pip install --quiet --no-deps --no-build-isolation --target {init_process.SPACE}/home/installed . "
    "|| echo 'Installation failed; running the tests anyway.'"
)
RUFF = "ruff check --no-cache"
NODE_REPORT = f"--test-reporter=junit --test-reporter-destination={JUNIT} --test-reporter=spec --test-reporter-destination=stdout"
NO_TESTS = "no test specified"  # npm's own placeholder
ESLINT = "node_modules/eslint/bin/eslint.js"


def _small(files: dict[str, str]) -> None:
    if sum(len(name) + len(text) for name, text in files.items()) > MAX_CHARACTERS:
        raise ValidationError(f"At most {MAX_CHARACTERS:,} characters in all. Submit a larger project as a zip or tar.gz.")


class ProjectParams(Schema):
    """What `build`, `test` and `lint` are asked with."""

    files = fields.Dict(
        keys=fields.String(validate=validate.Length(1, MAX_NAME)),
        values=fields.String(),
        validate=[validate.Length(1, MAX_FILES), _small],
        metadata={"description": "The project's files as a mapping of path to text, if no document is given"},
    )


@dataclass(frozen=True)
class Project:
    """A project that was handed in: a folder of this machine with its files in `given`, and the links to make among them."""

    folder: Path
    links: dict[str, str]

    @property
    def given(self) -> Path:
        return self.folder / "given"


@dataclass(frozen=True)
class Plan:
    """How to do it: the kind of project, the commands in order, and patterns of the files to take, below the sandbox's space."""

    kind: str
    steps: list[str]
    collect: list[str] = field(default_factory=list)


@contextmanager
def unpacked(job: Job, params: dict[str, Any]) -> Iterator[Project]:
    """The project, unpacked into a folder that is removed afterwards. Raises `Permanent` for what is none."""
    job.progress(5, "unpacking")
    with workplace() as folder:
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


def plan(act: str, project: Project) -> Plan:
    """How this project is built, tested or linted. Raises `Permanent` when nothing says how."""
    for kind in KINDS:
        if found := kind(act, project.given):
            return found
    raise Permanent(
        f"Nothing in the project says how to {act} it: there is no intray.toml, and no matching Python, Node or make setup. "
        f'Add intray.toml with [{act}] and commands = ["..."].'
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


def declared(act: str, project: Path) -> Plan | None:
    """The commands of `intray.toml`."""
    path = project / "intray.toml"
    if not path.is_file():
        return None
    try:
        said = _Manifest().load(tomllib.loads(_text(path))).get(act)
    except (tomllib.TOMLDecodeError, ValidationError, RecursionError) as error:
        raise Permanent(f"intray.toml cannot be used: {str(error)[:500]}. See docs/projects.md for its format.") from None
    if said is None:
        return None
    wanted = [*said["artifacts"], *(said[name] for name in ("junit", "findings") if said[name])]
    for pattern in wanted:
        if pattern.startswith("/") or ".." in Path(pattern).parts:
            raise Permanent(f"intray.toml: {pattern!r} is outside the project. Use a path inside it.")
    return Plan("declared", said["commands"], [f"project/{pattern}" for pattern in wanted])


def python(act: str, project: Path) -> Plan | None:
    """A Python project that says so."""
    is_named = any((project / name).is_file() for name in ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt"))
    return plain_python(act, project) if is_named else None


def plain_python(act: str, project: Path) -> Plan | None:
    """Python, of any kind: a package that has a build backend, or files alone."""
    is_package = (project / "setup.py").is_file() or bool(BACKEND.search(_read(project, "pyproject.toml")))
    if not is_package and not any(project.rglob("*.py")):
        return None
    if act == "lint":
        return Plan(
            "python", [f"{RUFF} --exit-zero --output-format json --output-file {FINDINGS} .", f"{RUFF} --output-format concise ."], [FOUND]
        )
    if act == "test":
        return Plan(
            "python",
            [*([INSTALL] if is_package else []), f"python3 -m pytest --continue-on-collection-errors --junitxml={JUNIT}"],
            [TESTED],
        )
    if is_package:
        return Plan("python", [f"python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir {OUT} ."], ["out/*.whl"])
    return Plan("python", ["python3 -m compileall -q ."])


def node(act: str, project: Path) -> Plan | None:
    """A Node project with what it needs in `node_modules`: nothing is fetched."""
    if not (project / "package.json").is_file():
        return None
    scripts = _scripts(project)
    linked = ["npm rebuild --silent --ignore-scripts"] if (project / "node_modules").is_dir() else []
    if act == "build" and "build" in scripts:
        return Plan("node", [*linked, "npm run build"], ["project/dist/**/*", "project/build/**/*"])
    if act == "build":
        return Plan("node", [f"npm pack --pack-destination {OUT}"], ["out/*.tgz"])
    if act == "test":
        tests = "node --test" if NO_TESTS in str(scripts.get("test", NO_TESTS)) else "npm test"
        return Plan("node", [*linked, f"NODE_OPTIONS='{NODE_REPORT}' {tests}"], [TESTED])
    if (project / ESLINT).is_file():
        return Plan("node", [f"node {ESLINT} --format json --output-file {FINDINGS} . || true", f"node {ESLINT} ."], [FOUND])
    return Plan("node", [*linked, "npm run lint"]) if "lint" in scripts else None


def _scripts(project: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read(project, "package.json"))
    except (ValueError, RecursionError):
        raise Permanent("package.json is not valid JSON. Fix it and submit the project again.") from None
    scripts = manifest.get("scripts") if isinstance(manifest, dict) else None
    return scripts if isinstance(scripts, dict) else {}


def make(act: str, project: Path) -> Plan | None:
    """A project with a Makefile that has a target for it; to build, its first one will do."""
    text = next((text for name in ("GNUmakefile", "makefile", "Makefile") if (text := _read(project, name))), "")
    targets = re.findall(r"^([\w.-]+)[ \t]*:(?!=)", text, re.MULTILINE)
    wanted = {"build": ("build", "all"), "test": ("test", "check"), "lint": ("lint",)}[act]
    target = next((name for name in wanted if name in targets), None)
    if target is None and not (act == "build" and targets):
        return None
    return Plan("make", [f"make {target or ''}".strip()], ["project/**/*"] if act == "build" else [])


KINDS: tuple[Callable[[str, Path], Plan | None], ...] = (declared, python, node, make, plain_python)


def _read(project: Path, name: str) -> str:
    return _text(project / name) if (project / name).is_file() else ""


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_MANIFEST:
        raise Permanent(f"{path.name} is larger than {MAX_MANIFEST // 1024 // 1024} MB. Shorten it and submit the project again.")
    return path.read_text(errors="replace")
