"""New jobs as rows of the ledger: any number of them with one statement, or one for each table, compiled once.

What the unit of work of a session does for a new job takes longer than all the rest of accepting it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Executable, Float, Insert, Integer, String, bindparam, case, func, insert, literal, select
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.expression import FromClause
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from monolith.db.engine import now, rows_of_json
from monolith.db.models import Base, Job, new_id
from monolith.job_types.registry import JobType

APART_S = 1e-6  # jobs of one submission stand in line in their order, although SQLite's clock stands still in a statement
_JOBS, _EVENTS, _TALLIES = (Base.metadata.tables[name] for name in ("jobs", "job_events", "tallies"))
_ROW_PARAMS = ("id", "document_id", "type", "queue", "priority", "params", "content_key", "is_unique", "max_attempts", "status", "preview")
_SHARED = ("owner_id", "parent_id", "request_id")
_TOLD = ("id", "created_at", "queued_at", "run_at")  # what the database alone knows


@dataclass(frozen=True)
class JobSpec:
    """One job that somebody asks for, already validated. `delay` in seconds."""

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
        """What a new row says, and its delay."""
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


@dataclass(slots=True)
class NewJob:
    """A job as it was accepted: it reads as its row does."""

    id: str
    document_id: str | None
    type: str
    queue: str
    priority: str
    params: dict[str, Any]
    content_key: str | None
    is_unique: bool
    max_attempts: int
    status: str
    delay: float
    preview: dict[str, Any] | None
    owner_id: int
    parent_id: str | None
    request_id: str | None
    created_at: float
    queued_at: float | None
    run_at: float | None
    attempt: int = 0
    interruptions: int = 0
    crashes: int = 0
    progress: float | None = None
    progress_note: str | None = None
    snooze_reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    @property
    def rq_queue(self) -> str:
        return f"{self.queue}.{self.priority}"


AnyJob = Job | NewJob


def insert_jobs(connection: Connection, wanted: Iterable[JobSpec], **shared: Any) -> list[NewJob]:
    """Insert the jobs with the event of their submission, and count them; `shared` are the columns that all have alike."""
    rows = [one.row() for one in wanted]
    if not rows:
        return []
    shared = {**dict.fromkeys(_SHARED), **shared}
    said = {**shared, "new": json.dumps([{**row, "place": place} for place, row in enumerate(rows)], allow_nan=False)}
    first, *others = _statements(connection.dialect.name)
    told = {job_id: rest for job_id, *rest in connection.execute(first, said)}
    for statement in others:
        connection.execute(statement, said)
    return [_new_job({**row, **shared}, *told[row["id"]]) for row in rows]


def _new_job(said: dict[str, Any], created_at: float, queued_at: float | None, run_at: float | None) -> NewJob:
    return NewJob(**said, created_at=created_at, queued_at=queued_at, run_at=run_at)


@cache
def _statements(dialect: str) -> list[Executable]:
    """The first gives the rows. PostgreSQL does all with one, in one round trip; SQLite, which has none, knows no such statement."""
    jobs = _jobs(dialect)
    if dialect == "postgresql":
        added = jobs.cte("added")
        return [select(*added.c).add_cte(_events(added).cte("events"), _tally(added).cte("tally"))]
    new = rows_of_json("new", [_JOBS.c.id], dialect)
    return [jobs, _events(new), _tally(new)]


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
    return insert(_JOBS).from_select(list(values), select(*values.values())).returning(*(_JOBS.c[name] for name in _TOLD))


def _events(jobs: FromClause) -> Insert:
    values = {"job_id": jobs.c.id, "name": literal("submitted", String), "attempt": literal(0)}
    return insert(_EVENTS).from_select(list(values), select(*values.values()))


def _tally(jobs: FromClause) -> Insert:
    return insert(_TALLIES).from_select(["name", "amount"], select(literal("accepted", String), func.count()).select_from(jobs))
