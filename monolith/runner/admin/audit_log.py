"""Reads the audit log: filtered, page by page, newest first; and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from monolith.content.formatting import csv_text, parse_moment, rfc3339
from monolith.db.engine import read_session
from monolith.errors import Invalid
from monolith.runner.ledger.audit import AuditEntry

COLUMNS = ("id", "at", "actor", "act", "subject", "count", "address", "request_id", "before", "after")
MOST_ROWS = 100_000  # of one CSV file
AT_ONCE = 1000


@dataclass(frozen=True)
class Filters:
    """Which entries to show: `actor` and `subject` contain these texts, `act` is equal, the time is in [since, until)."""

    actor: str = ""
    act: str = ""
    subject: str = ""
    since: float | None = None
    until: float | None = None


def entries(session: Session, filters: Filters, limit: int, before: int | None = None) -> tuple[list[AuditEntry], bool]:
    """The newest matching entries with an id below `before`, and whether there are more."""
    rows = _matching(filters).order_by(AuditEntry.id.desc()).limit(limit + 1)
    found = list(session.scalars(rows.where(AuditEntry.id < before) if before is not None else rows))
    return found[:limit], len(found) > limit


def acts(session: Session) -> list[str]:
    """The names of the actions in the log, sorted."""
    return list(session.scalars(select(AuditEntry.act).distinct().order_by(AuditEntry.act)))


def _matching(filters: Filters) -> Select[AuditEntry]:
    rows = select(AuditEntry)
    if filters.actor:
        rows = rows.where(AuditEntry.actor.icontains(filters.actor, autoescape=True))
    if filters.act:
        rows = rows.where(AuditEntry.act == filters.act)
    if filters.subject:
        rows = rows.where(AuditEntry.subject.icontains(filters.subject, autoescape=True))
    if filters.since is not None:
        rows = rows.where(AuditEntry.at >= filters.since)
    if filters.until is not None:
        rows = rows.where(AuditEntry.at < filters.until)
    return rows


def moment(text: str, field: str) -> float | None:
    """A day or a time, RFC 3339 or as a browser writes it, in UTC where it names no zone. Raises `Invalid`."""
    if not text.strip():
        return None
    try:
        return parse_moment(text)
    except ValueError:
        raise Invalid.field(
            f"/{field}", f"{text[:40]!r} is not a valid time. Give a date such as 2026-11-25 or an RFC 3339 time."
        ) from None


def sheet(filters: Filters) -> Iterator[str]:
    """The matching entries as CSV, newest first, in pieces. Text that a spreadsheet would take for a formula is quoted."""
    yield "\ufeff" + _line(COLUMNS)  # tells spreadsheets that it is UTF-8
    before: int | None = None
    for _ in range(MOST_ROWS // AT_ONCE):
        with read_session() as session:
            found, has_more = entries(session, filters, AT_ONCE, before)
        yield "".join(_line([_cell(entry, name) for name in COLUMNS]) for entry in found)
        if not has_more:
            return
        before = found[-1].id
    yield _line([f"More than {MOST_ROWS:,} entries match. Filter by time to get the rest."])


def _line(cells: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def _cell(entry: AuditEntry, name: str) -> Any:
    value = getattr(entry, name)
    if name == "at":
        return rfc3339(value, "seconds")
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    return csv_text(value) if isinstance(value, str) else value
