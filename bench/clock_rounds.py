"""How long the clock's tasks take beside many jobs: `manage.py bench clock`. Results and plans are in docs/performance.md."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import JSON, String, cast, delete, func, insert, literal, select, text

from bench.plans import plan, slow_queries
from monolith.db import engine
from monolith.db.engine import get_engine, now, read_session, write_session
from monolith.db.models import Job, Sample, Tally, User
from monolith.errors import BadSetting
from monolith.job_types import registry
from monolith.runner.ledger import balance, clock_lease, lifecycle
from monolith.runner.ledger import counts as counting
from monolith.runner.queue import rq_queues
from monolith.runner.scheduler import clock, recovery, retention

ROUNDS = 20
IN_FLIGHT = 8  # messages that workers hold
SLOW_S = 0.005  # queries that take longer are shown with their plan
QUEUE, PRIORITY = "default", "normal"

Say = Callable[[str], object]


def measure(queued: int, finished: int, say: Say) -> None:
    """Fill, measure, tell. Raises `BadSetting` for a database or a Redis in which something is."""
    _require_empty()
    say(f"Filling {get_engine().dialect.name} with {finished:,} finished and {queued:,} queued jobs ...")
    _fill(queued, finished)
    _fill_redis()
    say(f"{'task':<44}{'median ms':>10}{'max ms':>10}")
    with slow_queries(SLOW_S) as slow:
        for name, (prepare, work) in _tasks().items():
            times = [_timed(prepare, work) for _ in range(ROUNDS)]
            say(f"{name:<44}{statistics.median(times):>10.1f}{max(times):>10.1f}")
    if get_engine().dialect.name == "postgresql":
        for statement, parameters in slow.items():
            say(plan(statement, parameters))


def _require_empty() -> None:
    engine.upgrade()
    with read_session() as session:
        if session.scalar(select(User.id).limit(1)) or session.scalar(select(Job.id).limit(1)):
            raise BadSetting(
                "The database of DATABASE_URL is not empty. Use an empty one, because this command fills it with a million rows."
            )
    if rq_queues.is_inline() or rq_queues.connection().dbsize():
        raise BadSetting("The Redis of REDIS_URL is not empty. Use an empty one, because this command fills it with messages.")


def _fill(queued: int, finished: int) -> None:
    job_types = list(registry.discover().values())
    with write_session() as session:
        session.add(User(id=1, email="bench@example.org", password_hash=""))
        session.flush()
        for job_type in job_types:
            for status, number in (("queued", queued), ("finished", finished)):
                session.execute(_jobs(job_type.name, status, number // len(job_types)))
        session.add(Tally(name="accepted", amount=session.scalar(select(func.count()).select_from(Job))))
    with get_engine().execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM ANALYZE" if connection.dialect.name == "postgresql" else "ANALYZE"))  # as autovacuum keeps it


def _jobs(type_name: str, status: str, count: int) -> Any:
    """Jobs spread over six days."""
    numbers = select(literal(1).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < count))
    is_postgresql = get_engine().dialect.name == "postgresql"
    new_id = cast(func.gen_random_uuid(), String) if is_postgresql else func.lower(func.hex(func.randomblob(16)))
    ago = now() - 6 * 86400.0 * numbers.c.n / count
    columns: dict[str, Any] = {
        "id": new_id,
        "owner_id": literal(1),
        "type": literal(type_name),
        "queue": literal(QUEUE),
        "priority": literal(PRIORITY),
        "params": literal({}, JSON),
        "status": literal(status),
        **{name: literal(0) for name in ("attempt", "claims", "interruptions", "crashes", "input_tokens", "output_tokens")},
        "max_attempts": literal(3),
        "usd": literal(0.0),
        "created_at": ago,
        "queued_at": ago,
        **({"started_at": ago + 1, "ended_at": ago + 2} if status == "finished" else {}),
    }
    return insert(Job).from_select(list(columns), select(*columns.values()).select_from(numbers), include_defaults=False)


def _fill_redis() -> None:
    key = rq_queues.queue(f"{QUEUE}.{PRIORITY}").key
    with read_session() as session:
        for ids in session.scalars(select(Job.id).where(Job.status == "queued").order_by(Job.queued_at)).partitions(10_000):
            rq_queues.connection().rpush(key, *ids)


def _tasks() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """What is done before each round, unmeasured, and what is measured."""
    calm, busy = recovery.MissingMessages(), recovery.MissingMessages
    fresh = clock.Clock(lambda: False, "bench")
    return {
        "renew the lease": (_nothing, lambda: clock_lease.lead("bench")),
        "queue due jobs (none)": (_nothing, lambda: lifecycle.queue_due(clock.BATCH)),
        "interrupt lost jobs (none)": (_nothing, lambda: _all(recovery.interrupt_lost())),
        "resend missing messages (none)": (_nothing, lambda: _all(calm.push())),
        f"resend missing messages, {IN_FLIGHT} in progress": (_take, lambda: _all(busy().push())),
        "record the minute's statistics": (_forget_samples, lambda: _all(counting.sample())),
        "add up 100 counters": (_accept_some, lambda: _all(balance.fold())),
        "check the ledger balance": (_nothing, balance.imbalance),
        f"prune {retention.BATCH} jobs": (_nothing, lambda: next(retention.prune())),
        "a full tick, with every task due": (_take, fresh.tick),
    }


def _all(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


def _nothing() -> None:
    pass


def _take() -> None:
    rq_queues.connection().lpop(rq_queues.queue(f"{QUEUE}.{PRIORITY}").key, IN_FLIGHT)


def _forget_samples() -> None:
    with write_session() as session:
        session.execute(delete(Sample))


def _accept_some() -> None:
    with write_session() as session:
        session.add_all([Tally(name="accepted", amount=0) for _ in range(100)])


def _timed(prepare: Callable[[], object], work: Callable[[], object]) -> float:
    prepare()
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000
