"""Reads the audit log: filtered, page by page, newest first."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from monolith.content.formatting import parse_moment
from monolith.errors import Invalid
from monolith.runner.ledger.audit import AuditEntry


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
