"""How far the events of jobs can be read in the order of their numbers, and none be missed.

PostgreSQL gives an event its number before it commits: a lower one may appear after a higher one was read. So what is
there is noted first, with the transactions that hold the lock of those who write events; it is read when these are over.
They let go of the lock only when what they wrote is seen by all. (Transaction ids would do as well, but for those of other
databases on the same server, whose long transactions would hold everything up.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select, text, true

from monolith.db.engine import read_connection, read_now
from monolith.db.models import Job, JobEvent
from monolith.job_types import registry

STEP = 500  # events of users' jobs that are read at once


_WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND relation = 'job_events'::regclass "
    "AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()"
)


@dataclass(frozen=True)
class Position:
    """Up to which number there are events, when that was so, and which transactions were adding some right then."""

    position: int
    at: float
    writers: frozenset[str]


class SafePosition:
    """What one reader knows of it."""

    def __init__(self) -> None:
        self._mark: Position | None = None

    def look(self) -> Position | None:
        """A mark up to which all events are there; None while some may still appear below the one that was noted last."""
        mark = self._mark or position_now()
        self._mark = mark if mark.writers & _writers() else None
        return None if self._mark else mark


def position_now() -> Position:
    """What is there at this moment; events below it may still appear."""
    with read_connection() as connection:
        moment = read_now(connection)
        position = connection.scalar(select(func.max(JobEvent.id))) or 0
        return Position(position, moment, _writers_on(connection))


def _writers() -> frozenset[str]:
    with read_connection() as connection:
        return _writers_on(connection)


def _writers_on(connection: Connection) -> frozenset[str]:
    """SQLite has one writer at a time, which numbers its events while all others wait."""
    return frozenset(connection.scalars(_WRITERS)) if connection.dialect.name == "postgresql" else frozenset()


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
    with read_connection() as connection:
        return list(connection.execute(found))
