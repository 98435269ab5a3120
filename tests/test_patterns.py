"""Regular expressions over texts of strangers: none takes the square of a text's length, whatever is in it.

Found in the code itself, each is given long texts made of what it looks for. CPU time is measured, not the clock; where the time
grows with the square, 10,000 characters take a second, and 10 MB years.
"""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.processes import ROOT

LENGTH = 10_000  # characters
MOST_S = 0.3  # of CPU time, for the worst text
OURS = ("bench", "manage.py", "monolith/launch", "jobs/tools/sandbox/init_process.py")  # these read nobody's texts
SHORT = (
    "monolith/runner/ledger/error_fingerprint.py",
    "monolith/migrations/versions/0011_causes_and_requeues.py",
)  # reads messages of 2,000 characters at most (lifecycle.MAX_MESSAGE)
PIECES = [
    " ",
    "\t",
    "\n",
    "a",
    "0",
    " a",
    "a ",
    "a.",
    "1,",
    "\n ",
    "- ",
    "-a",
    "_a",
    "`",
    "# ",
    "[a](",
    "<a ",
    "a@",
    "a=",
    "((",
    "/*",
    '"\\"',
]


@dataclass(frozen=True)
class Pattern:
    place: str
    text: Any
    flags: int
    is_anchored: bool


def patterns() -> Iterator[Pattern]:
    files = (ROOT / "manage.py", *(ROOT / "monolith").rglob("*.py"), *(ROOT / "jobs").rglob("*.py"))
    for path in files:
        tree, place = ast.parse(path.read_text()), str(path.relative_to(ROOT))
        if not place.startswith((*OURS, *SHORT)):
            source = path.read_text()
            yield from (one for node in ast.walk(tree) if (one := _pattern(node, place, tree, source)))


def _pattern(node: ast.AST, place: str, tree: ast.AST, source: str) -> Pattern | None:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "re" and node.args
    if not is_call or node.func.attr == "escape":
        return None
    try:
        text = ast.literal_eval(node.args[0])
    except ValueError:
        return None  # made of other texts of ours
    names = [one.attr for extra in (*node.args[1:], *(k.value for k in node.keywords)) for one in ast.walk(extra) if hasattr(one, "attr")]
    flags = sum(getattr(re, name) for name in set(names) if name.isupper() and hasattr(re, name))
    return Pattern(f"{place}:{node.lineno}", text, flags, _is_anchored(node, tree, source))


def _is_anchored(call: ast.Call, tree: ast.AST, source: str) -> bool:
    """Whether it is tried at the beginning of a text only."""
    if call.func.attr in ("match", "fullmatch"):
        return True
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and node.value is call:
            used = set(re.findall(rf"\b{ast.unparse(node.targets[0])}\.(\w+)", source))
            return bool(used) and used <= {"match", "fullmatch", "pattern"}
    return False


def texts(pattern: Pattern) -> Iterator[str]:
    own = pattern.text.decode("latin-1") if isinstance(pattern.text, bytes) else pattern.text
    for piece in sorted({one for one in own if one.isprintable()} | set(PIECES)):
        yield "x" * (not pattern.is_anchored) + piece * (LENGTH // len(piece)) + "\x01!"


def seconds(pattern: Pattern, compiled: Any, text: str) -> float:
    given = text.encode() if isinstance(pattern.text, bytes) else text
    began = time.process_time()
    if pattern.is_anchored:
        compiled.match(given)
        compiled.fullmatch(given)
    else:
        for _ in compiled.finditer(given):
            pass
    return time.process_time() - began


@pytest.mark.timeout(240)
def test_no_pattern_takes_the_square_of_a_texts_length() -> None:
    found, slow = list(patterns()), []
    for pattern in found:
        compiled = re.compile(pattern.text, pattern.flags)
        for text in texts(pattern):
            if (took := seconds(pattern, compiled, text)) > MOST_S:
                slow.append(f"{pattern.place} {pattern.text!r}: {took:.1f} s for {text[:12]!r}...")
                break
    assert not slow, "\n".join(slow)
    assert len(found) > 90
