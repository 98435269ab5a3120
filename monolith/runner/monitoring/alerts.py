"""Alerts for admins. The clock evaluates the rules every 5 s; an alert opens once and closes once.

At most one alert is open for each code and subject. Its notifications (see `alert_notifications`) are inserted in the transaction
that opens or closes it, so that none is lost and none is sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Index, String, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from monolith.db.engine import now, read_session, storable, write_session
from monolith.db.models import Base
from monolith.runner.ledger import balance, clock_lease
from monolith.runner.monitoring import alert_notifications, alert_rules
from monolith.runner.monitoring.alert_notifications import Change
from monolith.runner.monitoring.alert_rules import CRITICAL, RULES, Condition
from monolith.runner.monitoring.alert_snapshot import MissingType, Snapshot, take_snapshot
from monolith.runner.queue import rq_queues

CLOCK_MISSING = "No clock is running. Retries and delayed jobs do not start, and no alerts are sent."
OPEN = text("closed_at IS NULL")
MAX_MESSAGE, MAX_SUBJECT = 500, 130
COUNT_S = 60.0  # between two counts of all rows of the ledger


class Alert(Base):
    """An alert, open or closed. `message` is that of the last evaluation; times are in seconds since 1970."""

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
    def fix(self) -> str:
        """What to do about it."""
        return RULES[self.code].fix if self.code in RULES else "This alert no longer exists in this version of Intray."


def opened(session: Session) -> list[Alert]:
    """The open alerts: critical ones first, then the oldest."""
    rows = session.scalars(select(Alert).where(OPEN).order_by(Alert.opened_at, Alert.id))
    return sorted(rows, key=lambda one: one.severity != alert_rules.CRITICAL)


def closed(session: Session, limit: int, before_id: int | None = None) -> list[Alert]:
    """The closed alerts with an id below `before_id`, newest first."""
    older = (Alert.closed_at.is_not(None), *([] if before_id is None else [Alert.id < before_id]))
    return list(session.scalars(select(Alert).where(*older).order_by(Alert.id.desc()).limit(limit)))


class AlertTask:
    """The periodic task that evaluates all rules.

    Between two runs it keeps the number of consecutive checks at which Redis did not respond, the ledger's last imbalance, and the
    job types that workers lack.
    """

    def __init__(self) -> None:
        self._redis_missed = 0
        self._imbalance = 0
        self._count_at = 0.0
        self._missing_types: dict[str, MissingType] = {}

    def work(self) -> Iterator[None]:
        """Take a snapshot and evaluate it. The ledger is counted once in COUNT_S only, because that reads all rows."""
        if time.monotonic() >= self._count_at:
            self._imbalance, self._count_at = balance.imbalance(), time.monotonic() + COUNT_S
            yield
        snapshot = take_snapshot(self._redis_missed, self._imbalance, self._missing_types)
        self._redis_missed, self._missing_types = snapshot.redis_missed, snapshot.missing_types
        evaluate(snapshot)


def evaluate(snapshot: Snapshot) -> None:
    """Open new alerts, close those whose condition has ended, and update the messages of the others."""
    with read_session() as session:
        before = {(one.code, one.subject): one for one in opened(session)}
    found = {(one.code, _subject(one)): one for one in alert_rules.conditions(snapshot)}
    opening = [one for key, one in found.items() if key not in before and one.opens]
    closing = [one for key, one in before.items() if one.code not in snapshot.unknown and not (key in found and found[key].holds)]
    staying = [(one, _message(found[key])) for key, one in before.items() if one not in closing and key in found]
    if opening or closing:
        _open_and_close(opening, closing, snapshot)
    for alert_id, message in [(one.id, message) for one, message in staying if one.message != message]:
        with write_session() as session:
            session.execute(update(Alert).where(Alert.id == alert_id).values(message=message))


def _open_and_close(opening: list[Condition], closing: list[Alert], snapshot: Snapshot) -> None:
    def write(connection: Connection) -> None:
        if opening:
            rows = [{"code": one.code, "subject": _subject(one), "severity": one.severity, "message": _message(one)} for one in opening]
            connection.execute(insert(Alert), rows)
        ended = update(Alert).where(Alert.id.in_([one.id for one in closing]), OPEN)
        connection.execute(ended.values(closed_at=now()))

    changes = [Change(one.code, _subject(one), one.severity, _message(one), True) for one in alert_rules.worst_first(opening)]
    changes += [Change(one.code, one.subject, one.severity, one.message, False) for one in closing]
    try:
        alert_notifications.notify(changes, write, snapshot)
    except IntegrityError:  # another clock, which took the lease meanwhile, was faster and sends the notifications
        return


def _subject(one: Condition) -> str:
    return storable(one.subject, MAX_SUBJECT)


def _message(one: Condition) -> str:
    return storable(one.message, MAX_MESSAGE)


@dataclass(frozen=True)
class CurrentAlert:
    """An alert in effect now. `opened_at` is in seconds since 1970; None if this process found the condition itself."""

    code: str
    severity: str
    subject: str
    message: str
    opened_at: float | None = None

    @property
    def fix(self) -> str:
        """What to do about it."""
        return RULES[self.code].fix if self.code in RULES else ""


def current_alerts(session: Session) -> list[CurrentAlert]:
    """The alerts in effect now, critical ones first.

    If no clock is running, nothing evaluates the rules, so they are evaluated here. Redis is tested here too, because it may be
    unreachable for this process only.
    """
    stored = [CurrentAlert(one.code, one.severity, one.subject, one.message, one.opened_at) for one in opened(session)]
    found = [] if rq_queues.is_reachable() else [Condition("redis_away", "redis", alert_rules.REDIS_AWAY)]
    if not clock_lease.is_ticking(session):
        found += [
            Condition("clock_missing", "clock", CLOCK_MISSING),
            *(one for one in alert_rules.conditions(take_snapshot()) if one.opens),
        ]
    current = {(one.code, one.subject): one for one in stored}
    for one in found:
        current.setdefault((one.code, one.subject), CurrentAlert(one.code, one.severity, one.subject, one.message))
    return sorted(current.values(), key=lambda one: one.severity != CRITICAL)


def is_healthy(found: list[CurrentAlert]) -> bool:
    """Whether no critical alert is in effect. Warnings do not count."""
    return not any(one.severity == CRITICAL for one in found)
