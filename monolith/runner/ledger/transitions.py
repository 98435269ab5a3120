"""How a job moves: one guarded UPDATE of its row with the event that it is, in one statement where the database can.

`lifecycle` declares the moves; nothing else changes a status. A statement is put together once, when it is declared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, Select, String, Text, bindparam, insert, literal, select, update

from monolith.db.engine import PreparedStatement, get_engine, storable, write_transaction
from monolith.db.models import Job, JobEvent

MAX_NOTE = 2000  # characters of an event's note that are kept
_JOBS: Any = Job.__table__
_EVENTS: Any = JobEvent.__table__


class TransitionedJob(NamedTuple):
    """A row of the ledger as it is after the move."""

    id: str
    owner_id: int
    document_id: str | None
    type: str
    queue: str
    priority: str
    params: dict[str, Any]
    status: str
    attempt: int
    claims: int
    crashes: int
    max_attempts: int
    request_id: str | None

    @property
    def rq_queue(self) -> str:
        return f"{self.queue}.{self.priority}"


TRANSITIONED: list[Column[Any]] = [_JOBS.c[name] for name in TransitionedJob._fields]


def param(name: str, like: Any = None) -> ColumnElement[Any]:
    """What is said when the move is made; of the type of this column."""
    return bindparam(name, type_=like.type if like is not None else None)


class Transition:
    """One kind of move: the guard it must pass, what it writes, and the event's name."""

    def __init__(self, event: str, *guard: ColumnElement[bool], **values: Any) -> None:
        self._event = event
        self._update = update(_JOBS).where(*guard).values(**values).returning(*TRANSITIONED)
        self._with_event = self._in_one()
        self._alone = PreparedStatement(self._with_event)

    def _in_one(self) -> Select[Any]:
        moved = self._update.cte("moved")
        said = select(moved.c.id, literal(self._event, String), moved.c.attempt, bindparam("note", type_=Text))
        told = insert(_EVENTS).from_select(["job_id", "name", "attempt", "note"], said).cte("told")
        return select(moved).add_cte(told)

    def make(self, note: str | None = None, **said: Any) -> list[TransitionedJob]:
        """Make it as a transaction of its own; the rows as they are now, none when somebody else was faster."""
        if get_engine().dialect.name == "postgresql":
            return [TransitionedJob._make(row) for row in self._alone.run(**said, note=note and storable(note, MAX_NOTE))]
        with write_transaction() as connection:
            return self.on(connection, note, **said)

    def on(self, connection: Connection, note: str | None = None, **said: Any) -> list[TransitionedJob]:
        """The same within a transaction."""
        note = note and storable(note, MAX_NOTE)
        if connection.dialect.name == "postgresql":
            return [TransitionedJob._make(row) for row in connection.execute(self._with_event, {**said, "note": note})]
        moved = [TransitionedJob._make(row) for row in connection.execute(self._update, said)]
        if moved:
            rows = [{"job_id": job.id, "name": self._event, "attempt": job.attempt, "note": note} for job in moved]
            connection.execute(insert(_EVENTS), rows)
        return moved
