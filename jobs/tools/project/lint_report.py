"""Diagnostics of linters, from the JSON that ruff and eslint write. Whoever wrote it may be hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ...tools.project.terminal_text import readable
from ...tools.sandbox import init_process

MAX_JSON = 20 * 1024 * 1024
MAX_PATH, MAX_RULE, MAX_MESSAGE = 300, 100, 500  # characters
MAX_LINE = 2**31
MAX_SOURCE = 240  # characters of a source line
MAX_FILE = 1024 * 1024  # bytes of a file whose lines are shown
SYNTAX = "syntax"  # the rule of what is no code at all
ESLINT_SEVERITIES = {1: "warning", 2: "error"}


class BadReport(Exception):
    """It is neither ruff's nor eslint's JSON."""


def diagnostics(report: bytes) -> list[dict[str, Any]]:
    """Every finding in order: its file, line, column, rule, severity (error or warning) and message. Raises `BadReport`."""
    if len(report) > MAX_JSON:
        raise BadReport(f"it is larger than {MAX_JSON // 1024 // 1024} MB")
    try:
        entries = json.loads(report)
        return [found for entry in entries for found in _of(entry)]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise BadReport(f"it is neither ruff's nor eslint's JSON ({type(error).__name__})") from None


def _of(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
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
        "line": _place(line),
        "column": _place(column),
        "rule": readable(rule or SYNTAX)[:MAX_RULE],
        "severity": severity,
        "message": readable(message)[:MAX_MESSAGE],
    }


def _place(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < MAX_LINE else None


def beside_source(found: list[dict[str, Any]], project: Path) -> list[dict[str, Any]]:
    """The findings, each with the `source` line that it is about; None where that cannot be shown."""
    lines = cache(lambda path: _lines(project, path))
    return [{**one, "source": _line(lines(one["file"]), one["line"])} for one in found]


def _lines(project: Path, path: str) -> list[str]:
    """None for what is no plain file of the project: the path is the linter's word, and the linter may be the project's own."""
    try:
        place = (project / path).resolve(strict=True)
        if place.is_relative_to(project.resolve()) and place.is_file() and place.stat().st_size <= MAX_FILE:
            return place.read_text(errors="replace").splitlines()
    except (OSError, ValueError, RuntimeError):
        pass
    return []


def _line(lines: list[str], number: int | None) -> str | None:
    return readable(lines[number - 1].expandtabs(4))[:MAX_SOURCE] if number and number <= len(lines) else None
