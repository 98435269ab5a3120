"""Alerts: what people are told before users notice. The clock judges every few seconds; an alert opens once and closes once.

At most one is open for each code and subject. What is told of it (see `notices`) is written in the transaction that opens or
closes it, so that no notice is lost and none is sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Index, String, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from monolith.db.engine import now, read_session, storable, write_session
from monolith.db.models import Base
from monolith.runner.ledger import balance, lease
from monolith.runner.monitoring import alert_notifications, alert_rules
from monolith.runner.monitoring.alert_notifications import Change
from monolith.runner.monitoring.alert_rules import CRITICAL, RULES, Condition
from monolith.runner.monitoring.alert_snapshot import Snapshot, take_snapshot
from monolith.runner.queue import rq_queues

CLOCK_MISSING = "No clock is running. Retries and delayed jobs do not start, and no alerts are sent."


OPEN = text("closed_at IS NULL")
MAX_MESSAGE, MAX_SUBJECT = 500, 130
COUNT_S = 60.0  # between two counts of all rows


class Alert(Base):
    """One alert from its opening to its closing. The message is kept as it was last judged."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(130))
    severity: Mapped[str] = mapped_column(String(10))
    message: Mapped[str] = mapped_column(String(500))
    opened_at: Mapped[float] = mapped_column(default=now())
    closed_at: Mapped[float | None]

    __table_args__ = (
        Index("one_open_alert", "code", "subject", unique=True, sqlite_where=OPEN, postgresql_where=OPEN),
        Index("alerts_by_age", "opened_at"),
    )

    @property
    def mend(self) -> str:
        """What to do about it."""
        return RULES[self.code].mend if self.code in RULES else "This alert no longer exists in this version of Intray."


def opened(session: Session) -> list[Alert]:
    """The open ones, the critical first, then the oldest."""
    rows = session.scalars(select(Alert).where(OPEN).order_by(Alert.opened_at, Alert.id))
    return sorted(rows, key=lambda one: one.severity != alert_rules.CRITICAL)


def closed(session: Session, limit: int, before_id: int | None = None) -> list[Alert]:
    """Those that are over, the newest first."""
    older = (Alert.closed_at.is_not(None), *([] if before_id is None else [Alert.id < before_id]))
    return list(session.scalars(select(Alert).where(*older).order_by(Alert.id.desc()).limit(limit)))


class Judge:
    """Judges all alerts; knows between two looks how often Redis was missed, and what was counted a minute ago."""

    def __init__(self) -> None:
        self._redis_missed = 0
        self._imbalance = 0
        self._count_at = 0.0

    def work(self) -> Iterator[None]:
        if time.monotonic() >= self._count_at:
            self._imbalance, self._count_at = balance.imbalance(), time.monotonic() + COUNT_S
            yield
        seen = take_snapshot(self._redis_missed, self._imbalance)
        self._redis_missed = seen.redis_missed
        judge(seen)


def judge(seen: Snapshot) -> None:
    """Open what has come to be, close what is over, and keep what the others say as it is now."""
    with read_session() as session:
        before = {(one.code, one.subject): one for one in opened(session)}
    found = {(one.code, _subject(one)): one for one in alert_rules.conditions(seen)}
    opening = [one for key, one in found.items() if key not in before and one.opens]
    closing = [one for key, one in before.items() if one.code not in seen.unknown and not (key in found and found[key].holds)]
    staying = [(one, _message(found[key])) for key, one in before.items() if one not in closing and key in found]
    if opening or closing:
        _change(opening, closing, seen)
    _say_anew([(one.id, message) for one, message in staying if one.message != message])


def _change(opening: list[Condition], closing: list[Alert], seen: Snapshot) -> None:
    def write(connection: Connection) -> None:
        if opening:
            connection.execute(insert(Alert), [_row(one) for one in opening])
        ended = update(Alert).where(Alert.id.in_([one.id for one in closing]), OPEN)
        connection.execute(ended.values(closed_at=now()))

    changes = [Change(one.code, _subject(one), one.severity, _message(one), True) for one in alert_rules.worst_first(opening)]
    changes += [Change(one.code, one.subject, one.severity, one.message, False) for one in closing]
    try:
        alert_notifications.tell(changes, write, seen)
    except IntegrityError:  # another clock, which took the lease meanwhile, was faster: it tells them
        return


def _say_anew(messages: Iterable[tuple[int, str]]) -> None:
    for alert_id, message in messages:
        with write_session() as session:
            session.execute(update(Alert).where(Alert.id == alert_id).values(message=message))


def _row(one: Condition) -> dict[str, Any]:
    return {"code": one.code, "subject": _subject(one), "severity": one.severity, "message": _message(one)}


def _subject(one: Condition) -> str:
    return storable(one.subject, MAX_SUBJECT)


def _message(one: Condition) -> str:
    return storable(one.message, MAX_MESSAGE)


@dataclass(frozen=True)
class CurrentAlert:
    """One alert that holds now. `opened_at` is None for what was seen just now."""

    code: str
    severity: str
    subject: str
    message: str
    opened_at: float | None = None

    @property
    def mend(self) -> str:
        """What to do about it."""
        return RULES[self.code].mend if self.code in RULES else ""


def current_alerts(session: Session) -> list[CurrentAlert]:
    """The alerts that hold now, the critical first.

    The clock cannot say that it is missing. Then nobody judges the others either, and it is done here. Redis is asked here
    too: it may be away for this process alone.
    """
    kept = [CurrentAlert(one.code, one.severity, one.subject, one.message, one.opened_at) for one in opened(session)]
    seen = [] if rq_queues.is_reachable() else [Condition("redis_away", "redis", alert_rules.REDIS_AWAY)]
    if not lease.is_ticking(session):
        seen += [Condition("clock_missing", "clock", CLOCK_MISSING), *(one for one in alert_rules.conditions(take_snapshot()) if one.opens)]
    known = {(one.code, one.subject): one for one in kept}
    for one in seen:
        known.setdefault((one.code, one.subject), CurrentAlert(one.code, one.severity, one.subject, one.message))
    return sorted(known.values(), key=lambda one: one.severity != CRITICAL)


def is_healthy(found: list[CurrentAlert]) -> bool:
    """Something critical makes it unhealthy; warnings do not."""
    return not any(one.severity == CRITICAL for one in found)
