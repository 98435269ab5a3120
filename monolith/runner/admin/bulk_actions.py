"""Bulk actions on jobs, for admins: requeue, cancel, stop and clean, in steps. A step is one transaction with its audit entry.

Steps go through the jobs from the newest to the oldest and never back, so a job that fails again is not requeued twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, exists, select
from sqlalchemy.orm import Session, aliased

from monolith.db.engine import read_session, write_session, write_transaction
from monolith.db.models import Job
from monolith.errors import NotFound
from monolith.runner.admin import job_filter, trash
from monolith.runner.admin.job_filter import Found, JobFilter
from monolith.runner.ledger import audit, lifecycle
from monolith.runner.ledger.audit import Actor
from monolith.runner.ledger.lifecycle import Admission, unlimited
from monolith.runner.queue import rq_queues

STEP = 5000  # jobs in one transaction: about a second
REQUEUEABLE = ("failed", "stopped", "canceled")


class StepResult(NamedTuple):
    """How many jobs were changed, and the position after which the next step begins: None when this was the last.

    `cleaning_id` is the deletion that the action `clean` made.
    """

    changed: int
    after: tuple[float, str] | None
    cleaning_id: int | None = None


@dataclass(frozen=True)
class BulkAction:
    """A bulk action: its name, the statuses it applies to, and the function that runs one step.

    `done` completes the sentence "5 jobs were ...".
    """

    name: str
    statuses: tuple[str, ...]
    done: str
    apply: Callable[[JobFilter, Sequence[Found], Actor, int | None], tuple[int, int | None]]


def count(action: BulkAction, chosen: JobFilter | Sequence[str]) -> int:
    """How many jobs the action would change now; `chosen` is a filter or a list of job ids."""
    with read_session() as session:
        if isinstance(chosen, JobFilter):
            return job_filter.count(session, chosen, action.statuses)
        return len(_selected(session, action, chosen))


def run(
    action: BulkAction,
    chosen: JobFilter | Sequence[str],
    by: Actor,
    *,
    after: tuple[float, str] | None = None,
    cleaning_id: int | None = None,
    limit: int | None = None,
    within_s: float = 0,
) -> StepResult:
    """Apply the action to the next `limit` jobs (by default STEP), and repeat until none is left or `within_s` seconds are over.

    `after` and `cleaning_id` are those of the result before. Job ids are processed in one step.
    """
    give_up_at, result = time.monotonic() + within_s, StepResult(0, after, cleaning_id)
    while True:
        step = _step(action, chosen, by, result.after, result.cleaning_id, limit or STEP)
        result = StepResult(result.changed + step.changed, step.after, step.cleaning_id)
        if step.after is None or time.monotonic() >= give_up_at:
            return result


def _step(
    action: BulkAction, chosen: JobFilter | Sequence[str], by: Actor, after: tuple[float, str] | None, cleaning_id: int | None, limit: int
) -> StepResult:
    is_filter = isinstance(chosen, JobFilter)
    criteria = chosen if isinstance(chosen, JobFilter) else JobFilter()
    with read_session() as session:
        if isinstance(chosen, JobFilter):
            found = job_filter.newest(session, chosen, limit, after, action.statuses)
        else:
            found = _selected(session, action, chosen)
    changed, cleaning_id = action.apply(criteria, found, by, cleaning_id) if found else (0, cleaning_id)
    has_more = is_filter and len(found) == limit
    return StepResult(changed, (found[-1].at, found[-1].id) if has_more else None, cleaning_id)


def _selected(session: Session, action: BulkAction, job_ids: Sequence[str]) -> list[Found]:
    meant = (Job.id.in_(job_ids[:STEP]), Job.status.in_(action.statuses), Job.trash_id.is_(None))
    return [Found(*row) for row in session.execute(select(Job.id, Job.created_at, Job.status).where(*meant))]


# ---- the actions


def _requeue(criteria: JobFilter, found: Sequence[Found], by: Actor, _: int | None) -> tuple[int, None]:
    def record(connection: Connection, count: int) -> None:
        _record(connection, by, "requeue_jobs", count, criteria)

    return requeue_jobs([one.id for one in found], record=record), None


def requeue_jobs(
    job_ids: Sequence[str],
    *,
    admission: Admission = unlimited,
    note: str | None = None,
    requeue_id: int | None = None,
    record: Callable[[Connection, int], None] = lambda connection, count: None,
) -> int:
    """Queue those of these jobs again that failed, were stopped or cancelled; returns how many.

    A unique job with a live duplicate is skipped. Parameters as in `lifecycle.requeue_jobs`.
    """
    with read_session() as session:
        free = session.scalars(select(Job.id).where(Job.id.in_(job_ids), ~has_live_duplicate())).all()
    try:
        return lifecycle.requeue_jobs(free, admission=admission, note=note, requeue_id=requeue_id, record=record)
    except lifecycle.DuplicateIsLive:  # of each other, or of a job that was submitted just now
        requeued = sum(_requeue_one(job_id, admission, note, requeue_id) for job_id in free)
    with write_transaction() as connection:
        record(connection, requeued)
    return requeued


def _requeue_one(job_id: str, admission: Admission, note: str | None, requeue_id: int | None) -> int:
    try:
        return lifecycle.requeue_jobs([job_id], admission=admission, note=note, requeue_id=requeue_id)
    except lifecycle.DuplicateIsLive:
        return 0


def has_live_duplicate() -> ColumnElement[bool]:
    """A condition on `Job`: it is unique, and another unique job of the same content is waiting or running."""
    other = aliased(Job)
    is_live = (other.content_key == Job.content_key, other.is_unique, other.status.in_(("queued", "scheduled", "started")))
    return exists().where(Job.is_unique, *is_live)


def _cancel(criteria: JobFilter, found: Sequence[Found], by: Actor, _: int | None) -> tuple[int, None]:
    def record(connection: Connection, count: int) -> None:
        _record(connection, by, "cancel_jobs", count, criteria)

    return lifecycle.cancel_jobs([one.id for one in found], record=record), None


def _stop(criteria: JobFilter, found: Sequence[Found], by: Actor, _: int | None) -> tuple[int, None]:
    with write_transaction() as connection:
        jobs = lifecycle.STOP.apply(connection=connection, job_ids=[one.id for one in found])
        _record(connection, by, "stop_jobs", len(jobs), criteria)
    for job in jobs:
        rq_queues.stop(job.id)
    lifecycle.make_room(jobs)
    return len(jobs), None


def _clean(criteria: JobFilter, found: Sequence[Found], by: Actor, cleaning_id: int | None) -> tuple[int, int]:
    with write_session() as session:
        number = trash.begin(session, criteria, by) if cleaning_id is None else trash.lock(session, cleaning_id).id
        moved = trash.move_to_trash(session, number, criteria, found)
        audit.record(session, by, "clean", f"deletion {number}", count=moved, after=criteria.as_dict())
        trash.drop_if_empty(session, number)
    return moved, number


def _record(connection: Connection, by: Actor, act: str, count: int, criteria: JobFilter) -> None:
    words = criteria.as_dict()
    subject = ", ".join(f"{name} {value}" for name, value in words.items()) or "selected"
    audit.record(connection, by, act, subject, count=count, after=words)


ACTIONS = {
    action.name: action
    for action in (
        BulkAction("requeue", REQUEUEABLE, "retried", _requeue),
        BulkAction("cancel", ("queued", "scheduled"), "cancelled", _cancel),
        BulkAction("stop", ("started",), "stopped", _stop),
        BulkAction("clean", trash.CLEANABLE, "moved to trash", _clean),
    )
}


def find(name: str) -> BulkAction:
    """The action of this name. Raises `NotFound`."""
    if name not in ACTIONS:
        raise NotFound(f"Unknown action {name[:40]!r}. Choose one of: {', '.join(ACTIONS)}.")
    return ACTIONS[name]
