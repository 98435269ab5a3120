"""Why is my job not running? One answer, from the ledger and the queues, for the page and the API alike."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import NamedTuple

from redis import RedisError
from sqlalchemy import func, literal, or_, select
from sqlalchemy.orm import Session

from monolith.db.engine import now, read_connection, read_session
from monolith.db.models import Job, Sample
from monolith.runner.ledger import lease, pauses
from monolith.runner.ledger.transitions import JobRecord
from monolith.runner.monitoring import workers
from monolith.runner.queue import rq_queues

LOOKED_AT = 50  # the newest; what was true a thousand jobs ago may not be any more
FEWEST = 3  # of fewer nothing can be said
HOUR_S, MINUTE_S = 3600, 60


COUNTED_TO = 1000  # a place in line, and no further: who is so far behind need not know how far
COUNTED_FOR_S = 1.0  # how long a count of the line is good enough
AROUND_S = 2.0  # how long what is known of workers, clock and pace is good enough
SILENT_S = 12.0  # a worker says every 5 s that it lives


class Why(NamedTuple):
    """Why a job waits: a word for programs, a sentence for those who run Intray, and the place in line (0: it is in none).

    Pages have words of their own for each `code`; see `jobs.story`.
    """

    code: str
    text: str
    place: int = 0
    until: float | None = None  # when a pause ends by itself
    said: str = ""  # the reason of a pause
    seconds: float | None = None  # until it is its turn, at the pace of the last hour


def waiting_reason(session: Session, job: Job) -> str | None:
    """Why the job waits, in a sentence or two; None for a job that runs or is over."""
    found = why(session, job)
    return found.text if found else None


def why(session: Session, job: Job) -> Why | None:
    """The same as `Why`."""
    if job.status == "scheduled":
        return _scheduled(session, job)
    if job.status == "started":
        return _silent(session, job)
    return _queued(session, job) if job.status == "queued" else None


def _silent(session: Session, job: Job) -> Why | None:
    """Nothing holds a running job up, but for a worker that seems to be lost."""
    beat = (Job.id == job.id, Job.status == "started", Job.heartbeat_at < now() - SILENT_S)
    silent = session.scalar(select(now() - Job.heartbeat_at).where(*beat))
    if silent is None:
        return None
    if lease.is_ticking(session):
        after = f"After {lease.LOST_AFTER_S:.0f} s the job returns to its queue and another worker runs it."
    else:
        after = "No clock is running that could return the job to its queue."
    return Why("worker_lost", f"Its worker has not reported for {silent:.0f} s. {after}")


def _scheduled(session: Session, job: Job | JobRecord) -> Why:
    found = _until_due(session, job)
    pause = pauses.of(job.queue, job.type, pauses.known())
    if pause is None or (pause.until is not None and pause.until <= (job.run_at or 0)):
        return found
    return found._replace(text=f"{found.text} It is also paused: {pause.reason.rstrip('.')}.")


def _until_due(session: Session, job: Job | JobRecord) -> Why:
    at = _clock_time(job.run_at or 0)
    if not lease.is_ticking(session):
        return Why("no_clock", f"Due at {at}, but no clock is running to start it.")
    if job.snooze_reason:
        return Why("parked", f"Snoozed until {at}: {job.snooze_reason}")
    if job.error_message:
        return Why("retry", f"Attempt {job.attempt} of {job.max_attempts} failed. Next attempt at {at}.")
    return Why("delayed", f"Starts at {at}.")


def _clock_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def _queued(session: Session, job: Job) -> Why:
    return _why_none_takes_it(job) or _in_line(job, _place(session, job))


def _why_none_takes_it(job: Job | JobRecord) -> Why | None:
    if pause := pauses.of(job.queue, job.type, pauses.known()):
        until = f" Resumes at {_clock_time(pause.until)}." if pause.until else ""
        return Why("paused", f"Paused: {pause.reason.rstrip('.')}.{until}", until=pause.until, said=pause.reason)
    listened = _around().listened
    if listened is None:
        return Why("redis_away", "The queue server (Redis) is not responding. The job is saved and starts when Redis is back.")
    if job.rq_queue not in listened:
        return Why("no_worker", f"No worker is running for {job.rq_queue}. The job starts automatically when one is.")
    return None


def _in_line(job: Job | JobRecord, place: int) -> Why:
    around = _around()
    seconds = place / around.pace if around.pace and place <= COUNTED_TO else None
    said = [
        "A worker stopped while running it, so it starts again." if job.interruptions else "",
        "All workers are busy." if job.rq_queue in (around.busy or ()) else "",
        _place_words(place, seconds),
        "" if around.is_ticking else "No clock is running, so if its message in Redis is lost, it is not sent again.",
    ]
    return Why("in_line", " ".join(filter(None, said)), place, seconds=seconds)


def _place_words(place: int, seconds: float | None) -> str:
    if place > COUNTED_TO:
        return f"{COUNTED_TO:,} or more jobs are ahead of it."
    words = "It is next in the queue" if place == 1 else f"It is number {place} in the queue"
    return f"{words}." if seconds is None else f"{words}; it should start in {_about(seconds)}, judging by the last hour."


def _about(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    if minutes <= 1:
        return "less than a minute"
    return f"about {minutes} minutes" if minutes < 120 else f"about {minutes / 60:.0f} hours"


def _place(session: Session, job: Job) -> int:
    """The job's place in line: more urgent ones and older ones of its own urgency come first."""
    older = (Job.priority == job.priority) & (Job.queued_at < (job.queued_at or 0))
    ahead = select(literal(1)).select_from(Job).where(Job.status == "queued", or_(Job.priority.in_(_more_urgent(job.priority)), older))
    return 1 + (session.scalar(select(func.count()).select_from(ahead.limit(COUNTED_TO).subquery())) or 0)


def _more_urgent(priority: str) -> tuple[str, ...]:
    return rq_queues.PRIORITIES[: rq_queues.PRIORITIES.index(priority)]


# ---- new jobs


def reasons_of_new(jobs: Sequence[Job | JobRecord]) -> list[str | None]:
    """Why jobs wait that were accepted just now, one answer for each. They are the last in line, so nobody counts for them."""
    queued = [job for job in jobs if job.status == "queued"]
    places = dict(zip((job.id for job in queued), line().join([job.priority for job in queued]), strict=True))
    return [_of_new(job, places) for job in jobs]


def _of_new(job: Job | JobRecord, places: dict[str, int]) -> str | None:
    if job.id in places:
        return (_why_none_takes_it(job) or _in_line(job, places[job.id])).text
    with read_session() as session:
        return _scheduled(session, job).text


class QueuePosition:
    """How many wait, by priority, as far as it is known here: counted once a second, and those that join meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()
        self._counted_at = -math.inf

    def join(self, priorities: Sequence[str]) -> list[int]:
        """The place of each, in this order. Their rows are there already."""
        if time.monotonic() - self._counted_at > COUNTED_FOR_S:
            self._count(Counter(priorities))
        with self._lock:
            return [self._place(priority) for priority in priorities]

    def _count(self, joining: Counter[str]) -> None:
        self._counted_at = time.monotonic()  # now, and the others do not count too
        with read_connection() as connection:
            found = connection.execute(select(Job.priority, func.count()).where(Job.status == "queued").group_by(Job.priority))
            counted = Counter({row[0]: row[1] for row in found})
        with self._lock:
            self._numbers = counted - joining

    def _place(self, priority: str) -> int:
        self._numbers[priority] += 1
        return self._numbers[priority] + sum(self._numbers[one] for one in _more_urgent(priority))


@cache
def line() -> QueuePosition:
    """The line as this process knows it."""
    return QueuePosition()


# ---- what is around


class Around(NamedTuple):
    """What decides over all waiting jobs alike: the queues that are listened to (None while Redis is away), those of them whose
    workers are all busy, whether a clock leads, and how many jobs ended a second (None where that cannot be said).
    """

    listened: set[str] | None
    busy: set[str] | None
    is_ticking: bool
    pace: float | None


_asking = threading.Lock()  # one thread asks, and the others wait for its answer


def _around() -> Around:
    with _asking:
        return around_in(int(time.monotonic() / AROUND_S))


@lru_cache(maxsize=1)
def around_in(period: int) -> Around:
    """As it was in this period of AROUND_S seconds: submissions do not ask for it each."""
    with read_session() as session:
        return Around(*_workers(), lease.is_ticking(session), pace(session))


def _workers() -> tuple[set[str] | None, set[str] | None]:
    if rq_queues.cooldown.is_active:
        return None, None
    try:
        return rq_queues.listened(), workers.busy_queues()
    except RedisError:
        rq_queues.cooldown.start()
        return None, None


class TypicalDuration(NamedTuple):
    """Seconds from the start of the attempt that succeeded to its end: half take at most `half`, nine of ten at most `most`."""

    half: float
    most: float


def typical_duration(session: Session, type_name: str) -> TypicalDuration | None:
    """None where too few were done to tell."""
    done = select(Job.ended_at - Job.started_at).where(Job.status == "finished", Job.type == type_name)
    took = [max(seconds, 0.0) for seconds in session.scalars(done.order_by(Job.ended_at.desc()).limit(LOOKED_AT)) if seconds is not None]
    if len(took) < FEWEST:
        return None
    return TypicalDuration(statistics.median(took), statistics.quantiles(took, n=10, method="inclusive")[-1])


def pace(session: Session) -> float | None:
    """How many jobs ended a second in the last hour, by its samples: over the minutes in which some did. None where none did."""
    ended = Sample.finished + Sample.failed
    sums = select(func.sum(ended), func.count(Sample.at.distinct())).where(Sample.at > now() - HOUR_S, ended > 0)
    jobs, minutes = session.execute(sums).one()
    return int(jobs) / (minutes * MINUTE_S) if minutes else None
