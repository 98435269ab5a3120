"""Reads the events of jobs in the order of their ids without missing one.

PostgreSQL assigns an id before the commit, so a lower id may appear after a higher one was read. Therefore the reader first
notes the highest id together with the transactions that hold a writer's lock on `job_events`, and reads up to that id when
these transactions are over: they release the lock only when their rows are visible. (Comparing transaction ids would work too,
but long transactions in other databases of the same server would delay everything.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select, text, true

from monolith.db.engine import read_connection, read_now
from monolith.db.models import Job, JobEvent
from monolith.job_types import registry

STEP = 500  # events that one query of `of_owners` reads


_WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND relation = 'job_events'::regclass "
    "AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()"
)


@dataclass(frozen=True)
class Position:
    """The highest event id at a time `at`, and the transactions that were writing events at that time."""

    position: int
    at: float
    writers: frozenset[str]


class SafePosition:
    """Safe read position of one reader: no event with a lower id can still be committed."""

    def __init__(self) -> None:
        self._pending: Position | None = None

    def advance(self) -> Position | None:
        """A position up to which all events are committed; None while a transaction may still add some below the pending one."""
        position = self._pending or position_now()
        with read_connection() as connection:
            is_pending = position.writers & _writers(connection)
        self._pending = position if is_pending else None
        return None if is_pending else position


def position_now() -> Position:
    """The current position; events with lower ids may still be committed."""
    with read_connection() as connection:
        moment = read_now(connection)
        position = connection.scalar(select(func.max(JobEvent.id))) or 0
        return Position(position, moment, _writers(connection))


def _writers(connection: Connection) -> frozenset[str]:
    """The transactions that are writing events. On SQLite none: it has one writer at a time, so ids are in order of the commits."""
    return frozenset(connection.scalars(_WRITERS)) if connection.dialect.name == "postgresql" else frozenset()


# The job as it is now, and the event: `number` is its id.
_JOB = (
    Job.id.label("job_id"),
    *(getattr(Job, name) for name in ("owner_id", "type", "status", "progress", "progress_note", "max_attempts")),
)


_EVENT = (JobEvent.id.label("number"), JobEvent.name, JobEvent.at, JobEvent.attempt, JobEvent.note)


Owners = Collection[int] | None  # None: everybody


def of_jobs(after: Mapping[str, int]) -> list[Row[Any]]:
    """The events of these jobs after the lowest of these ids, in order, each with the job as it is now.

    A job without new events comes once, with `number` None; a job that does not exist does not come.
    """
    is_new = and_(JobEvent.job_id == Job.id, JobEvent.id > min(after.values()))
    return _rows(select(*_JOB, *_EVENT).outerjoin(JobEvent, is_new).where(Job.id.in_(after)).order_by(JobEvent.id))


def of_owners(owners: Owners, after: int, until: int) -> list[Row[Any]]:
    """The first STEP events with ids above `after`, up to `until`, of jobs of these users; rows as in `of_jobs`."""
    found = select(*_JOB, *_EVENT).join(JobEvent, JobEvent.job_id == Job.id).where(JobEvent.id > after, JobEvent.id <= until)
    return _rows(found.where(_visible_to(owners)).order_by(JobEvent.id).limit(STEP))


def running_of(owners: Owners) -> list[Row[Any]]:
    """The running jobs of these users."""
    return _rows(select(*_JOB).where(Job.status == "started", _visible_to(owners)))


def _visible_to(owners: Owners) -> ColumnElement[bool]:
    """Internal jobs are left out, as in the lists of jobs."""
    internal = registry.internal_types()
    return and_(Job.type.not_in(internal), true() if owners is None else Job.owner_id.in_(owners))


def _rows(query: Select[Any]) -> list[Row[Any]]:
    with read_connection() as connection:
        return list(connection.execute(query))
