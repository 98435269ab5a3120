"""How the measured jobs are submitted, and how it is seen that a worker has put them down as done: by RQ alone, or in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from redis import Redis
from rq import Queue
from rq.registry import FinishedJobRegistry
from sqlalchemy import func, inspect, select, text

from monolith.db import engine
from monolith.db.engine import read_session, write_session
from monolith.db.models import Base, Job, User
from monolith.job_types import registry
from monolith.runner.ledger import insert, lifecycle

BATCH = 500
QUEUE = "default"
IO_BOUND = {"io_bound": True}  # in a job's meta: it runs in a thread, beside others of its process


class Load(Protocol):
    def submit(self, count: int) -> None:
        """Submit so many jobs, in bulk."""

    def done(self) -> int:
        """How many are put down as done, after which their worker spends nothing on them."""


class RqJobs:
    """Plain jobs of RQ, which know no ledger."""

    def __init__(self, redis: Redis, function: Callable[[float], None], meta: dict[str, bool] | None = None) -> None:
        self._queue = Queue(QUEUE, connection=redis)
        self._finished = FinishedJobRegistry(QUEUE, connection=redis)
        self._function = function
        self._meta = meta

    def submit(self, count: int) -> None:
        for size in _batches(count):
            self._queue.enqueue_many([Queue.prepare_data(self._function, (time.time(),), meta=self._meta) for _ in range(size)])

    def done(self) -> int:
        return int(self._finished.connection.zcard(self._finished.key))


class LedgerJobs:
    """Jobs as people submit them: rows in SQL, whose ids are pushed."""

    def __init__(self) -> None:
        self._owner_id = 0

    def submit(self, count: int) -> None:
        job_type = registry.find("bench_noop")
        for size in _batches(count):
            lifecycle.submit(self._owner(), [insert.JobSpec(job_type, {"at": time.time()}) for _ in range(size)])

    def _owner(self) -> int:
        if not self._owner_id:
            with write_session() as session:
                owner = User(email="bench@example.org", password_hash="")
                session.add(owner)
                session.flush()
                self._owner_id = owner.id
        return self._owner_id

    def done(self) -> int:
        with read_session() as session:
            return session.scalar(select(func.count()).where(Job.status == "finished")) or 0

    def clear(self) -> None:
        """Empty every table: all in them is ours, or we would not have begun."""
        self._owner_id = 0
        tables = Base.metadata.sorted_tables
        with write_session() as session:
            if engine.get_engine().dialect.name == "postgresql":
                session.execute(text(f"TRUNCATE {', '.join(table.name for table in tables)} CASCADE"))
                return
            for table in reversed(tables):
                session.execute(table.delete())


def ledger(say: Callable[[str], object]) -> LedgerJobs | None:
    """The ledger of DATABASE_URL; or None, and a line that says why it is left out."""
    if not is_empty():
        say("Skipping the ledger: the database of DATABASE_URL is not empty and this command empties its tables. Use an empty one.")
        return None
    engine.upgrade()
    return LedgerJobs()


def is_empty() -> bool:
    """Whether there are no tables at all, or those of an Intray that nobody has used yet."""
    if not inspect(engine.get_engine()).get_table_names():
        return True
    if not engine.is_current():
        return False
    with read_session() as session:
        return session.scalar(select(func.count()).select_from(User)) == 0


def _batches(count: int) -> Iterator[int]:
    for begun in range(0, count, BATCH):
        yield min(BATCH, count - begun)
