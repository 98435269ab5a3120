"""Inserts new jobs, any number at a time: one statement on PostgreSQL, one for each table on SQLite, compiled once.

Uses SQLAlchemy Core: the unit of work of an ORM session would take longer than the rest of a submission.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Float, Insert, Integer, String, bindparam, case, func, insert, literal, select
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.expression import FromClause
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from monolith.db.engine import PreparedStatement, get_engine, now, rows_of_json
from monolith.db.models import Base, new_id
from monolith.job_types.registry import JobType
from monolith.runner.ledger.guarded_update import JobRecord

APART_S = 1e-6  # keeps the jobs of one submission in their order: SQLite's clock stands still within a statement
_JOBS, _EVENTS, _TALLIES = (Base.metadata.tables[name] for name in ("jobs", "job_events", "tallies"))
_ROW_PARAMS = ("id", "document_id", "type", "queue", "priority", "params", "content_key", "is_unique", "max_attempts", "status", "preview")
_SHARED = ("owner_id", "parent_id", "request_id")
_GENERATED = ("id", "created_at", "queued_at", "run_at")  # set by the database's clock; and the id, to tell the rows apart


@dataclass(frozen=True)
class JobSpec:
    """A job to be submitted, already validated. `delay`: seconds until it is queued."""

    type: JobType
    params: dict[str, Any] = field(default_factory=dict)
    priority: str = "normal"
    delay: float = 0
    document_id: str | None = None
    content_key: str | None = None
    is_unique: bool = False
    preview: dict[str, Any] | None = None
    id: str = field(default_factory=new_id)

    def row(self) -> dict[str, Any]:
        """The columns of its row that come from here, and `delay`."""
        return {
            "id": self.id,
            "document_id": self.document_id,
            "type": self.type.name,
            "queue": self.type.queue,
            "priority": self.priority,
            "params": self.params,
            "content_key": self.content_key,
            "is_unique": self.is_unique,
            "max_attempts": self.type.max_attempts,
            "status": "scheduled" if self.delay > 0 else "queued",
            "delay": self.delay,
            "preview": self.preview,
        }


def insert_jobs(specs: Iterable[JobSpec], *, connection: Connection | None = None, **shared: Any) -> list[JobRecord]:
    """Insert the jobs, one event `submitted` for each, and their number in the tally. Returns the rows in the order of `specs`.

    Without a `connection`, it is a transaction of its own. `shared`: `owner_id`, `parent_id` and `request_id`, where all jobs have
    the same. Raises IntegrityError for a second live unique job of the same content.
    """
    rows = [one.row() for one in specs]
    if not rows:
        return []
    shared = {**dict.fromkeys(_SHARED), **shared}
    params = {**shared, "new": json.dumps([{**row, "place": place} for place, row in enumerate(rows)], allow_nan=False)}
    returned = {job_id: times for job_id, *times in _insert(get_engine().dialect.name).run(connection, **params)}
    return [_record(row, shared, *returned[row["id"]]) for row in rows]


def _record(row: dict[str, Any], shared: dict[str, Any], created_at: float, queued_at: float | None, run_at: float | None) -> JobRecord:
    del row["delay"]
    return JobRecord(**row, **shared, attempt=0, claims=0, crashes=0, created_at=created_at, queued_at=queued_at, run_at=run_at)


@cache
def _insert(dialect: str) -> PreparedStatement:
    """What inserts jobs, events and the tally, and returns the columns `_GENERATED` of the jobs. PostgreSQL does all in one round trip."""
    jobs = _jobs(dialect)
    if dialect == "postgresql":
        added = jobs.cte("added")
        return PreparedStatement(select(*added.c).add_cte(_events(added).cte("events"), _tally(added).cte("tally")), writes=True)
    new = rows_of_json("new", [_JOBS.c.id], dialect)
    return PreparedStatement(jobs, _events(new), _tally(new), writes=True)


def _jobs(dialect: str) -> ReturningInsert[Any]:
    new = rows_of_json("new", [*(_JOBS.c[name] for name in _ROW_PARAMS), Column("delay", Float), Column("place", Integer)], dialect)
    values: dict[str, Any] = {
        column.key: literal(column.default.arg) for column in _JOBS.c if isinstance(column.default, ScalarElementColumnDefault)
    }
    values |= {name: new.c[name] for name in _ROW_PARAMS}
    values |= {name: bindparam(name, type_=_JOBS.c[name].type) for name in _SHARED}
    moment = now() + new.c.place * APART_S
    values["created_at"] = moment
    values["queued_at"] = case((new.c.delay <= 0, moment))
    values["run_at"] = case((new.c.delay > 0, now() + new.c.delay))
    return insert(_JOBS).from_select(list(values), select(*values.values())).returning(*(_JOBS.c[name] for name in _GENERATED))


def _events(jobs: FromClause) -> Insert:
    values = {"job_id": jobs.c.id, "name": literal("submitted", String), "attempt": literal(0)}
    return insert(_EVENTS).from_select(list(values), select(*values.values()))


def _tally(jobs: FromClause) -> Insert:
    return insert(_TALLIES).from_select(["name", "amount"], select(literal("accepted", String), func.count()).select_from(jobs))
