"""The jobs of a period as CSV, for spreadsheets: what a stranger wrote is text there, never a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from monolith.content.formatting import rfc3339
from monolith.job_types.registry import LedgerRow

MAX_BYTES = 25 * 1024 * 1024
TELL_EVERY = 1000  # rows
HEAD = ("id", "type", "status", "priority", "document", "owner", "submitted", "started", "ended", "waited_s", "ran_s", "attempts") + (
    *("interruptions", "error_type", "error", "input_tokens", "output_tokens", "usd"),
)
MOMENTS = ("created_at", "started_at", "ended_at")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Sheet:
    content: bytes
    rows: int
    is_complete: bool


def write(rows: Iterable[LedgerRow], tell: Callable[[int], None]) -> Sheet:
    """Every row, up to MAX_BYTES: the file lies in memory and in the database."""
    file = io.BytesIO(b"\xef\xbb\xbf")  # tells spreadsheets that it is UTF-8
    file.seek(0, io.SEEK_END)
    text = io.TextIOWrapper(file, "utf-8", errors="replace", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(HEAD)
    number, is_complete = 0, True
    for row in rows:
        if file.tell() > MAX_BYTES:
            is_complete = False
            break
        writer.writerow(_cells(row))
        number += 1
        if number % TELL_EVERY == 0:
            tell(number)
    text.detach()
    return Sheet(file.getvalue(), number, is_complete)


def _cells(row: LedgerRow) -> list[Any]:
    return [_cell(name, value) for name, value in row._asdict().items()]


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return ""
    if name in MOMENTS:
        return rfc3339(value, "seconds")
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return harmless(value) if isinstance(value, str) else value


def harmless(text: str) -> str:
    """The text, which no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
