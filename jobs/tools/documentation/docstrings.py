"""What code says of itself: of Python the docstrings and signatures, of anything else the comment that it begins with.

Nothing of it is run: Python is read as a syntax tree.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock

MAX_ENTRIES = 200  # of one file
MAX_SIGNATURE = 160  # characters
COMMENT = re.compile(
    r"\s*+(?:/\*(?P<block>.*?)\*/|<!--(?P<markup>.*?)-->|\"\"\"(?P<quoted>.*?)\"\"\"|(?P<lines>(?:[ \t]*(?://+|\#+|--+|;;+|%+)[^\n]*\n?)+))",
    re.DOTALL,
)
NOTICE = re.compile(r"copyright|\(c\)|spdx-|licen[sc]ed?\b", re.IGNORECASE)
MARGIN = re.compile(r"^[ \t]*(?://+[!/]?|#+|--+|;;+|%+|\*+)?[ \t]?", re.MULTILINE)
_QUIET = Lock()  # what is warned of is the process's, and jobs may run in threads
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Entry:
    """A class or function: its signature, the line it stands in, what it says of itself, and whether it belongs to a class."""

    signature: str
    line: int
    says: str
    is_inner: bool = False


@dataclass(frozen=True)
class Code:
    """What a file of code says: of the whole, and of each public thing in it. `fault` says why it could not be read as code."""

    says: str
    entries: list[Entry] = field(default_factory=list)
    fault: str | None = None


def read_python(source: str) -> Code:
    """A Python file. One that is broken, or for another Python, gives its first comment and the fault."""
    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the file's own, such as odd escapes
            tree = ast.parse(source)
    except SyntaxError as error:
        return Code(first_comment(source), fault=f"line {error.lineno}: {error.msg}")
    except (ValueError, RecursionError, MemoryError):
        return Code(first_comment(source), fault="it is nested too deeply, or holds what no Python file can")
    entries = [entry for node in tree.body for entry in _entries(node)]
    return Code(ast.get_docstring(tree) or first_comment(source), entries[:MAX_ENTRIES])


def first_comment(source: str) -> str:
    """The comment that a file begins with, without its marks; nothing where it begins with none, or with a notice of its licence."""
    start = re.sub(r"\A\ufeff?(?:#!.*\n|<\?(?:php|xml)[^\n]*\n|[ \t]*\n)*", "", source[:8000])
    found = COMMENT.match(start)
    if not found:
        return ""
    says = MARGIN.sub("", next(part for part in found.groups() if part is not None)).strip()
    return "" if NOTICE.search(says[:400]) else says


def _entries(node: ast.stmt, owner: str = "") -> Iterator[Entry]:
    """The public thing that this statement defines, and a class's public methods."""
    if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
        return
    says = (ast.get_docstring(node) or "").partition("\n\n")[0]
    yield Entry(_signature(node, owner), node.lineno, " ".join(says.split()), bool(owner))
    if isinstance(node, ast.ClassDef) and not owner:
        for inner in node.body:
            yield from _entries(inner, node.name) if isinstance(inner, Function) else ()


def _signature(node: Function | ast.ClassDef, owner: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        text = f"class {node.name}({bases})" if bases else f"class {node.name}"
    else:
        gives = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        text = f"{owner}{'.' if owner else ''}{node.name}({ast.unparse(node.args)}){gives}"
    text = " ".join(text.split())
    return text if len(text) <= MAX_SIGNATURE else f"{text[: MAX_SIGNATURE - 1]}…"
