"""Why is my job not running? One answer, from the ledger and the queues, for the page and the API alike."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache

from redis import RedisError
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from monolith.models import Job
from monolith.runner import clock, queues

LISTENED_FOR_S = 2.0  # how long the answer of Redis about its workers is good enough


def waiting_reason(session: Session, job: Job) -> str | None:
    """Why the job waits, in one sentence; None for a job that runs or is over."""
    if job.status == "scheduled":
        return _scheduled(session, job)
    return _queued(session, job) if job.status == "queued" else None


def _scheduled(session: Session, job: Job) -> str:
    at = datetime.fromtimestamp(job.run_at or 0, UTC).strftime("%H:%M:%S UTC")
    if not clock.is_ticking(session):
        return f"It is due at {at}, but no clock is running to queue it."
    if job.parked_reason:
        return f"Parked until {at}: {job.parked_reason}"
    if job.error_message:
        return f"Attempt {job.attempt} of {job.max_attempts} failed; the next one is at {at}."
    return f"It is to start at {at}."


def _queued(session: Session, job: Job) -> str:
    listened = _listened_queues()
    if listened is None:
        return "Redis is away. The job is kept safely, and starts when Redis is back."
    if job.rq_queue not in listened:
        return f"No worker is listening to {job.rq_queue}."
    place = _place(session, job)
    return "It is next in line." if place == 1 else f"It is number {place} in line."


def _place(session: Session, job: Job) -> int:
    """The job's place in line: more urgent ones and older ones of its own urgency come first."""
    urgent = queues.PRIORITIES[: queues.PRIORITIES.index(job.priority)]
    older = (Job.priority == job.priority) & (Job.queued_at < (job.queued_at or 0))
    ahead = select(func.count()).where(Job.status == "queued", or_(Job.priority.in_(urgent), older))
    return 1 + (session.scalar(ahead) or 0)


def _listened_queues() -> set[str] | None:
    """The queues with a living worker, asked at most every LISTENED_FOR_S; None while Redis is away."""
    return listened_queues(int(time.monotonic() / LISTENED_FOR_S))


@lru_cache(maxsize=1)
def listened_queues(period: int) -> set[str] | None:
    """As Redis said in this period of LISTENED_FOR_S seconds."""
    if queues.breaker.is_open:
        return None
    try:
        return queues.listened()
    except RedisError:
        queues.breaker.open()
        return None
