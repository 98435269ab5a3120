"""Retries all failed jobs of an error group at a limited rate, by the clock. Stops automatically when too many fail again.

Only jobs that had failed when the retry began are requeued, so none is requeued twice. Until JUDGED of them have ended, at most
PROBE are waiting or running: if the fault is still there, a rate that is too high does little harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from sqlalchemy import ColumnElement, Connection, Index, String, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from monolith.db.engine import now, read_now, read_session, unlocked, write_session
from monolith.db.models import OVER, Base, Job
from monolith.errors import Conflict, Invalid, NotFound
from monolith.runner.admin import bulk_actions, failure_groups
from monolith.runner.ledger import audit
from monolith.runner.ledger.audit import Actor

RATES = (10, 60, 300, 1000)  # jobs per minute that the page offers
MAX_RATE = 6000
PROBE = 50
JUDGED = 10  # jobs that must have ended before the share of failures counts
TOO_MANY = 0.2
CATCH_UP_S = 5.0  # a clock that was away for longer does not make up for more
SHOWN_S = 24 * 3600.0
OPEN = text("ended_at IS NULL")

log = structlog.get_logger()


class BulkRetry(Base):
    """One retry of an error group. `total`: jobs that had failed when it began; `outcome`: why it ended."""

    __tablename__ = "requeues"

    id: Mapped[int] = mapped_column(primary_key=True)
    error_group: Mapped[str] = mapped_column(String(16))
    title: Mapped[str] = mapped_column(String(500))
    requeued_by: Mapped[str] = mapped_column(String(254))
    per_minute: Mapped[int]
    total: Mapped[int]
    requeued: Mapped[int] = mapped_column(default=0)
    began_at: Mapped[float] = mapped_column(default=now())
    stepped_at: Mapped[float] = mapped_column(default=now())
    ended_at: Mapped[float | None]
    outcome: Mapped[str | None] = mapped_column(String(300))

    __table_args__ = (
        Index("one_requeue_of_error_group", "error_group", unique=True, sqlite_where=OPEN, postgresql_where=OPEN),
        {"sqlite_autoincrement": True},
    )


@dataclass(frozen=True)
class RetryProgress:
    """A retry of an error group, and the number of its jobs by how they ended."""

    requeue: BulkRetry
    finished: int
    failed: int
    ended: int  # finished, failed, stopped or cancelled
    live: int  # waiting or running

    @property
    def is_failing(self) -> bool:
        return self.ended >= JUDGED and self.failed > TOO_MANY * self.ended

    @property
    def is_probing(self) -> bool:
        """Whether it waits for its first jobs to end."""
        return self.ended < JUDGED and self.live >= PROBE


def start(key: str, per_minute: int, by: Actor) -> BulkRetry:
    """Begin to retry the error group of this key.

    Raises `NotFound` when it has no failed jobs, `Conflict` when a retry of it is running, and `Invalid` for a wrong rate.
    """
    with read_session() as session:
        group = failure_groups.find(session, key)
    if not 1 <= per_minute <= MAX_RATE:
        raise Invalid.field("/per_minute", f"Enter a number of jobs per minute from 1 to {MAX_RATE:,}.")
    try:
        with write_session() as session:
            total = session.scalar(select(func.count()).where(*_failed(key))) or 0
            retry = BulkRetry(error_group=key, title=group.title[:500], requeued_by=by.name[:254], per_minute=per_minute, total=total)
            session.add(retry)
            session.flush()
            after = {"per_minute": per_minute, "title": retry.title}
            audit.record(session, by, "requeue_cause", f"error group {key}", count=total, after=after)
            session.refresh(retry)
    except IntegrityError:
        raise Conflict("A retry of this error group is already running. Stop it first, or wait until it ends.") from None
    return retry


def _failed(key: str) -> tuple[ColumnElement[bool], ...]:
    return (Job.error_group == key, Job.status == "failed", Job.trash_id.is_(None))


def stop(requeue_id: int, by: Actor) -> None:
    """End a retry; jobs that were requeued already continue. Raises `NotFound` when it is not running."""
    with write_session() as session:
        if not _end(session, requeue_id, f"Stopped by {by.name}.", by):
            raise NotFound(f"Retry {requeue_id} is not running: it has ended or never existed.")


def _end(session: Session, requeue_id: int, outcome: str, by: Actor) -> bool:
    ended = update(BulkRetry).where(BulkRetry.id == requeue_id, BulkRetry.ended_at.is_(None)).values(ended_at=now(), outcome=outcome[:300])
    row = session.execute(ended.returning(BulkRetry.error_group, BulkRetry.requeued)).one_or_none()
    if row is not None:
        audit.record(session, by, "requeue_ended", f"error group {row.error_group}", count=row.requeued, after={"outcome": outcome})
    return row is not None


def recent(session: Session) -> list[RetryProgress]:
    """The retries that are running or ended within SHOWN_S, newest first."""
    moment = select(now()).scalar_subquery()
    shown = BulkRetry.ended_at.is_(None) | (BulkRetry.ended_at > moment - SHOWN_S)
    return [_progress(session, one) for one in session.scalars(select(BulkRetry).where(shown).order_by(BulkRetry.id.desc()))]


def _progress(session: Session, requeue: BulkRetry) -> RetryProgress:
    query = select(Job.status, func.count()).where(Job.requeue_id == requeue.id).group_by(Job.status)
    counts = dict(session.execute(query).all())
    ended = sum(counts.get(status, 0) for status in OVER)
    return RetryProgress(requeue, counts.get("finished", 0), counts.get("failed", 0), ended, sum(counts.values()) - ended)


# ---- what the clock does


def advance() -> Iterator[None]:
    """Take each running retry one step further."""
    with read_session() as session:
        rows = session.scalars(select(BulkRetry).where(BulkRetry.ended_at.is_(None)).order_by(BulkRetry.id))
        running = [_progress(session, one) for one in rows]
        moment = read_now(session)
    for progress in running:
        _advance(progress, moment)
        yield


def _advance(progress: RetryProgress, moment: float) -> None:
    retry = progress.requeue
    if progress.is_failing:
        share = round(100 * progress.failed / progress.ended)
        _finish(retry, f"Stopped automatically: {progress.failed} of {progress.ended} finished jobs failed again ({share} %).")
        return
    passed_s = min(moment - retry.stepped_at, max(CATCH_UP_S, 60 / retry.per_minute))
    allowed = int(passed_s * retry.per_minute / 60)
    if progress.ended < JUDGED:
        allowed = min(allowed, PROBE - progress.live)
    if allowed < 1:
        return
    chosen = (*_failed(retry.error_group), Job.ended_at <= retry.began_at, ~bulk_actions.has_live_duplicate())
    in_order = (Job.type, Job.ended_at)  # as in the index of error groups, which may have 60,000 jobs in this group
    oldest = select(Job.id).where(*chosen).order_by(*in_order).limit(allowed)
    with write_session() as session:
        job_ids = session.scalars(unlocked(oldest)).all()
        if not job_ids and session.scalar(select(oldest.exists())):
            return  # somebody has locked all of them
    if not job_ids:
        _finish(retry, "All jobs were retried.")
        return

    def record(connection: Connection, count: int) -> None:
        """The time that these jobs take at this rate has passed; the rest is carried over, unless the clock was away."""
        passed = retry.stepped_at + count * 60 / retry.per_minute
        values = {"requeued": BulkRetry.requeued + count, "stepped_at": max(passed, moment - 60 / retry.per_minute)}
        connection.execute(update(BulkRetry).where(BulkRetry.id == retry.id).values(values))

    note = f"with its error group, by {retry.requeued_by}"
    bulk_actions.requeue_jobs(job_ids, note=note, requeue_id=retry.id, record=record)


def _finish(retry: BulkRetry, outcome: str) -> None:
    log.info("requeue_ended", requeue=retry.id, cause=retry.error_group, requeued=retry.requeued, outcome=outcome)
    with write_session() as session:
        _end(session, retry.id, outcome, Actor("clock"))
