"""The trash: deleted jobs can be restored for a day; then they are deleted for good.

Waiting jobs are cancelled first. Running jobs cannot be moved to the trash. A job in the trash is shown nowhere, and counted
only in the ledger's balance.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy import JSON, String, and_, delete, event, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column

from monolith.db.engine import now, read_now, read_session, unlocked, write_session
from monolith.db.models import OVER, Base, Job
from monolith.errors import Invalid, NotFound
from monolith.runner.admin import job_filter
from monolith.runner.admin.deletion import delete_jobs
from monolith.runner.admin.job_filter import Found, JobFilter
from monolith.runner.ledger import audit
from monolith.runner.ledger.audit import Actor
from monolith.runner.ledger.lifecycle import CANCEL
from monolith.runner.queue import rq_queues
from monolith.runner.webhooks import outbox

KEEP_S = 24 * 3600.0
CLEANABLE = (*OVER, "queued", "scheduled")
SAMPLES = 5
RESTORED_AT_ONCE = 5000
DELETED_AT_ONCE = 500

log = structlog.get_logger()


class Cleaning(Base):
    """One deletion that moved jobs to the trash. Its row exists as long as some of its jobs are there."""

    __tablename__ = "trash"

    id: Mapped[int] = mapped_column(primary_key=True)
    trashed_by: Mapped[str] = mapped_column(String(254))
    criteria: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[float] = mapped_column(default=now())

    __table_args__ = {"sqlite_autoincrement": True}


@dataclass(frozen=True)
class Preview:
    """The jobs that would be moved to the trash: how many, the oldest and newest time, and the newest few.

    The times are those of their end; of their submission where the filter asks for waiting jobs.
    """

    matched: int
    oldest: float | None
    newest: float | None
    samples: list[Job]


def older_than(seconds: float, status: str | None, type_name: str | None = None) -> JobFilter:
    """A filter for the jobs that have been in this status for so many seconds. Raises `Invalid`."""
    check_status(status)
    return JobFilter(status=status, type=type_name, old_before=read_now() - seconds)


def check_status(status: str | None) -> None:
    """Raises `Invalid` for a status whose jobs cannot be moved to the trash."""
    if status == "started":
        raise Invalid.field("/status", "Running jobs cannot be moved to the trash. Stop them first.")
    if status is not None and status not in CLEANABLE:
        raise Invalid.field("/status", f"Unknown status {status[:40]!r}. Choose one of: {', '.join(CLEANABLE)}.")


def preview(session: Session, criteria: JobFilter) -> Preview:
    """The jobs that the filter would move to the trash."""
    at = criteria.dated_by
    bounds = select(func.count(), func.min(at), func.max(at)).select_from(Job)
    matched, oldest, newest = session.execute(bounds.where(*criteria.guard(session), Job.status.in_(CLEANABLE))).one()
    found = job_filter.newest(session, criteria, SAMPLES, statuses=CLEANABLE)
    rows = select(Job).where(Job.id.in_([one.id for one in found])).options(joinedload(Job.document), joinedload(Job.owner))
    samples = session.scalars(rows.order_by(Job.created_at.desc(), Job.id.desc())).all()
    return Preview(matched, oldest, newest, list(samples))


def begin(session: Session, criteria: JobFilter, by: Actor) -> int:
    """Insert a new deletion without jobs; returns its id."""
    cleaning = Cleaning(trashed_by=by.name[:254], criteria=criteria.as_dict())
    session.add(cleaning)
    session.flush()
    return cleaning.id


def move_to_trash(session: Session, cleaning_id: int, criteria: JobFilter, found: Sequence[Found]) -> int:
    """Move those of these jobs to the trash that still match the filter; returns how many.

    The same statement checks status and age again: a job may have been requeued since it was found.
    """
    waiting = [one.id for one in found if one.status not in OVER]
    over = [one.id for one in found if one.status in OVER]
    canceled = [job.id for job in CANCEL.apply("Moved to trash", connection=session.connection(), job_ids=waiting)] if waiting else []
    event.listen(session, "after_commit", lambda _: rq_queues.withdraw(canceled), once=True)
    chosen = or_(Job.id.in_(canceled), and_(Job.id.in_(over), *criteria.guard(session)))
    moved = update(Job).where(chosen, Job.status.in_(OVER), Job.trash_id.is_(None)).values(trash_id=cleaning_id)
    return len(session.scalars(moved.returning(Job.id).execution_options(synchronize_session=False)).all())


# ---- jobs in the trash


@dataclass(frozen=True)
class TrashEntry:
    """A deletion, how many of its jobs are in the trash, and until when they can be restored."""

    cleaning: Cleaning
    jobs: int
    until: float


def list_trash(session: Session) -> list[TrashEntry]:
    """The deletions that can be restored, newest first."""
    numbers = select(Job.trash_id, func.count()).where(Job.trash_id.is_not(None)).group_by(Job.trash_id)
    counts = dict(session.execute(numbers).all())
    rows = session.scalars(select(Cleaning).where(Cleaning.at > _kept_since()).order_by(Cleaning.id.desc()))
    return [TrashEntry(one, counts.get(one.id, 0), one.at + KEEP_S) for one in rows]


def _kept_since() -> Any:
    return select(now()).scalar_subquery() - KEEP_S


def restore(cleaning_id: int, by: Actor, *, within_s: float = 0) -> tuple[int, int]:
    """Restore jobs of a deletion, RESTORED_AT_ONCE in a step, until `within_s` seconds are over: how many were, how many are left.

    Jobs that were waiting come back as cancelled. Raises `NotFound` when the deletion is no longer in the trash.
    """
    give_up_at, restored, left = time.monotonic() + within_s, 0, 1
    while left and (not restored or time.monotonic() < give_up_at):
        count, left = _restore(cleaning_id, by)
        restored += count
    return restored, left


def _restore(cleaning_id: int, by: Actor) -> tuple[int, int]:
    with write_session() as session:
        found = lock(session, cleaning_id)
        some = select(Job.id).where(Job.trash_id == cleaning_id).limit(RESTORED_AT_ONCE)
        back = update(Job).where(Job.id.in_(some)).values(trash_id=None).returning(Job.id)
        count = len(session.scalars(back.execution_options(synchronize_session=False)).all())
        left = session.scalar(select(func.count()).where(Job.trash_id == cleaning_id)) or 0
        drop_if_empty(session, cleaning_id)
        audit.record(session, by, "restore", f"deletion {cleaning_id}", count=count, before=found.criteria)
    return count, left


def restore_jobs(job_ids: Sequence[str]) -> None:
    """Restore single jobs, because somebody submitted the same work again."""
    with write_session() as session:
        session.execute(update(Job).where(Job.id.in_(job_ids), Job.trash_id.is_not(None)).values(trash_id=None))


def drop_if_empty(session: Session, cleaning_id: int) -> None:
    """Delete the row of a deletion that has no jobs in the trash."""
    left = select(Job.id).where(Job.trash_id == cleaning_id).exists()
    session.execute(delete(Cleaning).where(Cleaning.id == cleaning_id, ~left))


def lock(session: Session, cleaning_id: int) -> Cleaning:
    """A deletion that can be restored, locked until the transaction ends. Raises `NotFound`."""
    found = session.scalar(select(Cleaning).where(Cleaning.id == cleaning_id, Cleaning.at > _kept_since()).with_for_update())
    if found is None:
        raise NotFound(f"Deletion {cleaning_id} is not in the trash: it was restored, or deleted for good after 24 hours.")
    return found


def empty_trash() -> Iterator[None]:
    """Delete for good the jobs that have been in the trash for KEEP_S, DELETED_AT_ONCE in a step.

    Raises RedisError when Redis is away before a step, so that the clock tries again later.
    """
    with read_session() as session:
        old = session.scalars(select(Cleaning.id).where(Cleaning.at <= _kept_since()).order_by(Cleaning.id)).all()
    for cleaning_id in old:
        total, deleted = 0, DELETED_AT_ONCE
        while deleted == DELETED_AT_ONCE:
            deleted = _delete_some(cleaning_id)
            total += deleted
            yield
        with write_session() as session:
            drop_if_empty(session, cleaning_id)
        log.info("trash_emptied", cleaning=cleaning_id, jobs=total)


def _delete_some(cleaning_id: int) -> int:
    if not rq_queues.is_reachable():
        raise RedisAway("Redis does not respond, so the trash is not emptied")
    rq_queues.cooldown.end()  # it responds: what it has of these jobs is deleted with them
    guard = (Job.trash_id == cleaning_id, Job.ended_at <= outbox.read_until())  # webhooks read the end of a job first
    with write_session() as session:
        return delete_jobs(session, *guard, Job.id.in_(unlocked(select(Job.id).where(*guard).limit(DELETED_AT_ONCE))))
