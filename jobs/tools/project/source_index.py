"""What the files of a project say of it: its texts, the docstrings and signatures of its Python, the first comments of the rest."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from monolith.content.markdown_html import escaped
from monolith.job_types.registry import Permanent

from ..documentation import outline
from ..documentation.docstrings import Code, first_comment, read_python
from ..documentation.outline import Section
from ..documentation.sources import Material, Source, numbered, readable
from .archive import read_files

MAX_TEXTS, MAX_CODE = 20, 150  # files
MAX_FILE = 512 * 1024  # bytes
MAX_REFERENCE = 60_000  # characters
MAX_SECTIONS_OF_FILE = 12
TEXTS = frozenset({".md", ".markdown", ".rst", ".txt", ""})
LANGUAGES = {
    ".py": "Python",
    ".js": "JavaScript",
    ".mjs": "JavaScript",
    ".ts": "TypeScript",
    ".tsx": "TypeScript",
    ".jsx": "JavaScript",
    ".go": "Go",
    ".rs": "Rust",
    ".java": "Java",
    ".kt": "Kotlin",
    ".c": "C",
    ".h": "C",
    ".cc": "C++",
    ".cpp": "C++",
    ".hpp": "C++",
    ".cs": "C#",
    ".rb": "Ruby",
    ".php": "PHP",
    ".swift": "Swift",
    ".sh": "Shell",
    ".sql": "SQL",
    ".lua": "Lua",
    ".css": "CSS",
    ".html": "HTML",
}
NOT_OURS = frozenset(
    {"node_modules", "__pycache__", "venv", "site-packages", "vendor", "dist", "build", "__MACOSX", "target", "third_party"}
)
TESTS = re.compile(r"(?:^|/)(?:tests?|testing)/|(?:^|/)(?:test_[^/]*|[^/]*[._]test|conftest)\.\w+$")
TITLES = re.compile(r"(?:readme|about|index|introduction|overview|getting.?started|install\w*|usage|quick.?start)", re.IGNORECASE)


def of_project(title: str, archive: bytes) -> Material:
    """The project in this archive; each file that says something is a source. Raises `Permanent` when none does."""
    files, root = _without_root(read_files(archive))
    ours = {path: content for path, content in files.items() if _is_ours(path)}
    facts, left_out, name = _declared(ours), _left_out(files, ours), numbered()
    texts = [Source(name(), "file", path, None, text, _sections(text)) for path, text in _texts(ours, left_out)]
    code = {path: _code(path, text) for path, text in _sources_of_code(ours, left_out)}
    told = {path: one for path, one in code.items() if one.says or one.entries}
    files_of_code = {path: Source(name(), "file", path, None, _told(one), _says(path, one)) for path, one in told.items()}
    left_out += [f"{path} is not read as Python: {one.fault}." for path, one in code.items() if one.fault][:20]
    sources = [*texts, *files_of_code.values()]
    if not sources:
        raise Permanent("The project has no README, docstring or comment that says what it is for.")
    described = [(files_of_code[path], one) for path, one in told.items() if one.entries]
    return Material(
        facts.get("name") or root or title,
        sources,
        [one for one in texts if TITLES.match(one.title)][:1],  # at the root: one in a folder speaks of that folder
        left_out,
        about=" ".join(part for part in (facts.get("description", ""), _counted(ours)) if part),
        reference=_reference(described, left_out),
        reference_sources=tuple(source for source, _ in described),
    )


def _without_root(files: dict[str, bytes]) -> tuple[dict[str, bytes], str]:
    """The files as seen from the one folder that holds them all, and its name."""
    roots = {path.partition("/")[0] for path in files}
    root = roots.pop() if len(roots) == 1 and all("/" in path for path in files) else ""
    return ({path.removeprefix(f"{root}/"): content for path, content in files.items()} if root else files), root


def _is_ours(path: str) -> bool:
    """Whether people of the project wrote it: not installed, not built, not hidden, no test."""
    parts = path.split("/")
    return not any(part in NOT_OURS or part.startswith(".") or part.endswith(".egg-info") for part in parts) and not TESTS.search(path)


def _left_out(files: dict[str, bytes], ours: dict[str, bytes]) -> list[str]:
    others = len(files) - len(ours)
    return [f"{others:,} of {len(files):,} files are tests, hidden, installed or built, and were not read."] if others else []


def _declared(files: dict[str, bytes]) -> dict[str, str]:
    """The name and description that pyproject.toml or package.json gives."""
    for path, load, key in (("pyproject.toml", tomllib.loads, "project"), ("package.json", json.loads, None)):
        try:
            data: Any = load(files[path].decode())
            found = data[key] if key else data
            return {name: " ".join(found[name].split())[:500] for name in ("name", "description") if isinstance(found.get(name), str)}
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            continue  # not there, or nothing that declares a name
    return {}


def _texts(files: dict[str, bytes], left_out: list[str]) -> list[tuple[str, str]]:
    """The READMEs and pages of documentation: those nearest to the root first, and what says what it is before the rest."""
    paths = [path for path in files if PurePosixPath(path).suffix.lower() in TEXTS and _is_text(path)]
    ranked = sorted(paths, key=lambda path: (path.count("/"), not TITLES.match(PurePosixPath(path).name), path))
    return list(_read(files, ranked, MAX_TEXTS, "texts", left_out))


def _is_text(path: str) -> bool:
    name = PurePosixPath(path)
    is_named = name.stem.lower() in ("readme", "changelog", "contributing", "install", "usage") or name.suffix.lower() in (
        ".md",
        ".markdown",
    )
    return is_named or name.suffix.lower() in (".rst", ".txt") and "doc" in path.lower()


def _sources_of_code(files: dict[str, bytes], left_out: list[str]) -> list[tuple[str, str]]:
    paths = [path for path in files if PurePosixPath(path).suffix.lower() in LANGUAGES and files[path].strip()]
    return list(_read(files, sorted(paths, key=lambda path: (path.count("/"), path)), MAX_CODE, "code files", left_out))


def _read(files: dict[str, bytes], paths: list[str], most: int, what: str, left_out: list[str]) -> Iterable[tuple[str, str]]:
    if len(paths) > most:
        left_out.append(f"More {what} than are read: {len(paths) - most:,} were left out (limit: {most}).")
    for path in paths[:most]:
        if len(files[path]) > MAX_FILE:
            left_out.append(f"{path} is larger than {MAX_FILE // 1024} kB.")
            continue
        try:
            yield path, readable(files[path])
        except Permanent as error:
            left_out.append(f"{path}: {error}")


def _code(path: str, text: str) -> Code:
    return read_python(text) if path.endswith(".py") else Code(first_comment(text))


def _sections(text: str) -> tuple[Section, ...]:
    return tuple(outline.sections(text, MAX_SECTIONS_OF_FILE)[0])


def _says(path: str, code: Code) -> tuple[Section, ...]:
    return (Section(path, 2, code.says),) if code.says else ()


def _told(code: Code) -> str:
    return "\n\n".join(part for part in (code.says, _listed(code)) if part)


def _listed(code: Code) -> str:
    """The public things of a file as a list, those of a class under it."""
    lines = [f"{'  ' if one.is_inner else ''}- {_as_code(one.signature)} (line {one.line})" + _colon(one.says) for one in code.entries]
    return "\n".join(lines)


def _as_code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _colon(says: str) -> str:
    return f": {escaped(says[:300])}" if says else ""


def _reference(described: list[tuple[Source, Code]], left_out: list[str]) -> str:
    """Every public class and function, file by file, while there is room."""
    parts: list[str] = []
    for source, code in described:
        part = f"**{_as_code(source.title)}**\n\n{_listed(code)}"
        if sum(map(len, parts)) + len(part) > MAX_REFERENCE:
            left_out.append(f"The reference covers {len(parts)} of {len(described)} files; there is no room for more.")
            break
        parts.append(part)
    return "\n\n".join(parts)


def _counted(files: dict[str, bytes]) -> str:
    counts = Counter(LANGUAGES[suffix] for path in files if (suffix := PurePosixPath(path).suffix.lower()) in LANGUAGES)
    words = ", ".join(f"{times:,} in {language}" for language, times in counts.most_common(5))
    return f"The project has {len(files):,} {'file' if len(files) == 1 else 'files'} of its own" + (f": {words}." if words else ".")
