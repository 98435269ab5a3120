"""A transition of a job: one guarded UPDATE of its row, and the row of `job_events` that records it.

`lifecycle` declares the transitions; nothing else changes a status. On PostgreSQL both writes are one statement, on SQLite two
in one transaction. Each statement is built once: `apply` takes one set of parameters, `apply_each` any number of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    JSON,
    BindParameter,
    ClauseElement,
    Column,
    ColumnElement,
    Connection,
    Select,
    String,
    Text,
    any_,
    bindparam,
    cast,
    func,
    insert,
    literal,
    select,
    type_coerce,
    update,
)
from sqlalchemy.sql.expression import FromClause
from sqlalchemy.sql.visitors import iterate, replacement_traverse

from monolith.db.engine import PreparedStatement, get_engine, rows_of_json, storable, write_transaction
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
    held_by: str | None = None
    held_since: float | None = None

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
        self._guard, self._values = guard, values
        self._update = update(_JOBS).where(*guard).values(**values).returning(*RETURNED)
        self._update_and_event = self._combined(self._update, bindparam("note", type_=Text))
        self._prepared = PreparedStatement(self._update_and_event, writes=True)
        self._each: dict[str, Any] = {}  # by dialect: what `apply_each` executes

    def _combined(self, change: Any, note: ColumnElement[str] | None = None) -> Select[Any]:
        """The update and the insert of its events as one statement, which PostgreSQL has and SQLite has not."""
        changed = change.cte("changed")
        events = select(changed.c.id, literal(self._event, String), changed.c.attempt, changed.c.note if note is None else note)
        inserted = insert(_EVENTS).from_select(["job_id", "name", "attempt", "note"], events).cte("inserted")
        return select(*(changed.c[column.key] for column in RETURNED)).add_cte(inserted)

    def apply(self, note: str | None = None, *, connection: Connection | None = None, **params: Any) -> list[JobRecord]:
        """Apply it to every row that matches the guard. Without a `connection`, it is a transaction of its own.

        Returns the changed rows as they are now: none when another process changed them first.
        """
        note = note and storable(note, MAX_NOTE)
        if get_engine().dialect.name == "postgresql":
            params["note"] = note
            return [JobRecord(*row) for row in self._prepared.run(connection, **params)]
        if connection is None:
            with write_transaction() as own:
                return self.apply(note, connection=own, **params)
        changed = [JobRecord(*row) for row in connection.execute(self._update, params)]
        self._add_events(connection, [(job, note) for job in changed])
        return changed

    def apply_each(self, params: Sequence[dict[str, Any]], *, connection: Connection | None = None) -> list[JobRecord]:
        """Apply it once with each set of parameters, all in one statement. Each names its `job_id`, and may have a `note`.

        Returns the changed rows as they are now, in any order.
        """
        if not params:
            return []
        notes = {one["job_id"]: storable(one["note"], MAX_NOTE) for one in params if one.get("note")}
        given = json.dumps([{**one, "note": notes.get(one["job_id"])} for one in params], ensure_ascii=False, allow_nan=False)
        statement = self._from_rows(get_engine().dialect.name)
        if isinstance(statement, PreparedStatement):
            return [JobRecord(*row) for row in statement.run(connection, given=given)]
        if connection is None:
            with write_transaction() as own:
                return self.apply_each(params, connection=own)
        changed = [JobRecord(*row) for row in connection.execute(statement, {"given": given})]
        self._add_events(connection, [(job, notes.get(job.id)) for job in changed])
        return changed

    def _add_events(self, connection: Connection, changed: list[tuple[JobRecord, str | None]]) -> None:
        rows = [{"job_id": job.id, "name": self._event, "attempt": job.attempt, "note": note} for job, note in changed]
        if rows:
            connection.execute(insert(_EVENTS), rows)

    def _from_rows(self, dialect: str) -> Any:
        """What `apply_each` executes, built at its first call."""
        if dialect not in self._each:
            change = self._update_from_rows(dialect)
            self._each[dialect] = PreparedStatement(self._combined(change), writes=True) if dialect == "postgresql" else change
        return self._each[dialect]

    def _update_from_rows(self, dialect: str) -> Any:
        """The update with its parameters taken from the rows of one JSON parameter, `given`. JSON values are in it as text."""
        expressions = [*self._guard, *(value for value in self._values.values() if isinstance(value, ClauseElement))]
        params = [one for expression in expressions for one in iterate(expression) if isinstance(one, BindParameter) and not one.unique]
        types = {one.key: one.type for one in params}
        columns: list[Column[Any]] = [Column(name, Text if isinstance(type, JSON) else type) for name, type in types.items()]
        given, constants = self._with_constants(rows_of_json("given", [*columns, Column("note", Text)], dialect))

        def from_row(element: Any, **options: Any) -> Any:
            if isinstance(element, BindParameter) and element.key in constants:
                return given.c[constants[element.key]]
            if not isinstance(element, BindParameter) or element.key not in types:
                return None
            column = given.c[element.key]
            if isinstance(element.type, JSON):
                return cast(column, JSON) if dialect == "postgresql" else type_coerce(column, JSON)
            return column

        guard = [replacement_traverse(one, {}, from_row) for one in self._guard]
        values = {
            name: replacement_traverse(value, {}, from_row) if isinstance(value, ClauseElement) else value
            for name, value in self._values.items()
        }
        if dialect != "postgresql":
            return update(_JOBS).where(*guard).values(**values).returning(*RETURNED)
        guard.append(_JOBS.c.id == any_(func.array(select(given.c.job_id).scalar_subquery())))
        return update(_JOBS).where(*guard).values(**values).returning(*RETURNED, given.c.note)

    def _with_constants(self, given: FromClause) -> tuple[CTE, dict[str, str]]:
        """The rows with the texts that the guard compares with as further columns, and the names of these by their parameter.

        The database must find the jobs by their ids. If it knew that they are to be queued, it would read the index of all queued jobs
        instead, and look for a pause of each: PostgreSQL takes 700 ms for 64 of 60,000.
        """
        found = (one for condition in self._guard for one in iterate(condition))
        texts = [one for one in found if isinstance(one, BindParameter) and one.unique and isinstance(one.type, String)]
        names = {one.key: f"text{place}" for place, one in enumerate(texts)}
        asked = select(given, *(literal(one.value, String).label(names[one.key]) for one in texts))
        return asked.cte("asked").prefix_with("MATERIALIZED"), names
