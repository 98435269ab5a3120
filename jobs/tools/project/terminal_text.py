"""What programs print, made fit to be kept and shown: plain text, and no more of it than a result can hold."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_ROWS = 600_000  # bytes of JSON: a result has 1 MB, and more to say
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def readable(text: str) -> str:
    """The text that a terminal would show, without its control codes and what no database keeps."""
    return CONTROLS.sub("", ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def fitting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many of the first rows as a result can hold."""
    left = MAX_ROWS
    for count, row in enumerate(rows):
        left -= len(json.dumps(row, ensure_ascii=False).encode()) + 2
        if left < 0:
            return rows[:count]
    return rows
