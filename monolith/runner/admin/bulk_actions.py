"""What an admin does to many jobs at once, in steps: requeue, cancel, stop, clean. A step is a transaction with its line in the audit.

Steps go through the jobs in their order and never back, so one that fails again meanwhile is not started again by the same act.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from monolith.db.engine import read_now, read_session, write_session
from monolith.db.models import Job
from monolith.errors import NotFound
from monolith.runner.admin import job_filter, trash
from monolith.runner.admin.job_filter import Found, JobFilter
from monolith.runner.ledger import audit, lifecycle
from monolith.runner.ledger.audit import Actor
from monolith.runner.queue import rq_queues

STEP = 5000  # jobs in one transaction: about a second
AGAIN = ("failed", "stopped", "canceled")


class StepResult(NamedTuple):
    """So many jobs were moved; the next step begins `after` this place, None when this was the last. Of a cleaning also its number."""

    moved: int
    after: tuple[float, str] | None
    cleaning_id: int | None = None


@dataclass(frozen=True)
class BulkAction:
    """One thing to do to many: of those in which statuses, and how. `done` ends the sentence "5 jobs were ..."."""

    name: str
    among: tuple[str, ...]
    done: str
    move: Callable[[JobFilter, Sequence[Found], Actor, int | None], tuple[int, int | None]]


def count(act: BulkAction, chosen: JobFilter | Sequence[str]) -> int:
    """How many jobs the act would move now."""
    with read_session() as session:
        if isinstance(chosen, JobFilter):
            return job_filter.count(session, chosen, act.among)
        return len(_selected(session, act, chosen))


def step(
    act: BulkAction, chosen: JobFilter | Sequence[str], by: Actor, *, after: tuple[float, str] | None = None, cleaning_id: int | None = None
) -> StepResult:
    """Do it to the next STEP of the jobs that are meant, by criteria or by their ids."""
    criteria = chosen if isinstance(chosen, JobFilter) else JobFilter()
    with read_session() as session:
        if isinstance(chosen, JobFilter):
            found = job_filter.newest(session, chosen, STEP, after, act.among)
        else:
            found = _selected(session, act, chosen)
    moved, cleaning_id = act.move(criteria, found, by, cleaning_id) if found else (0, cleaning_id)
    more = isinstance(chosen, JobFilter) and len(found) == STEP
    return StepResult(moved, (found[-1].at, found[-1].id) if more else None, cleaning_id)


def _selected(session: Session, act: BulkAction, job_ids: Sequence[str]) -> list[Found]:
    query = select(Job.id, Job.created_at, Job.status).where(Job.id.in_(job_ids[:STEP]), Job.status.in_(act.among), Job.trash_id.is_(None))
    return [Found(*row) for row in session.execute(query)]


def moment() -> float:
    """Now, by the database's clock."""
    with read_session() as session:
        return read_now(session)


# ---- the acts


def _requeue(criteria: JobFilter, found: Sequence[Found], by: Actor, _: int | None) -> tuple[int, None]:
    return requeue([one.id for one in found], by, criteria), None


def requeue(job_ids: Sequence[str], by: Actor, criteria: JobFilter) -> int:
    """Start these again, as far as they failed, were stopped or cancelled; how many were.

    One whose twin waits or runs, and that was asked for as unique, is left: that one will do.
    """
    try:
        with write_session() as session:
            free = session.scalars(select(Job.id).where(Job.id.in_(job_ids), ~twin_lives())).all()
            jobs = lifecycle.REQUEUE.on(session.connection(), job_ids=list(free), requeue_id=None) if free else []
            _write_down(session, by, "requeue_jobs", len(jobs), criteria)
    except IntegrityError:  # two of them are twins of each other
        return _requeue_one_by_one(job_ids, by, criteria)
    rq_queues.push(jobs)
    return len(jobs)


def _requeue_one_by_one(job_ids: Sequence[str], by: Actor, criteria: JobFilter) -> int:
    moved = sum(requeue_one(job_id) for job_id in job_ids)
    with write_session() as session:
        _write_down(session, by, "requeue_jobs", moved, criteria)
    return moved


def requeue_one(job_id: str, requeue_id: int | None = None) -> bool:
    """As `lifecycle.requeue`; False also where its twin lives."""
    try:
        return lifecycle.requeue(job_id, requeue_id=requeue_id)
    except IntegrityError:
        return False


def twin_lives() -> ColumnElement[bool]:
    """Whether the job was asked for as unique, and one of the same content waits or runs."""
    twin = aliased(Job)
    lives = (twin.content_key == Job.content_key, twin.is_unique, twin.status.in_(("queued", "scheduled", "started")))
    return exists().where(Job.is_unique, *lives)


def _cancel(criteria: JobFilter, found: Sequence[Found], by: Actor, _: int | None) -> tuple[int, None]:
    with write_session() as session:
        jobs = lifecycle.CANCEL.on(session.connection(), job_ids=[one.id for one in found])
        _write_down(session, by, "cancel_jobs", len(jobs), criteria)
    return len(jobs), None


def _stop(criteria: JobFilter, found: Sequence[Found], by: Actor, _: int | None) -> tuple[int, None]:
    with write_session() as session:
        jobs = lifecycle.STOP.on(session.connection(), job_ids=[one.id for one in found])
        _write_down(session, by, "stop_jobs", len(jobs), criteria)
    for job in jobs:
        rq_queues.stop(job.id)
    return len(jobs), None


def _clean(criteria: JobFilter, found: Sequence[Found], by: Actor, cleaning_id: int | None) -> tuple[int, int]:
    with write_session() as session:
        number = trash.begin(session, criteria, by) if cleaning_id is None else trash.lock(session, cleaning_id).id
        moved = trash.move_to_trash(session, number, criteria, found)
        audit.record(session, by, "clean", f"deletion {number}", count=moved, after=criteria.told())
        trash.drop_if_empty(session, number)
    return moved, number


def _write_down(session: Session, by: Actor, act: str, moved: int, criteria: JobFilter) -> None:
    asked = criteria.told()
    subject = ", ".join(f"{name} {value}" for name, value in asked.items()) or "selected"
    audit.record(session, by, act, subject, count=moved, after=asked)


ACTIONS = {
    act.name: act
    for act in (
        BulkAction("requeue", AGAIN, "retried", _requeue),
        BulkAction("cancel", ("queued", "scheduled"), "cancelled", _cancel),
        BulkAction("stop", ("started",), "stopped", _stop),
        BulkAction("clean", trash.CLEANABLE, "moved to trash", _clean),
    )
}


def find(name: str) -> BulkAction:
    """Raises `NotFound`."""
    if name not in ACTIONS:
        raise NotFound(f"Unknown action {name[:40]!r}. Choose one of: {', '.join(ACTIONS)}.")
    return ACTIONS[name]
