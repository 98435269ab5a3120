"""The statements that take long in a benchmark, and how PostgreSQL does them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from monolith.db.engine import get_engine


@contextmanager
def slow_queries(seconds: float) -> Iterator[dict[str, Any]]:
    """The statements that take longer than so many seconds in the block, with the parameters of the first time."""
    found: dict[str, Any] = {}

    def before(_: Any, cursor: Any, *rest: Any) -> None:
        began[cursor] = time.perf_counter()

    def after(_: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if time.perf_counter() - began.pop(cursor) > seconds and isinstance(parameters, dict):  # not what is executed many times
            found.setdefault(statement, parameters)

    began: dict[Any, float] = {}
    event.listen(get_engine(), "before_cursor_execute", before)
    event.listen(get_engine(), "after_cursor_execute", after)
    yield found
    event.remove(get_engine(), "before_cursor_execute", before)
    event.remove(get_engine(), "after_cursor_execute", after)


def plan(statement: str, parameters: Any) -> str:
    with get_engine().connect() as connection:  # rolled back: EXPLAIN ANALYZE of a DELETE deletes
        lines = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {statement}", parameters).scalars().all()
    return "\n".join(["", " ".join(statement.split()), *lines])
