"""A transition of a job: one guarded UPDATE of its row, and the row of `job_events` that records it.

`lifecycle` declares the transitions; nothing else changes a status. On PostgreSQL both writes are one statement, on SQLite two
in one transaction. Each statement is built once, when its transition is declared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, Select, String, Text, bindparam, insert, literal, select, update

from monolith.db.engine import PreparedStatement, get_engine, storable, write_transaction
from monolith.db.models import Job, JobEvent, rq_queue_of

MAX_NOTE = 2000  # characters of an event's note that are kept
_JOBS: Any = Job.__table__
_EVENTS: Any = JobEvent.__table__


class JobRecord(NamedTuple):
    """A read-only copy of a job's row, as a statement of the ledger returned it. Times are seconds since 1970.

    A transition fills in the fields without a default (`RETURNED`); `insert.insert_jobs` fills in all of them. The defaults are
    the values of a job that was just submitted, so do not read those fields of a record that a transition returned.
    """

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
    parent_id: str | None = None
    content_key: str | None = None
    is_unique: bool = False
    preview: dict[str, Any] | None = None
    created_at: float = 0.0
    queued_at: float | None = None
    run_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    interruptions: int = 0
    progress: float | None = None
    progress_note: str | None = None
    snooze_reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    @property
    def rq_queue(self) -> str:
        name: str = rq_queue_of(self.queue, self.priority)
        return name


# The columns that a transition returns, in the order of the fields of JobRecord.
RETURNED: list[Column[Any]] = [_JOBS.c[name] for name in JobRecord._fields if name not in JobRecord._field_defaults]


def param(name: str, like: Any = None) -> ColumnElement[Any]:
    """A parameter of a transition, passed to `Transition.apply` by this name; `like` is a column of the same type."""
    return bindparam(name, type_=like.type if like is not None else None)


class Transition:
    """One kind of transition: the name of its event, the guard a row must match, and the values it writes."""

    def __init__(self, event: str, *guard: ColumnElement[bool], **values: Any) -> None:
        self._event = event
        self._update = update(_JOBS).where(*guard).values(**values).returning(*RETURNED)
        self._update_and_event = self._combined()
        self._prepared = PreparedStatement(self._update_and_event)

    def _combined(self) -> Select[Any]:
        """The update and the insert of its events as one statement, which PostgreSQL has and SQLite has not."""
        changed = self._update.cte("changed")
        events = select(changed.c.id, literal(self._event, String), changed.c.attempt, bindparam("note", type_=Text))
        inserted = insert(_EVENTS).from_select(["job_id", "name", "attempt", "note"], events).cte("inserted")
        return select(changed).add_cte(inserted)

    def apply(self, note: str | None = None, *, connection: Connection | None = None, **params: Any) -> list[JobRecord]:
        """Apply it to every row that matches the guard. Without a `connection`, it is a transaction of its own.

        Returns the changed rows as they are now: none when another process changed them first.
        """
        note = note and storable(note, MAX_NOTE)
        if get_engine().dialect.name == "postgresql":
            params["note"] = note
            rows = connection.execute(self._update_and_event, params) if connection else self._prepared.run(**params)
            return [JobRecord(*row) for row in rows]
        if connection is None:
            with write_transaction() as own:
                return self._apply_on_sqlite(own, note, params)
        return self._apply_on_sqlite(connection, note, params)

    def _apply_on_sqlite(self, connection: Connection, note: str | None, params: dict[str, Any]) -> list[JobRecord]:
        changed = [JobRecord(*row) for row in connection.execute(self._update, params)]
        if changed:
            rows = [{"job_id": job.id, "name": self._event, "attempt": job.attempt, "note": note} for job in changed]
            connection.execute(insert(_EVENTS), rows)
        return changed
