"""Events of jobs become deliveries, each once. `job_events` is the outbox: its rows are written with the moves themselves.

So a job that nobody wants to hear of pays nothing, and what happened is told however late the clock comes to it. A bookmark
says how far the events have been read; it moves in the transaction that adds the deliveries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, Select, Text, and_, cast, or_, select, update
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
UNHEARD_S = 60.0  # where nobody listens the bookmark moves this seldom
PROGRESS_S = 1.0  # of one job at most one in this time
_mine = and_(Webhook.job_id.is_(None), Webhook.owner_id == Job.owner_id)
_listening = Webhook.disabled_at.is_(None)


class Outbox:
    """Reads the events, in order of their numbers and none too early; see `horizon`."""

    def __init__(self) -> None:
        self._horizon = SafePosition()

    def read(self) -> Iterator[None]:
        """Turn all that has happened into deliveries, a step at a time."""
        if not _anybody_listens():
            _skip()
            return
        mark = self._horizon.advance()
        while mark is not None and _step(mark):
            yield


def _anybody_listens() -> bool:
    with read_connection() as connection:
        return connection.scalar(select(Webhook.id).where(_listening).limit(1)) is not None or job_emails.anybody_wants(connection)


def _skip() -> None:
    """Whoever listens from now on hears only of what happens from now on: so nothing is lost by passing over the rest."""
    with read_connection() as connection:
        age = connection.scalar(select(now() - Bookmark.at).where(Bookmark.name == NAME)) or 0.0
    if age > UNHEARD_S:
        mark = position_now()
        with write_session() as session:
            session.execute(update(Bookmark).where(Bookmark.name == NAME).values(position=mark.position, at=mark.at))


def _step(mark: Position) -> bool:
    """Read the next events up to the mark. False when there are no more, or another clock reads them."""
    with write_session() as session:
        begin = session.scalar(select(Bookmark.position).where(Bookmark.name == NAME)) or 0
        if begin >= mark.position:
            return False
        end = min(begin + STEP, mark.position)
        moved = update(Bookmark).where(Bookmark.name == NAME, Bookmark.position == begin)
        at = mark.at if end == mark.position else Bookmark.at
        if session.scalar(moved.values(position=end, at=at).returning(Bookmark.name)) is None:
            return False
        _tell(session, begin, end)
        mails = job_emails.submit(session.connection(), begin, end)
    rq_queues.push(mails)
    return end < mark.position


def _tell(session: Session, begin: int, end: int) -> None:
    chosen = [row for row in session.execute(_heard(begin, end)) if ENDINGS[row.name] in row.events]
    jobs = _jobs(session, {row.job_id for row in chosen})
    session.add_all(payloads.of_ending(row.webhook_id, jobs[row.job_id], row.name, row.at) for row in chosen)


def _heard(begin: int, end: int) -> Select[Any]:
    """The ends of jobs among these events, each with an endpoint that listens. What Intray does by itself is nobody's."""
    internal = [one.name for one in registry.discover().values() if one.is_internal]
    hears = or_(_mine, Webhook.job_id == Job.id)
    heard: Any = (
        select(JobEvent.name, JobEvent.at, Job.id.label("job_id"), Webhook.id.label("webhook_id"), Webhook.events)
        .join(Job, Job.id == JobEvent.job_id)
        .join(Webhook, hears)
        .where(JobEvent.id > begin, JobEvent.id <= end, JobEvent.name.in_(ENDINGS), JobEvent.at >= Webhook.listening_since)
        .where(_listening, Job.type.not_in(internal))
        .order_by(JobEvent.id)
    )
    found: Select[Any] = heard
    return found


def _jobs(session: Session, ids: set[str]) -> dict[str, Row[Any]]:
    return {row.id: row for row in session.execute(payloads.jobs().where(Job.id.in_(ids)))} if ids else {}


def read_until() -> float:
    """What ended before this has been read, so that it may be deleted."""
    if not _anybody_listens():
        return math.inf
    with read_connection() as connection:
        return (connection.scalar(select(Bookmark.at).where(Bookmark.name == NAME)) or 0.0) - UNHEARD_S


class ProgressReporter:
    """Tells how far running jobs are, where that has changed: of each job at most once a second, and only those who chose it.

    What was told last is remembered here alone: a clock that takes over may tell it once more.
    """

    def __init__(self) -> None:
        self._told: dict[str, tuple[float | None, str]] = {}
        self._next_at = 0.0

    def tell(self) -> None:
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + PROGRESS_S
        with read_session() as session:
            shown = {row.id: (row.progress, row.progress_note) for row in session.execute(_running())}
        changed = {job_id for job_id, told in shown.items() if self._told.get(job_id) != told}
        if changed:
            with write_session() as session:
                rows = session.execute(_running(payloads.jobs().add_columns(now().label("at"))).where(Job.id.in_(changed)))
                session.add_all(payloads.of_progress(row.webhook_id, row, row.at) for row in rows)
        self._told = shown


def _running(query: Select[Any] | None = None) -> Select[Any]:
    """Running jobs that have said how far they are, each with an endpoint that wants to know."""
    base = select(Job.id, Job.progress, Job.progress_note) if query is None else query
    wants = cast(Webhook.events, Text).contains(PROGRESS)
    said = (Job.status == "started", Job.progress_note.is_not(None))
    return base.add_columns(Webhook.id.label("webhook_id")).join(Webhook, _mine).where(*said, _listening, wants)
