"""New jobs as rows of the ledger: any number of them with one statement for each table, each compiled once.

What the unit of work of a session does for a new job takes longer than all the rest of accepting it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Float, Insert, Row, String, bindparam, case, insert, literal, select

from monolith.database import now, rows_of_json
from monolith.models import Base

_JOBS, _EVENTS, _TALLIES = (Base.metadata.tables[name] for name in ("jobs", "job_events", "tallies"))
_SAID = ("id", "document_id", "type", "queue", "priority", "params", "content_key", "is_unique", "max_attempts", "status")
_SHARED = ("owner_id", "parent_id", "request_id")
_LATER = ("result", "error_trace")  # no new job has them
_count = insert(_TALLIES).values(name="accepted", amount=bindparam("jobs"))


def add(connection: Connection, rows: Sequence[dict[str, Any]], **shared: Any) -> list[Row[Any]]:
    """Insert the jobs with the event of their submission, and count them; the rows as they are now, in this order.

    Each has what `_SAID` names, and its `delay` in seconds; `shared` is what all of them have.
    """
    if not rows:
        return []
    jobs, events = _statements(connection.dialect.name)
    said = {**dict.fromkeys(_SHARED), **shared, "new": json.dumps(rows, allow_nan=False)}
    added = {row.id: row for row in connection.execute(jobs, said)}
    connection.execute(events, {"new": json.dumps([{"id": row["id"]} for row in rows])})
    connection.execute(_count, {"jobs": len(rows)})
    return [added[row["id"]] for row in rows]


@cache
def _statements(dialect: str) -> tuple[Insert, Insert]:
    return _insert_jobs(dialect), _insert_events(dialect)


def _insert_jobs(dialect: str) -> Insert:
    new = rows_of_json("new", [*(_JOBS.c[name] for name in _SAID), Column("delay", Float)], dialect)
    values: dict[str, Any] = {name: new.c[name] for name in _SAID}
    values |= {name: bindparam(name, type_=_JOBS.c[name].type) for name in _SHARED}
    values["queued_at"] = case((new.c.delay <= 0, now()))
    values["run_at"] = case((new.c.delay > 0, now() + new.c.delay))
    kept = [column for column in _JOBS.c if column.key not in _LATER]
    return insert(_JOBS).from_select(list(values), select(*values.values())).returning(*kept)


def _insert_events(dialect: str) -> Insert:
    new = rows_of_json("new", [_JOBS.c.id], dialect)
    values = {"job_id": new.c.id, "name": literal("submitted", String), "attempt": literal(0)}
    return insert(_EVENTS).from_select(list(values), select(*values.values()))
