"""Diagnostics of linters, from the JSON that ruff and eslint write. Whoever wrote it may be hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jobs.tools import inside
from jobs.tools.printed import readable

MAX_JSON = 20 * 1024 * 1024
MAX_PATH, MAX_RULE, MAX_MESSAGE = 300, 100, 500  # characters
MAX_LINE = 2**31
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
        "file": readable(path.removeprefix(f"{inside.PROJECT}/"))[:MAX_PATH],
        "line": _place(line),
        "column": _place(column),
        "rule": readable(rule or SYNTAX)[:MAX_RULE],
        "severity": severity,
        "message": readable(message)[:MAX_MESSAGE],
    }


def _place(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < MAX_LINE else None
