"""How far the events of jobs can be read in the order of their numbers, and none be missed.

PostgreSQL gives an event its number before it commits: a lower one may appear after a higher one was read. So what is
there is noted first, with the transactions that hold the lock of those who write events; it is read when these are over.
They let go of the lock only when what they wrote is seen by all. (Transaction ids would do as well, but for those of other
databases on the same server, whose long transactions would hold everything up.)
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from monolith.database import looking, read_now
from monolith.models import JobEvent

_WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND relation = 'job_events'::regclass "
    "AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()"
)


@dataclass(frozen=True)
class Mark:
    """Up to which number there are events, when that was so, and which transactions were adding some right then."""

    position: int
    at: float
    writers: frozenset[str]


class Horizon:
    """What one reader knows of it."""

    def __init__(self) -> None:
        self._mark: Mark | None = None

    def look(self) -> Mark | None:
        """A mark up to which all events are there; None while some may still appear below the one that was noted last."""
        mark = self._mark or mark_now()
        self._mark = mark if mark.writers & _writers() else None
        return None if self._mark else mark


def mark_now() -> Mark:
    """What is there at this moment; events below it may still appear."""
    with looking() as connection:
        moment = read_now(connection)
        position = connection.scalar(select(func.max(JobEvent.id))) or 0
        return Mark(position, moment, _writers_on(connection))


def _writers() -> frozenset[str]:
    with looking() as connection:
        return _writers_on(connection)


def _writers_on(connection: Connection) -> frozenset[str]:
    """SQLite has one writer at a time, which numbers its events while all others wait."""
    return frozenset(connection.scalars(_WRITERS)) if connection.dialect.name == "postgresql" else frozenset()
