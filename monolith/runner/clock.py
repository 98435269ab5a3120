"""The clock: moves what is due and repairs what fell between. One leader among any number of clocks, by a lease."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import structlog
from redis import RedisError
from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from monolith.database import now, reading, writing
from monolith.models import Job, Lease
from monolith.runner import lifecycle, queues

LEASE_S = 10.0
TICK_S = 1.0
REPAIR_S = 10.0
LOST_AFTER_S = 30.0
BATCH = 1000

log = structlog.get_logger()


def run(stopped: Callable[[], bool], wait: Callable[[float], object] = time.sleep) -> None:
    """Tick every second until `stopped()`. A database that is away is waited for; then the clock goes on."""
    holder = f"{socket.gethostname()}:{os.getpid()}"
    next_repair = 0.0
    while not stopped():
        try:
            if lead(holder):
                lifecycle.queue_due(BATCH)
                if time.monotonic() >= next_repair:
                    next_repair = time.monotonic() + (REPAIR_S if repair() else TICK_S)
        except OperationalError as error:
            log.error("database_away", error=str(error.orig))
        wait(TICK_S)
    resign(holder)


def lead(holder: str) -> bool:
    """Take or keep the lease. False when another clock holds it."""
    free = or_(Lease.holder == holder, Lease.expires_at < now())
    with writing() as session:
        mine = update(Lease).where(Lease.name == "clock", free).values(holder=holder, expires_at=now() + LEASE_S)
        return session.scalar(mine.returning(Lease.name)) is not None


def resign(holder: str) -> None:
    """Let another clock lead at once. Where the database is away, the lease runs out by itself."""
    with suppress(OperationalError), writing() as session:
        session.execute(update(Lease).where(Lease.name == "clock", Lease.holder == holder).values(expires_at=now()))


def is_ticking(session: Session) -> bool:
    """Whether some clock leads now."""
    return bool(session.scalar(select(func.count()).where(Lease.name == "clock", Lease.expires_at > now())))


def repair() -> bool:
    """Interrupt what lost its worker, push what lost its message. False while Redis is away."""
    _interrupt_lost()
    try:
        _push_missing()
    except RedisError as error:
        log.warning("redis_away", error=str(error))
        return False
    return True


def _interrupt_lost() -> None:
    silent = select(Job.id, Job.claims, Job.worker).where(Job.status == "started", Job.heartbeat_at < now() - LOST_AFTER_S).limit(BATCH)
    with reading() as session:
        lost = session.execute(silent).all()
    for job_id, claims, worker in lost:
        log.warning("worker_lost", job_id=job_id, worker=worker)
        lifecycle.interrupt(job_id, claims, f"worker {worker} was silent for {LOST_AFTER_S:g} s")


def _push_missing() -> None:
    """Compare the number of waiting rows and messages of each queue, and look closer only where they differ."""
    with reading() as session:
        waiting = session.execute(select(Job.queue, Job.priority, func.count()).where(*_waiting()).group_by(Job.queue, Job.priority)).all()
    rows = Counter({f"{queue}.{priority}": count for queue, priority, count in waiting})
    lengths = queues.lengths(sorted({*rows, *queues.names()}))
    queues.breaker.close()
    for name, messages in lengths.items():
        if messages < rows[name]:
            _push_missing_of(name)


def _push_missing_of(name: str) -> None:
    queue, _, priority = name.rpartition(".")
    with reading() as session:
        jobs = session.scalars(select(Job).where(*_waiting(), Job.queue == queue, Job.priority == priority).order_by(Job.queued_at)).all()
    present = queues.waiting_ids(name)
    missing = [job for job in jobs if job.id not in present]
    if missing and queues.push(missing):
        log.warning("messages_pushed_again", queue=name, jobs=len(missing))


def _waiting() -> tuple[ColumnElement[bool], ...]:
    """Queued rows whose message had time to arrive: a message that a worker just took is not missing."""
    return (Job.status == "queued", Job.queued_at < now() - 2)
