"""Indexes a project archive for documentation: its texts, the docstrings and signatures of Python, first comments of other code."""

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
from ..documentation.docstrings import SourceDoc, first_comment, read_python
from ..documentation.outline import Section
from ..documentation.sources import Source, SourceSet, decode_text, id_sequence
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
FOREIGN_FOLDERS = frozenset(
    {"node_modules", "__pycache__", "venv", "site-packages", "vendor", "dist", "build", "__MACOSX", "target", "third_party"}
)
TESTS = re.compile(r"(?:^|/)(?:tests?|testing)/|(?:^|/)(?:test_[^/]*|[^/]*[._]test|conftest)\.\w+$")
TITLES = re.compile(r"(?:readme|about|index|introduction|overview|getting.?started|install\w*|usage|quick.?start)", re.IGNORECASE)


def project_sources(title: str, archive: bytes) -> SourceSet:
    """Makes a source of each documented file of the archive. Raises `Permanent` if there is none."""
    files, root = _without_root(read_files(archive))
    ours = {path: content for path, content in files.items() if _is_ours(path)}
    declared, left_out, next_id = _declared(ours), list[str](), id_sequence()
    if others := len(files) - len(ours):
        left_out.append(f"{others:,} of {len(files):,} files are tests, hidden, installed or built, and were not read.")
    texts = [
        Source(next_id(), "file", path, None, text, tuple(outline.sections(text, MAX_SECTIONS_OF_FILE)[0]))
        for path, text in _texts(ours, left_out)
    ]
    code = {
        path: read_python(text) if path.endswith(".py") else SourceDoc(first_comment(text)) for path, text in _code_files(ours, left_out)
    }
    documented = {path: one for path, one in code.items() if one.summary or one.definitions}
    code_sources = {path: _code_source(next_id(), path, one) for path, one in documented.items()}
    left_out += [f"{path} is not read as Python: {one.error}." for path, one in code.items() if one.error][:20]
    sources = [*texts, *code_sources.values()]
    if not sources:
        raise Permanent("The project has no README, docstring or comment that says what it is for.")
    described = [(code_sources[path], one) for path, one in documented.items() if one.definitions]
    return SourceSet(
        declared.get("name") or root or title,
        sources,
        [one for one in texts if TITLES.match(one.title)][:1],  # only at the root: one in a folder describes that folder
        left_out,
        about=" ".join(part for part in (declared.get("description", ""), _counted(ours)) if part),
        reference=_reference(described, left_out),
        reference_sources=tuple(source for source, _ in described),
    )


def _without_root(files: dict[str, bytes]) -> tuple[dict[str, bytes], str]:
    """The files relative to the only folder at the top, and its name; unchanged if there are several."""
    roots = {path.partition("/")[0] for path in files}
    root = roots.pop() if len(roots) == 1 and all("/" in path for path in files) else ""
    return ({path.removeprefix(f"{root}/"): content for path, content in files.items()} if root else files), root


def _is_ours(path: str) -> bool:
    """Whether the file is the project's own source: not installed, built or hidden, and not a test."""
    parts = path.split("/")
    return not any(part in FOREIGN_FOLDERS or part.startswith(".") or part.endswith(".egg-info") for part in parts) and not TESTS.search(
        path
    )


def _declared(files: dict[str, bytes]) -> dict[str, str]:
    """The name and description that pyproject.toml or package.json gives."""
    for path, load, key in (("pyproject.toml", tomllib.loads, "project"), ("package.json", json.loads, None)):
        try:
            data: Any = load(files[path].decode())
            found = data[key] if key else data
            return {name: " ".join(found[name].split())[:500] for name in ("name", "description") if isinstance(found.get(name), str)}
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            continue  # missing, invalid, or without a name
    return {}


def _texts(files: dict[str, bytes], left_out: list[str]) -> list[tuple[str, str]]:
    """The READMEs and documentation pages, those nearest to the root first, and introductions before others."""
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


def _code_files(files: dict[str, bytes], left_out: list[str]) -> list[tuple[str, str]]:
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
            yield path, decode_text(files[path])
        except Permanent as error:
            left_out.append(f"{path}: {error}")


def _code_source(id: str, path: str, code: SourceDoc) -> Source:
    text = "\n\n".join(part for part in (code.summary, _definition_list(code)) if part)
    return Source(id, "file", path, None, text, (Section(path, 2, code.summary),) if code.summary else ())


def _definition_list(code: SourceDoc) -> str:
    """The public definitions of a file as a Markdown list, methods below their class."""
    lines = []
    for one in code.definitions:
        summary = f": {escaped(one.summary[:300])}" if one.summary else ""
        lines.append(f"{'  ' if one.is_method else ''}- {_as_code(one.signature)} (line {one.line}){summary}")
    return "\n".join(lines)


def _as_code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _reference(described: list[tuple[Source, SourceDoc]], left_out: list[str]) -> str:
    """The public classes and functions, file by file, up to MAX_REFERENCE characters."""
    parts: list[str] = []
    for source, code in described:
        part = f"**{_as_code(source.title)}**\n\n{_definition_list(code)}"
        if sum(map(len, parts)) + len(part) > MAX_REFERENCE:
            left_out.append(f"The reference covers {len(parts)} of {len(described)} files; there is no room for more.")
            break
        parts.append(part)
    return "\n\n".join(parts)


def _counted(files: dict[str, bytes]) -> str:
    counts = Counter(LANGUAGES[suffix] for path in files if (suffix := PurePosixPath(path).suffix.lower()) in LANGUAGES)
    words = ", ".join(f"{times:,} in {language}" for language, times in counts.most_common(5))
    return f"The project has {len(files):,} {'file' if len(files) == 1 else 'files'} of its own" + (f": {words}." if words else ".")
