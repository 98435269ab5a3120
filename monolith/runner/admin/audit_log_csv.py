"""The audit log as CSV, for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from monolith import strict_json
from monolith.content.formatting import csv_text, rfc3339
from monolith.db.engine import read_session
from monolith.runner.admin.audit_log import Filters, entries
from monolith.runner.ledger.audit import AuditEntry

COLUMNS = ("id", "at", "actor", "act", "subject", "count", "address", "request_id", "before", "after")
MAX_ROWS = 100_000  # of one CSV file
ROWS_PER_PIECE = 1000


def csv_pieces(filters: Filters) -> Iterator[str]:
    """The matching entries as CSV, newest first, in pieces. Text that a spreadsheet would take for a formula is quoted."""
    yield "\ufeff" + _line(COLUMNS)  # tells spreadsheets that it is UTF-8
    before: int | None = None
    for _ in range(MAX_ROWS // ROWS_PER_PIECE):
        with read_session() as session:
            found, has_more = entries(session, filters, ROWS_PER_PIECE, before)
        yield "".join(_line([_cell(entry, name) for name in COLUMNS]) for entry in found)
        if not has_more:
            return
        before = found[-1].id
    yield _line([f"More than {MAX_ROWS:,} entries match. Filter by time to get the rest."])


def _line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def _cell(entry: AuditEntry, name: str) -> Any:
    value = getattr(entry, name)
    if name == "at":
        return rfc3339(value, "seconds")
    if isinstance(value, dict):
        value = strict_json.dumps(value, ensure_ascii=False)
    return csv_text(value) if isinstance(value, str) else value
