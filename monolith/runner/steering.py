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

from monolith.database import read_now, reading, writing
from monolith.errors import NotFound
from monolith.models import Job
from monolith.runner import audit, choosing, cleaning, lifecycle, queues
from monolith.runner.audit import Actor
from monolith.runner.choosing import Criteria, Found

STEP = 5000  # jobs in one transaction: about a second
AGAIN = ("failed", "stopped", "canceled")


class Step(NamedTuple):
    """So many jobs were moved; the next step begins `after` this place, None when this was the last. Of a cleaning also its number."""

    moved: int
    after: tuple[float, str] | None
    cleaning_id: int | None = None


@dataclass(frozen=True)
class Act:
    """One thing to do to many: of those in which statuses, and how. `done` ends the sentence "5 jobs were ..."."""

    name: str
    among: tuple[str, ...]
    done: str
    move: Callable[[Criteria, Sequence[Found], Actor, int | None], tuple[int, int | None]]


def count(act: Act, chosen: Criteria | Sequence[str]) -> int:
    """How many jobs the act would move now."""
    with reading() as session:
        if isinstance(chosen, Criteria):
            return choosing.count(session, chosen, act.among)
        return len(_selected(session, act, chosen))


def step(
    act: Act, chosen: Criteria | Sequence[str], by: Actor, *, after: tuple[float, str] | None = None, cleaning_id: int | None = None
) -> Step:
    """Do it to the next STEP of the jobs that are meant, by criteria or by their ids."""
    criteria = chosen if isinstance(chosen, Criteria) else Criteria()
    with reading() as session:
        if isinstance(chosen, Criteria):
            found = choosing.newest(session, chosen, STEP, after, act.among)
        else:
            found = _selected(session, act, chosen)
    moved, cleaning_id = act.move(criteria, found, by, cleaning_id) if found else (0, cleaning_id)
    more = isinstance(chosen, Criteria) and len(found) == STEP
    return Step(moved, (found[-1].at, found[-1].id) if more else None, cleaning_id)


def _selected(session: Session, act: Act, job_ids: Sequence[str]) -> list[Found]:
    query = select(Job.id, Job.created_at, Job.status).where(
        Job.id.in_(job_ids[:STEP]), Job.status.in_(act.among), Job.cleaning_id.is_(None)
    )
    return [Found(*row) for row in session.execute(query)]


def moment() -> float:
    """Now, by the database's clock."""
    with reading() as session:
        return read_now(session)


# ---- the acts


def _requeue(criteria: Criteria, found: Sequence[Found], by: Actor, _: int | None) -> tuple[int, None]:
    return requeue([one.id for one in found], by, criteria), None


def requeue(job_ids: Sequence[str], by: Actor, criteria: Criteria) -> int:
    """Start these again, as far as they failed, were stopped or cancelled; how many were.

    One whose twin waits or runs, and that was asked for as unique, is left: that one will do.
    """
    try:
        with writing() as session:
            free = session.scalars(select(Job.id).where(Job.id.in_(job_ids), ~twin_lives())).all()
            jobs = lifecycle.REQUEUE.on(session.connection(), job_ids=list(free), requeue_id=None) if free else []
            _write_down(session, by, "requeue_jobs", len(jobs), criteria)
    except IntegrityError:  # two of them are twins of each other
        return _requeue_one_by_one(job_ids, by, criteria)
    queues.push(jobs)
    return len(jobs)


def _requeue_one_by_one(job_ids: Sequence[str], by: Actor, criteria: Criteria) -> int:
    moved = sum(requeue_one(job_id) for job_id in job_ids)
    with writing() as session:
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


def _cancel(criteria: Criteria, found: Sequence[Found], by: Actor, _: int | None) -> tuple[int, None]:
    with writing() as session:
        jobs = lifecycle.CANCEL.on(session.connection(), job_ids=[one.id for one in found])
        _write_down(session, by, "cancel_jobs", len(jobs), criteria)
    return len(jobs), None


def _stop(criteria: Criteria, found: Sequence[Found], by: Actor, _: int | None) -> tuple[int, None]:
    with writing() as session:
        jobs = lifecycle.STOP.on(session.connection(), job_ids=[one.id for one in found])
        _write_down(session, by, "stop_jobs", len(jobs), criteria)
    for job in jobs:
        queues.stop(job.id)
    return len(jobs), None


def _clean(criteria: Criteria, found: Sequence[Found], by: Actor, cleaning_id: int | None) -> tuple[int, int]:
    with writing() as session:
        number = cleaning.begin(session, criteria, by) if cleaning_id is None else cleaning.lock(session, cleaning_id).id
        moved = cleaning.put_in_bin(session, number, criteria, found)
        audit.record(session, by, "clean", f"cleaning {number}", count=moved, after=criteria.told())
        cleaning.drop_if_empty(session, number)
    return moved, number


def _write_down(session: Session, by: Actor, act: str, moved: int, criteria: Criteria) -> None:
    asked = criteria.told()
    subject = ", ".join(f"{name} {value}" for name, value in asked.items()) or "selected"
    audit.record(session, by, act, subject, count=moved, after=asked)


ACTS = {
    act.name: act
    for act in (
        Act("requeue", AGAIN, "requeued", _requeue),
        Act("cancel", ("queued", "scheduled"), "cancelled", _cancel),
        Act("stop", ("started",), "stopped", _stop),
        Act("clean", cleaning.CLEANABLE, "moved to the bin", _clean),
    )
}


def find(name: str) -> Act:
    """Raises `NotFound`."""
    if name not in ACTS:
        raise NotFound(f"There is no act {name[:40]!r}. Choose one of: {', '.join(ACTS)}.")
    return ACTS[name]
