"""What has happened to jobs that somebody watches: read from the ledger, with one query for all who watch in a process.

The ledger is asked, and nobody tells: a job that nobody watches costs nothing, and what is read is true while Redis is away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, select, true

from monolith.database import looking
from monolith.models import Job, JobEvent
from monolith.runner import registry

STEP = 500  # events of users' jobs that are read at once

# The job as it is now, and the event: `number` is that of the event, in the order of the ledger.
_JOB = (
    Job.id.label("job_id"),
    *(getattr(Job, name) for name in ("owner_id", "type", "status", "progress", "progress_note", "max_attempts")),
)
_EVENT = (JobEvent.id.label("number"), JobEvent.name, JobEvent.at, JobEvent.attempt, JobEvent.note)
Owners = Collection[int] | None  # None: everybody


def of_jobs(after: Mapping[str, int]) -> list[Row[Any]]:
    """Of each of these jobs, what has happened after the event of this number: the job as it is now with each event, in order.

    A job of which there is nothing new comes once, with `number` None; one that is no longer there does not come.
    """
    lowest = min(after.values())
    news = and_(JobEvent.job_id == Job.id, JobEvent.id > lowest)
    found = select(*_JOB, *_EVENT).outerjoin(JobEvent, news).where(Job.id.in_(after)).order_by(JobEvent.id)
    return _read(found)


def of_owners(owners: Owners, after: int, until: int) -> list[Row[Any]]:
    """The first STEP events between these numbers that happened to jobs of these users, as `of_jobs` gives them."""
    found = select(*_JOB, *_EVENT).join(JobEvent, JobEvent.job_id == Job.id).where(JobEvent.id > after, JobEvent.id <= until)
    return _read(found.where(_shown_to(owners)).order_by(JobEvent.id).limit(STEP))


def running_of(owners: Owners) -> list[Row[Any]]:
    """The jobs of these users that run, as they are now."""
    return _read(select(*_JOB).where(Job.status == "started", _shown_to(owners)))


def _shown_to(owners: Owners) -> ColumnElement[bool]:
    """What Intray submits by itself is left out, as it is of the lists."""
    internal = [one.name for one in registry.discover().values() if one.is_internal]
    return and_(Job.type.not_in(internal), true() if owners is None else Job.owner_id.in_(owners))


def _read(found: Select[Any]) -> list[Row[Any]]:
    with looking() as connection:
        return list(connection.execute(found))
