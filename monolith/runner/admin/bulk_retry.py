"""Starting a whole cause of failures again, at a rate, by the clock. It stops by itself when too many fail again.

Only jobs that had failed when it began are meant, so that none is started twice by it. Until the first have shown how they
end, no more than PROBE are let out: a rate that is too high for a cause that is still there does little harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from sqlalchemy import ColumnElement, Index, String, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from monolith.db.engine import now, read_now, read_session, write_session
from monolith.db.models import OVER, Base, Job
from monolith.errors import Conflict, Invalid, NotFound
from monolith.runner.admin import bulk_actions
from monolith.runner.ledger import audit, lifecycle
from monolith.runner.ledger.audit import Actor
from monolith.runner.queue import rq_queues

RATES = (10, 60, 300, 1000)  # a minute, as the page offers them
MAX_RATE = 6000
PROBE = 50
JUDGED = 10  # so many must have ended before a share of failures says something
TOO_MANY = 0.2
CATCH_UP_S = 5.0  # a clock that was away for longer does not make up for it
SHOWN_S = 24 * 3600.0
OPEN = text("ended_at IS NULL")

log = structlog.get_logger()


class BulkRetry(Base):
    """One requeue of a cause. `total` is how many had failed when it began; `outcome` says why it ended."""

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
class RequeueProgress:
    """A requeue, and what has become of the jobs it started."""

    requeue: BulkRetry
    finished: int
    failed: int
    ended: int  # finished, failed, stopped or cancelled
    going: int  # wait or run

    @property
    def is_failing(self) -> bool:
        return self.ended >= JUDGED and self.failed > TOO_MANY * self.ended

    @property
    def is_probing(self) -> bool:
        """Whether it waits for the first to end."""
        return self.ended < JUDGED and self.going >= PROBE


def start(cause: str, title: str, per_minute: int, by: Actor) -> BulkRetry:
    """Begin. Raises `NotFound` when nothing failed with this cause, `Conflict` when it is being requeued already, and `Invalid`."""
    if not 1 <= per_minute <= MAX_RATE:
        raise Invalid.field("/per_minute", f"Enter a number of jobs per minute from 1 to {MAX_RATE:,}.")
    try:
        with write_session() as session:
            total = session.scalar(select(func.count()).where(*_failed(cause))) or 0
            if not total:
                raise NotFound("This error group has no failed jobs any more. Reload the Failures page.")
            made = BulkRetry(error_group=cause, title=title[:500], requeued_by=by.name[:254], per_minute=per_minute, total=total)
            session.add(made)
            session.flush()
            audit.record(
                session, by, "requeue_cause", f"error group {cause}", count=total, after={"per_minute": per_minute, "title": made.title}
            )
            session.refresh(made)
    except IntegrityError:
        raise Conflict("A retry of this error group is already running. Stop it first, or wait until it ends.") from None
    return made


def _failed(cause: str) -> tuple[ColumnElement[bool], ...]:
    return (Job.error_group == cause, Job.status == "failed", Job.trash_id.is_(None))


def stop(requeue_id: int, by: Actor) -> None:
    """End it; what was started goes on. Raises `NotFound` when there is none under way."""
    with write_session() as session:
        if not _end(session, requeue_id, f"Stopped by {by.name}.", by):
            raise NotFound(f"Retry {requeue_id} is not running: it has ended or never existed.")


def _end(session: Session, requeue_id: int, outcome: str, by: Actor) -> bool:
    ended = update(BulkRetry).where(BulkRetry.id == requeue_id, BulkRetry.ended_at.is_(None)).values(ended_at=now(), outcome=outcome[:300])
    row = session.execute(ended.returning(BulkRetry.error_group, BulkRetry.requeued)).one_or_none()
    if row is not None:
        audit.record(session, by, "requeue_ended", f"error group {row.error_group}", count=row.requeued, after={"outcome": outcome})
    return row is not None


def recent(session: Session) -> list[RequeueProgress]:
    """Those under way, and those that ended within a day, the newest first."""
    moment = select(now()).scalar_subquery()
    shown = BulkRetry.ended_at.is_(None) | (BulkRetry.ended_at > moment - SHOWN_S)
    return [_progress(session, one) for one in session.scalars(select(BulkRetry).where(shown).order_by(BulkRetry.id.desc()))]


def _progress(session: Session, requeue: BulkRetry) -> RequeueProgress:
    query = select(Job.status, func.count()).where(Job.requeue_id == requeue.id).group_by(Job.status)
    counts = dict(session.execute(query).all())
    ended = sum(counts.get(status, 0) for status in OVER)
    return RequeueProgress(requeue, counts.get("finished", 0), counts.get("failed", 0), ended, sum(counts.values()) - ended)


# ---- what the clock does


def advance() -> Iterator[None]:
    """Take each requeue under way a step further."""
    with read_session() as session:
        going = [
            _progress(session, one) for one in session.scalars(select(BulkRetry).where(BulkRetry.ended_at.is_(None)).order_by(BulkRetry.id))
        ]
        moment = read_now(session)
    for progress in going:
        _advance(progress, moment)
        yield


def _advance(progress: RequeueProgress, moment: float) -> None:
    requeue = progress.requeue
    if progress.is_failing:
        share = round(100 * progress.failed / progress.ended)
        _finish(requeue, f"Stopped automatically: {progress.failed} of {progress.ended} finished jobs failed again ({share} %).")
        return
    room = _due(requeue, moment)
    if progress.ended < JUDGED:
        room = min(room, PROBE - progress.going)
    if room < 1:
        return
    with read_session() as session:
        meant = (*_failed(requeue.error_group), Job.ended_at <= requeue.began_at, ~bulk_actions.twin_lives())
        job_ids = session.scalars(select(Job.id).where(*meant).order_by(Job.ended_at).limit(room)).all()
    if job_ids:
        _step(requeue, list(job_ids), moment)
    else:
        _finish(requeue, "All jobs were retried.")


def _due(requeue: BulkRetry, moment: float) -> int:
    """How many more the rate allows now."""
    most = max(CATCH_UP_S, 60 / requeue.per_minute)
    return int(min(moment - requeue.stepped_at, most) * requeue.per_minute / 60)


def _step(requeue: BulkRetry, job_ids: list[str], moment: float) -> None:
    try:
        with write_session() as session:
            jobs = lifecycle.REQUEUE.on(
                session.connection(), f"with its error group, by {requeue.requeued_by}", job_ids=job_ids, requeue_id=requeue.id
            )
            _count(session, requeue, len(jobs), moment)
    except IntegrityError:  # two of them are twins of each other
        jobs = []
        moved = sum(bulk_actions.requeue_one(job_id, requeue.id) for job_id in job_ids)
        with write_session() as session:
            _count(session, requeue, moved, moment)
    rq_queues.push(jobs)


def _count(session: Session, requeue: BulkRetry, moved: int, moment: float) -> None:
    """The time that the jobs take at this rate has passed; what was left over of it counts, unless the clock was away."""
    passed = requeue.stepped_at + moved * 60 / requeue.per_minute
    stepped = max(passed, moment - 60 / requeue.per_minute)
    session.execute(update(BulkRetry).where(BulkRetry.id == requeue.id).values(requeued=BulkRetry.requeued + moved, stepped_at=stepped))


def _finish(requeue: BulkRetry, outcome: str) -> None:
    log.info("requeue_ended", requeue=requeue.id, cause=requeue.error_group, requeued=requeue.requeued, outcome=outcome)
    with write_session() as session:
        _end(session, requeue.id, outcome, Actor("clock"))
