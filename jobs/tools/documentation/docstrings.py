"""Reads the documentation in source code: docstrings and signatures of Python, the first comment of anything else.

No code is executed: Python is parsed into a syntax tree.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock

MAX_DEFINITIONS = 200  # of one file
MAX_SIGNATURE = 160  # characters
COMMENT = re.compile(
    r"\s*+(?:/\*(?P<block>.*?)\*/|<!--(?P<markup>.*?)-->|\"\"\"(?P<quoted>.*?)\"\"\"|(?P<lines>(?:[ \t]*(?://+|\#+|--+|;;+|%+)[^\n]*\n?)+))",
    re.DOTALL,
)
LICENCE_NOTICE = re.compile(r"copyright|\(c\)|spdx-|licen[sc]ed?\b", re.IGNORECASE)
MARGIN = re.compile(r"^[ \t]*(?://+[!/]?|#+|--+|;;+|%+|\*+)?[ \t]?", re.MULTILINE)
_WARNINGS_LOCK = Lock()  # warning filters are global to the process, and jobs may run in threads
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Definition:
    """A public class or function: its signature, its line, the summary of its docstring, and whether it is a method."""

    signature: str
    line: int
    summary: str
    is_method: bool = False


@dataclass(frozen=True)
class SourceDoc:
    """The documentation of a source file: of the whole, and of each public definition. `error` says why it could not be parsed."""

    summary: str
    definitions: list[Definition] = field(default_factory=list)
    error: str | None = None


def read_python(source: str) -> SourceDoc:
    """Reads a Python file. If it cannot be parsed, returns its first comment and the error."""
    try:
        with _WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escapes in the file
            tree = ast.parse(source)
    except SyntaxError as error:
        return SourceDoc(first_comment(source), error=f"line {error.lineno}: {error.msg}")
    except (ValueError, RecursionError, MemoryError):
        return SourceDoc(first_comment(source), error="it is nested too deeply, or holds what no Python file can")
    definitions = [definition for node in tree.body for definition in _definitions(node)]
    return SourceDoc(ast.get_docstring(tree) or first_comment(source), definitions[:MAX_DEFINITIONS])


def first_comment(source: str) -> str:
    """Returns the text of the comment at the start of a file; empty if there is none, or if it is a licence notice."""
    start = re.sub(r"\A\ufeff?(?:#!.*\n|<\?(?:php|xml)[^\n]*\n|[ \t]*\n)*", "", source[:8000])
    found = COMMENT.match(start)
    if not found:
        return ""
    comment = MARGIN.sub("", next(part for part in found.groups() if part is not None)).strip()
    return "" if LICENCE_NOTICE.search(comment[:400]) else comment


def _definitions(node: ast.stmt, owner: str = "") -> Iterator[Definition]:
    """The public class or function that the statement defines, and the public methods of a class."""
    if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
        return
    summary = (ast.get_docstring(node) or "").partition("\n\n")[0]
    yield Definition(_signature(node, owner), node.lineno, " ".join(summary.split()), bool(owner))
    if isinstance(node, ast.ClassDef) and not owner:
        for inner in node.body:
            yield from _definitions(inner, node.name) if isinstance(inner, Function) else ()


def _signature(node: Function | ast.ClassDef, owner: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        text = f"class {node.name}({bases})" if bases else f"class {node.name}"
    else:
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        text = f"{owner}{'.' if owner else ''}{node.name}({ast.unparse(node.args)}){returns}"
    text = " ".join(text.split())
    return text if len(text) <= MAX_SIGNATURE else f"{text[: MAX_SIGNATURE - 1]}…"
