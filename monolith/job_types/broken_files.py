"""Imports the files of job types one by one. A file that cannot be imported is described as a `BrokenFile`, and the others are loaded.

What such a file declares is read from its text, as far as that can be seen: its job types are shown as unavailable, with the reason.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monolith.config import ROOT
from monolith.errors import BadSetting, InvalidDeclaration
from monolith.logs import mask

MAX_REASON = 300  # characters
_DECLARATION = re.compile(r"^@(?:[\w.]+\.)?job_type\b(?P<arguments>.*?)^(?:async )?def (?P<name>\w+)", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PASSWORD = re.compile(r"(\w://)\S+@")
_PATH = re.compile(r"(?<![\w:/.])(?:file://)?/[^\s'\",;:)]+")


@dataclass(frozen=True)
class BrokenType:
    """A job type of a file that cannot be imported, as its text declares it."""

    name: str
    queue: str
    submittable_by: str


@dataclass(frozen=True)
class BrokenFile:
    """A file of job types that cannot be imported. `str` of it is one line that names file, line and reason: for admins."""

    module: str
    where: str  # the file and the line, and those of a file that it imports
    reason: str
    types: tuple[BrokenType, ...]

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"

    @property
    def public_reason(self) -> str:
        """The reason without paths: for users who are no admins."""
        return _PATH.sub("...", self.reason)


def import_all(packages: list[str]) -> Iterator[BrokenFile]:
    """Import every file of these packages. Yields those that cannot be imported."""
    for package in packages:
        try:
            folder = importlib.import_module(package).__path__
        except BaseException as error:
            yield from _broken_package(package, error)
            continue
        for module in pkgutil.iter_modules(folder):
            if not module.ispkg and (broken := _import(f"{package}.{module.name}", _file_of(module))):
                yield broken


def _file_of(module: pkgutil.ModuleInfo) -> Path:
    return Path(getattr(module.module_finder, "path", ""), f"{module.name}.py")


def _import(module: str, file: Path) -> BrokenFile | None:
    try:
        importlib.import_module(module)
    except BaseException as error:
        _raise_if_asked_to_end(error)
        return BrokenFile(module, _where(file, error), reason_of(error), declared_types(file))
    return None


def _raise_if_asked_to_end(error: BaseException) -> None:
    """Ctrl-C ends the process. Whatever else a file raises, SystemExit included, concerns that file only."""
    if isinstance(error, KeyboardInterrupt):
        raise error


def _broken_package(package: str, error: BaseException) -> Iterator[BrokenFile]:
    """The package cannot be imported: its `__init__.py` fails, or `JOB_PACKAGES` names something else. None of its files is loaded."""
    _raise_if_asked_to_end(error)
    try:
        spec = importlib.util.find_spec(package)
    except BaseException:  # a package above it cannot be imported
        spec = None
    if spec is None or not spec.submodule_search_locations:
        reason = f"{package!r} is not a package that can be imported. Correct JOB_PACKAGES"
        yield BrokenFile(package, "JOB_PACKAGES", reason, ())
        return
    files = [_file_of(one) for one in pkgutil.iter_modules(spec.submodule_search_locations) if not one.ispkg]
    types = tuple(one for file in files for one in declared_types(file, only_declared=True))
    yield BrokenFile(package, _where(Path(spec.origin or package), error), reason_of(error), types)


def declared_types(file: Path, *, only_declared: bool = False) -> tuple[BrokenType, ...]:
    """The job types that the text of a file declares; where none can be seen, the one that the file is named after."""
    try:
        text = file.read_text(errors="replace")
    except OSError:  # a file that may not be read
        text = "job_type"
    found = [
        BrokenType(
            one["name"], _argument("queue", one["arguments"]) or "default", _argument("submittable_by", one["arguments"]) or "anyone"
        )
        for one in _DECLARATION.finditer(text)
    ]
    if not found and not only_declared and "job_type" in text and _NAME.fullmatch(file.stem):
        found.append(BrokenType(file.stem, "default", "anyone"))
    return tuple(found)


def _argument(name: str, arguments: str) -> str | None:
    found = re.search(rf"\b{name}\s*=\s*[\"'](\w+)[\"']", arguments)
    return found[1] if found else None


def _where(file: Path, error: BaseException) -> str:
    """The file and the line that failed; where that is in a file that it imports, that one too."""
    own = str(file)
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        lines.append((error.filename, error.lineno))
    line = next((number for name, number in reversed(lines) if name == own), None)
    where = _place(own, line)
    # What is beside it in its package, such as jobs/tools/: further in are libraries, and the machinery of imports.
    inner = next((one for one in reversed(lines) if Path(one[0]).is_relative_to(file.parent)), None)
    return where if inner is None or inner[0] == own else f"{where}, by {_place(*inner)}"


def _place(file: str, line: int | None) -> str:
    path = Path(file)
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else file
    return f"{name}, line {line}" if line else name


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line without passwords and without a full stop."""
    if isinstance(error, SystemExit):
        return mask(f"it calls sys.exit({error.code!r}) while it is imported")[:MAX_REASON]
    try:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:
        message = ""
    if not isinstance(error, BadSetting | InvalidDeclaration):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return mask(_PASSWORD.sub(r"\1***@", " ".join(message.split())))[:MAX_REASON].rstrip(".")
