"""Exports the jobs of a period as CSV for spreadsheets, without formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from monolith.content.formatting import csv_text, rfc3339
from monolith.job_types.registry import LedgerRow

MAX_BYTES = 25 * 1024 * 1024
PROGRESS_EVERY = 1000  # rows
HEADER = ("id", "type", "status", "priority", "document", "owner", "submitted", "started", "ended", "waited_s", "ran_s", "attempts") + (
    *("interruptions", "error_type", "error", "input_tokens", "output_tokens", "usd"),
)
TIMES = ("created_at", "started_at", "ended_at")


@dataclass(frozen=True)
class CsvExport:
    """The file, its number of rows, and whether it has all of them."""

    content: bytes
    rows: int
    is_complete: bool


def write(rows: Iterable[LedgerRow], on_progress: Callable[[int], None]) -> CsvExport:
    """Returns the rows as CSV, up to MAX_BYTES, and reports the number of rows now and then.

    The limit exists because the file is held in memory and stored in the database.
    """
    file = io.BytesIO(b"\xef\xbb\xbf")  # a byte order mark tells spreadsheets that it is UTF-8
    file.seek(0, io.SEEK_END)
    text = io.TextIOWrapper(file, "utf-8", errors="replace", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(HEADER)
    number, is_complete = 0, True
    for row in rows:
        if file.tell() > MAX_BYTES:
            is_complete = False
            break
        writer.writerow([_cell(name, value) for name, value in row._asdict().items()])
        number += 1
        if number % PROGRESS_EVERY == 0:
            on_progress(number)
    text.detach()
    return CsvExport(file.getvalue(), number, is_complete)


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return ""
    if name in TIMES:
        return rfc3339(value, "seconds")
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return csv_text(value) if isinstance(value, str) else value
