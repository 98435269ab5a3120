"""The transactional outbox: each event in `job_events` becomes deliveries once.

Events are inserted in the transaction of the transition itself, so a job without listeners costs nothing more, and an event is
delivered however late the clock reads it. A bookmark stores the read position; it moves in the transaction that adds deliveries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select, Text, and_, cast, or_, select, update
from sqlalchemy.orm import Session

from monolith.db.engine import now, read_connection, read_session, write_session
from monolith.db.models import Job, JobEvent
from monolith.job_types import registry
from monolith.runner.ledger.events import Position, SafePosition, position_now
from monolith.runner.queue import rq_queues
from monolith.runner.webhooks import job_emails, payloads
from monolith.runner.webhooks.models import ENDINGS, PROGRESS, Bookmark, Webhook

NAME = "webhooks"
STEP = 500  # events in one transaction
IDLE_S = 60.0  # without listeners, the bookmark moves this often
PROGRESS_S = 1.0  # minimum time between two progress deliveries of a job
_mine = and_(Webhook.job_id.is_(None), Webhook.owner_id == Job.owner_id)
_listening = Webhook.disabled_at.is_(None)


class Outbox:
    """Reads events in the order of their ids, up to the safe position; see `ledger.events`."""

    def __init__(self) -> None:
        self._safe_position = SafePosition()

    def read(self) -> Iterator[None]:
        """Turn new events into deliveries, STEP events at a step."""
        if not _has_listeners():
            _skip()
            return
        mark = self._safe_position.advance()
        while mark is not None and _step(mark):
            yield


def _has_listeners() -> bool:
    with read_connection() as connection:
        return connection.scalar(select(Webhook.id).where(_listening).limit(1)) is not None or job_emails.has_subscribers(connection)


def _skip() -> None:
    """Move the bookmark past all events. New listeners receive only later events, so none is lost."""
    with read_connection() as connection:
        age = connection.scalar(select(now() - Bookmark.at).where(Bookmark.name == NAME)) or 0.0
    if age > IDLE_S:
        mark = position_now()
        with write_session() as session:
            session.execute(update(Bookmark).where(Bookmark.name == NAME).values(position=mark.position, at=mark.at))


def _step(mark: Position) -> bool:
    """Read the next events up to the mark. False if there are no more, or another clock has read them."""
    with write_session() as session:
        begin = session.scalar(select(Bookmark.position).where(Bookmark.name == NAME)) or 0
        if begin >= mark.position:
            return False
        end = min(begin + STEP, mark.position)
        moved = update(Bookmark).where(Bookmark.name == NAME, Bookmark.position == begin)
        at = mark.at if end == mark.position else Bookmark.at
        if session.scalar(moved.values(position=end, at=at).returning(Bookmark.name)) is None:
            return False
        _add_deliveries(session, begin, end)
        mails = job_emails.submit(session.connection(), begin, end)
    rq_queues.push(mails)
    return end < mark.position


def _add_deliveries(session: Session, begin: int, end: int) -> None:
    chosen = [row for row in session.execute(_endings(begin, end)) if ENDINGS[row.name] in row.events]
    if not chosen:
        return
    found = session.execute(payloads.jobs().where(Job.id.in_({row.job_id for row in chosen})))
    jobs = {row.id: row for row in found}
    session.add_all(payloads.of_ending(row.webhook_id, jobs[row.job_id], row.name, row.at) for row in chosen)


def _endings(begin: int, end: int) -> Select[Any]:
    """The query for ends of jobs among these events, each with a listening endpoint. Internal jobs are left out."""
    internal = registry.internal_types()
    matches = or_(_mine, Webhook.job_id == Job.id)
    query: Any = (
        select(JobEvent.name, JobEvent.at, Job.id.label("job_id"), Webhook.id.label("webhook_id"), Webhook.events)
        .join(Job, Job.id == JobEvent.job_id)
        .join(Webhook, matches)
        .where(JobEvent.id > begin, JobEvent.id <= end, JobEvent.name.in_(ENDINGS), JobEvent.at >= Webhook.listening_since)
        .where(_listening, Job.type.not_in(internal))
        .order_by(JobEvent.id)
    )
    found: Select[Any] = query
    return found


def read_until() -> float:
    """Jobs that ended before this time, in seconds since 1970, have been read, so they may be deleted."""
    if not _has_listeners():
        return math.inf
    with read_connection() as connection:
        return (connection.scalar(select(Bookmark.at).where(Bookmark.name == NAME)) or 0.0) - IDLE_S


class ProgressReporter:
    """Adds progress deliveries of running jobs whose progress has changed, at most one a second for each job.

    The last reported progress is kept in memory only, so a clock that takes over may report it once more.
    """

    def __init__(self) -> None:
        self._reported: dict[str, tuple[float | None, str]] = {}
        self._next_at = 0.0

    def report(self) -> None:
        """Add deliveries for what has changed since the last call."""
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + PROGRESS_S
        with read_session() as session:
            shown = {row.id: (row.progress, row.progress_note) for row in session.execute(_running())}
        changed = {job_id for job_id, progress in shown.items() if self._reported.get(job_id) != progress}
        if changed:
            with write_session() as session:
                rows = session.execute(_running(payloads.jobs().add_columns(now().label("at"))).where(Job.id.in_(changed)))
                session.add_all(payloads.of_progress(row.webhook_id, row, row.at) for row in rows)
        self._reported = shown


def _running(query: Select[Any] | None = None) -> Select[Any]:
    """The query for running jobs with progress, each with an endpoint that subscribes to it."""
    base = select(Job.id, Job.progress, Job.progress_note) if query is None else query
    subscribed = cast(Webhook.events, Text).contains(PROGRESS)
    has_progress = (Job.status == "started", Job.progress_note.is_not(None))
    return base.add_columns(Webhook.id.label("webhook_id")).join(Webhook, _mine).where(*has_progress, _listening, subscribed)
