"""Cleaning: jobs that are no longer wanted go to the bin, from which they can be restored for a day; then they are gone.

What waits is cancelled first. What runs is left alone: stop it, and then clean what was stopped. In the bin a job is shown
nowhere and counted nowhere but in the ledger's balance.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import JSON, String, and_, delete, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column

from monolith.db.engine import now, read_now, read_session, write_session
from monolith.db.models import OVER, Base, Job
from monolith.errors import Invalid, NotFound
from monolith.runner.admin import job_filter
from monolith.runner.admin.job_filter import Found, JobFilter
from monolith.runner.ledger import audit, balance
from monolith.runner.ledger.audit import Actor
from monolith.runner.ledger.lifecycle import CANCEL
from monolith.runner.queue.rq_queues import forget
from monolith.runner.webhooks import endpoints, outbox

KEEP_S = 24 * 3600.0  # in the bin
CLEANABLE = (*OVER, "queued", "scheduled")
SAMPLES = 5
RESTORED_AT_ONCE = 5000
DELETED_AT_ONCE = 500

log = structlog.get_logger()


class Cleaning(Base):
    """One act of cleaning, as long as something of it is in the bin."""

    __tablename__ = "trash"

    id: Mapped[int] = mapped_column(primary_key=True)
    trashed_by: Mapped[str] = mapped_column(String(254))
    criteria: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[float] = mapped_column(default=now())

    __table_args__ = {"sqlite_autoincrement": True}


@dataclass(frozen=True)
class Preview:
    """What would be cleaned: how many, when the oldest and the newest ended (or were submitted, if they wait), and a few of them."""

    matched: int
    oldest: float | None
    newest: float | None
    samples: list[Job]


def older_than(seconds: float, status: str | None, type_name: str | None = None) -> JobFilter:
    """What has been in this status for so many seconds. Raises `Invalid`."""
    check_status(status)
    with read_session() as session:
        moment = read_now(session)
    return JobFilter(status=status, type=type_name, old_before=moment - seconds)


def check_status(status: str | None) -> None:
    """Raises `Invalid` for what cannot be cleaned."""
    if status == "started":
        raise Invalid.field("/status", "Running jobs cannot be moved to the trash. Stop them first.")
    if status is not None and status not in CLEANABLE:
        raise Invalid.field("/status", f"Unknown status {status[:40]!r}. Choose one of: {', '.join(CLEANABLE)}.")


def preview(session: Session, criteria: JobFilter) -> Preview:
    """What cleaning by these criteria would move to the bin."""
    order = criteria.order
    bounds = select(func.count(), func.min(order), func.max(order)).select_from(Job)
    matched, oldest, newest = session.execute(bounds.where(*criteria.guard(session), Job.status.in_(CLEANABLE))).one()
    found = job_filter.newest(session, criteria, SAMPLES, among=CLEANABLE)
    rows = select(Job).where(Job.id.in_([one.id for one in found])).options(joinedload(Job.document), joinedload(Job.owner))
    samples = session.scalars(rows.order_by(order.desc(), Job.id.desc())).all()
    return Preview(matched, oldest, newest, list(samples))


def begin(session: Session, criteria: JobFilter, by: Actor) -> int:
    """A new cleaning, whose jobs are still to come; its number."""
    made = Cleaning(trashed_by=by.name[:254], criteria=criteria.told())
    session.add(made)
    session.flush()
    return made.id


def move_to_trash(session: Session, cleaning_id: int, criteria: JobFilter, found: Sequence[Found]) -> int:
    """Move these to the bin, as far as they still are what was asked for; how many were moved.

    Status and age are asked again in the same statement: one that was started again since is another matter.
    """
    waiting = [one.id for one in found if one.status not in OVER]
    over = [one.id for one in found if one.status in OVER]
    canceled = [job.id for job in CANCEL.on(session.connection(), "Moved to trash", job_ids=waiting)] if waiting else []
    meant = or_(Job.id.in_(canceled), and_(Job.id.in_(over), *criteria.guard(session)))
    moved = update(Job).where(meant, Job.status.in_(OVER), Job.trash_id.is_(None)).values(trash_id=cleaning_id)
    return len(session.scalars(moved.returning(Job.id).execution_options(synchronize_session=False)).all())


# ---- the bin


@dataclass(frozen=True)
class TrashEntry:
    """A cleaning, how many of its jobs are in the bin, and until when they can be restored."""

    cleaning: Cleaning
    jobs: int
    until: float


def list_trash(session: Session) -> list[TrashEntry]:
    """What can be restored, the newest first."""
    numbers = select(Job.trash_id, func.count()).where(Job.trash_id.is_not(None)).group_by(Job.trash_id)
    counts = dict(session.execute(numbers).all())
    rows = session.scalars(select(Cleaning).where(Cleaning.at > _kept_since()).order_by(Cleaning.id.desc()))
    return [TrashEntry(one, counts.get(one.id, 0), one.at + KEEP_S) for one in rows]


def _kept_since() -> Any:
    return select(now()).scalar_subquery() - KEEP_S


def restore(cleaning_id: int, by: Actor, *, within_s: float = 0) -> tuple[int, int]:
    """Take jobs of a cleaning out of the bin, RESTORED_AT_ONCE in a step, for so many seconds; how many were, and how many are left.

    Jobs that waited when they were cleaned come back as cancelled. Raises `NotFound` when the cleaning is gone, or was restored.
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


def drop_if_empty(session: Session, cleaning_id: int) -> None:
    """Forget a cleaning of which nothing is in the bin."""
    left = select(Job.id).where(Job.trash_id == cleaning_id).exists()
    session.execute(delete(Cleaning).where(Cleaning.id == cleaning_id, ~left))


def lock(session: Session, cleaning_id: int) -> Cleaning:
    """A cleaning that can be restored, kept so until the transaction ends. Raises `NotFound`."""
    found = session.scalar(select(Cleaning).where(Cleaning.id == cleaning_id, Cleaning.at > _kept_since()).with_for_update())
    if found is None:
        raise NotFound(f"Deletion {cleaning_id} is not in the trash: it was restored, or deleted for good after 24 hours.")
    return found


def delete_for_good(job_ids: Sequence[str]) -> None:
    """Restore single jobs, as somebody asks for the same work again."""
    with write_session() as session:
        session.execute(update(Job).where(Job.id.in_(job_ids), Job.trash_id.is_not(None)).values(trash_id=None))


def empty_trash() -> Iterator[None]:
    """Delete for good what has been in the bin for KEEP_S, with its events, its files and what Redis has of it; a step for each few.

    Raises RedisError when Redis is away: then it is done later.
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
    """Redis comes first: what is deleted here is not known any more. No job goes before webhooks have read its end."""
    meant = (Job.trash_id == cleaning_id, Job.ended_at <= outbox.read_until())
    with read_session() as session:
        some = session.execute(select(Job.id, Job.queue, Job.priority).where(*meant).limit(DELETED_AT_ONCE)).all()
    forget({one.id: f"{one.queue}.{one.priority}" for one in some})
    ids = [one.id for one in some]
    with write_session() as session:
        endpoints.delete_for_jobs(session, ids)
        gone = delete(Job).where(*meant, Job.id.in_(ids)).returning(Job.id).execution_options(synchronize_session=False)
        deleted = len(session.scalars(gone).all())
        balance.record_pruned(session, deleted)
    return deleted
