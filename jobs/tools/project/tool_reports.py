"""Parses the reports of a project's tools: JUnit XML of test runs, and the JSON of ruff and eslint.

The project writes these files, so nothing in them is trusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..sandbox import init_process
from ..sandbox.run import readable

MAX_REPORT = 20 * 1024 * 1024  # bytes
MAX_ROWS = 600_000  # bytes of JSON: a result may have 1 MB in all
MAX_NAME, MAX_MESSAGE = 200, 500  # characters
MAX_PATH, MAX_RULE = 300, 100  # characters
MAX_POSITION = 2**31  # of a line or column
MAX_SOURCE_LINE = 240  # characters
MAX_FILE = 1024 * 1024  # bytes of a file whose lines are shown
OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}
SYNTAX = "syntax"  # the rule of a syntax error
ESLINT_SEVERITIES = {1: "warning", 2: "error"}


class BadReport(Exception):
    """The report cannot be parsed; the message says why."""


def junit_cases(report: bytes) -> list[dict[str, Any]]:
    """Returns the test cases of JUnit XML in order.

    Each has `name`, `class`, `outcome` (passed, failed, error or skipped), `seconds` and `message`. Raises `BadReport`.
    """
    from lxml import etree

    if len(report) > MAX_REPORT:
        raise BadReport(f"it is larger than {MAX_REPORT // 1024 // 1024} MB")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True)
    try:
        tree = etree.fromstring(report, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise BadReport(str(error)[:200]) from None
    if tree.getroottree().docinfo.internalDTD is not None:
        raise BadReport("it declares a document type, which reports of tests do not")
    return [_case(one) for one in tree.iter("testcase")]


def count_outcomes(cases: list[dict[str, Any]]) -> dict[str, int]:
    """Returns the number of cases in total and by outcome."""
    outcomes = [one["outcome"] for one in cases]
    return {"total": len(outcomes), **{name: outcomes.count(name) for name in ("passed", "failed", "error", "skipped")}}


def _case(element: Any) -> dict[str, Any]:
    verdict = next((one for one in element if one.tag in OUTCOMES), None)
    message = "" if verdict is None else (verdict.get("message") or "".join(verdict.itertext()))
    return {
        "name": readable(element.get("name") or "")[:MAX_NAME],
        "class": readable(element.get("classname") or "")[:MAX_NAME],
        "outcome": "passed" if verdict is None else OUTCOMES[verdict.tag],
        "seconds": _seconds(element.get("time")),
        "message": readable(message.strip())[:MAX_MESSAGE] or None,
    }


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def lint_diagnostics(report: bytes) -> list[dict[str, Any]]:
    """Returns the diagnostics in the JSON of ruff or eslint, in order.

    Each has `file`, `line`, `column`, `rule`, `severity` (error or warning) and `message`. Raises `BadReport`.
    """
    if len(report) > MAX_REPORT:
        raise BadReport(f"it is larger than {MAX_REPORT // 1024 // 1024} MB")
    try:
        entries = json.loads(report)
        return [found for entry in entries for found in _entry_diagnostics(entry)]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise BadReport(f"it is neither ruff's nor eslint's JSON ({type(error).__name__})") from None


def _entry_diagnostics(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "filePath" in entry:
        for one in entry["messages"]:
            severity = ESLINT_SEVERITIES.get(one.get("severity"), "error")
            yield _diagnostic(entry["filePath"], one.get("line"), one.get("column"), one.get("ruleId"), one["message"], severity)
    else:
        place = entry.get("location") or {}
        severity = "warning" if entry.get("severity") == "warning" else "error"
        rule = None if entry.get("code") == "invalid-syntax" else entry.get("code")
        yield _diagnostic(entry["filename"], place.get("row"), place.get("column"), rule, entry["message"], severity)


def _diagnostic(path: str, line: Any, column: Any, rule: str | None, message: str, severity: str) -> dict[str, Any]:
    return {
        "file": readable(path.removeprefix(f"{init_process.PROJECT}/"))[:MAX_PATH],
        "line": _position(line),
        "column": _position(column),
        "rule": readable(rule or SYNTAX)[:MAX_RULE],
        "severity": severity,
        "message": readable(message)[:MAX_MESSAGE],
    }


def _position(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < MAX_POSITION else None


def with_source_lines(diagnostics: list[dict[str, Any]], project: Path) -> list[dict[str, Any]]:
    """Returns the diagnostics with the line each is about as `source`; None where that line cannot be read."""
    lines = cache(lambda path: _lines(project, path))
    return [{**one, "source": _source_line(lines(one["file"]), one["line"])} for one in diagnostics]


def _lines(project: Path, path: str) -> list[str]:
    """The lines of a regular file of the project, else none: the path comes from the project's own linter and is not trusted."""
    try:
        place = (project / path).resolve(strict=True)
        if place.is_relative_to(project.resolve()) and place.is_file() and place.stat().st_size <= MAX_FILE:
            return place.read_text(errors="replace").splitlines()
    except (OSError, ValueError, RuntimeError):
        pass
    return []


def _source_line(lines: list[str], number: int | None) -> str | None:
    return readable(lines[number - 1].expandtabs(4))[:MAX_SOURCE_LINE] if number and number <= len(lines) else None


def fit_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the first rows, as many as fit into MAX_ROWS."""
    left = MAX_ROWS
    for count, row in enumerate(rows):
        left -= len(json.dumps(row, ensure_ascii=False).encode()) + 2
        if left < 0:
            return rows[:count]
    return rows
