"""Why a job is not running: one answer from the ledger and the queues, for pages and the API."""

from __future__ import annotations

import itertools
import math
import statistics
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import NamedTuple

from redis import RedisError
from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session

from monolith.db.engine import now, read_connection, read_session
from monolith.db.models import Job, Sample
from monolith.runner.ledger import clock_lease, lifecycle, limits, pauses
from monolith.runner.ledger.guarded_update import JobRecord
from monolith.runner.monitoring import workers
from monolith.runner.prefork import redis_keys
from monolith.runner.queue import rq_queues

SAMPLED = 50  # newest finished jobs of a type; older ones may no longer be typical
MIN_SAMPLES = 3  # with fewer, no typical duration is given
HOUR_S, MINUTE_S = 3600, 60
COUNTED_TO = 1000  # a position in the queue is counted up to this number
COUNTED_FOR_S = 1.0  # how long a count of queued jobs is reused
CONDITIONS_S = 2.0  # how long the state of workers, clock and pace is reused
SILENT_S = 12.0  # a worker reports every 5 s


class WaitingReason(NamedTuple):
    """Why a job waits: a code for programs, a sentence for the API, and the position in the queue (0: not queued).

    Job pages have their own sentence for each `code`; see `monolith.jobs.job_status_text`.
    """

    code: str
    text: str
    place: int = 0
    until: float | None = None  # when a pause ends automatically, or a rate has room; in seconds since 1970
    pause_reason: str = ""  # the reason of a pause
    seconds: float | None = None  # until its turn, at the pace of the last hour


def waiting_reason(session: Session, job: Job) -> str | None:
    """Why the job waits, in a sentence or two; None for a job that is running or over."""
    found = explain(session, job)
    return found.text if found else None


def explain(session: Session, job: Job) -> WaitingReason | None:
    """Why the job waits, as a `WaitingReason`; None for a job that is running or over."""
    if job.status == "scheduled":
        return _scheduled(session, job)
    if job.status == "started":
        return _silent(session, job)
    return _no_start(job) or _in_line(job, _place(session, job)) if job.status == "queued" else None


def _silent(session: Session, job: Job) -> WaitingReason | None:
    """The reason if the job's worker seems to be lost; otherwise a running job does not wait."""
    beat = (Job.id == job.id, Job.status == "started", Job.heartbeat_at < now() - SILENT_S)
    silent = session.scalar(select(now() - Job.heartbeat_at).where(*beat))
    if silent is None:
        return None
    if clock_lease.is_ticking(session):
        after = f"After {lifecycle.LOST_AFTER_S:.0f} s the job returns to its queue and another worker runs it."
    else:
        after = "No clock is running that could return the job to its queue."
    return WaitingReason("worker_lost", f"Its worker has not reported for {silent:.0f} s. {after}")


def _scheduled(session: Session, job: Job | JobRecord) -> WaitingReason:
    found = _held(session, job, job.held_by) if job.held_by else _until_due(session, job)
    pause = pauses.of(job.queue, job.type, pauses.known())
    if pause is None or (pause.until is not None and pause.until <= (found.until or job.run_at or 0)):
        return found
    return found._replace(text=f"{found.text} It is also paused: {pause.reason.rstrip('.')}.")


def _held(session: Session, job: Job | JobRecord, key: str) -> WaitingReason:
    """A job that a limit or a rate holds. The end of another job makes room for a limit; for a rate, the clock looks for it."""
    reason = job.snooze_reason or ""
    if not limits.is_rate(key):
        return WaitingReason("limit", reason)
    if not clock_lease.is_ticking(session):
        return WaitingReason("no_clock", f"{reason} No clock is running to start it.")
    at = limits.starts_at(session, job)
    return WaitingReason("rate", f"{reason} It starts at about {_clock_time(at)}." if at else reason, until=at)


def _until_due(session: Session, job: Job | JobRecord) -> WaitingReason:
    at = _clock_time(job.run_at or 0)
    if not clock_lease.is_ticking(session):
        return WaitingReason("no_clock", f"Due at {at}, but no clock is running to start it.")
    if job.snooze_reason:
        return WaitingReason("snoozed", f"Snoozed until {at}: {job.snooze_reason}")
    if job.error_message:
        return WaitingReason("retry", f"Attempt {job.attempt} of {job.max_attempts} failed. Next attempt at {at}.")
    return WaitingReason("delayed", f"Starts at {at}.")


def _clock_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def _no_start(job: Job | JobRecord) -> WaitingReason | None:
    if pause := pauses.of(job.queue, job.type, pauses.known()):
        until = f" Resumes at {_clock_time(pause.until)}." if pause.until else ""
        return WaitingReason("paused", f"Paused: {pause.reason.rstrip('.')}.{until}", until=pause.until, pause_reason=pause.reason)
    listened = _conditions().listened
    if listened is None:
        return WaitingReason("redis_away", "The queue server (Redis) is not responding. The job is saved and starts when Redis is back.")
    if job.rq_queue not in listened:
        return WaitingReason("no_worker", f"No worker is running for {job.rq_queue}. The job starts automatically when one is.")
    return None


def _in_line(job: Job | JobRecord, place: int) -> WaitingReason:
    conditions = _conditions()
    seconds = place / conditions.pace if conditions.pace and place <= COUNTED_TO else None
    sentences = [
        "A worker stopped while running it, so it starts again." if job.interruptions else "",
        "All workers are busy." if job.rq_queue in (conditions.busy or ()) else "",
        _place_words(place, seconds),
        "" if conditions.is_ticking else "No clock is running, so if its message in Redis is lost, it is not sent again.",
    ]
    return WaitingReason("in_line", " ".join(filter(None, sentences)), place, seconds=seconds)


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
    """The job's position in the queue: behind jobs of a higher priority, its owner's older ones, and as many of each other owner."""
    older = (Job.status == "queued", Job.priority == job.priority, Job.owner_id == job.owner_id, Job.queued_at < (job.queued_at or 0))
    own = session.scalar(select(func.count()).select_from(select(literal(1)).where(*older).limit(COUNTED_TO).subquery())) or 0
    return queue_position().of(job, own)


def _higher_priorities(priority: str) -> tuple[str, ...]:
    return rq_queues.PRIORITIES[: rq_queues.PRIORITIES.index(priority)]


# ---- new jobs


def reasons_of_new(jobs: Sequence[Job | JobRecord]) -> list[str | None]:
    """Why jobs that were accepted just now wait: one answer for each. They are last in the queue, so no query counts for each."""
    queued = [job for job in jobs if job.status == "queued"]
    places = dict(zip((job.id for job in queued), queue_position().join(queued), strict=True))
    reasons: list[str | None] = []
    for job in jobs:
        if job.id in places:
            reason = _no_start(job) or _in_line(job, places[job.id])
        else:
            with read_session() as session:
                reason = _scheduled(session, job)
        reasons.append(reason.text)
    return reasons


class OwnersInLine:
    """How many jobs of one priority each owner has waiting."""

    def __init__(self, numbers: Mapping[int, int]) -> None:
        self._numbers = dict(numbers)
        self._ordered = sorted(numbers.values())
        self._sums = [0, *itertools.accumulate(self._ordered)]
        self._added: Counter[int] = Counter()  # since they were counted

    def add(self, owner_id: int) -> int:
        """One more job of this owner; returns how many of theirs are ahead of it."""
        self._added[owner_id] += 1
        return self._numbers.get(owner_id, 0) + self._added[owner_id] - 1

    def ahead(self, owner_id: int, turns: int) -> int:
        """How many jobs of the other owners run within so many turns."""
        few = bisect_right(self._ordered, turns)
        counted = self._sums[few] + turns * (len(self._ordered) - few) - min(self._numbers.get(owner_id, 0), turns)
        return counted + sum(self._more(one, turns) for one in self._added if one != owner_id)

    def _more(self, owner_id: int, turns: int) -> int:
        counted = self._numbers.get(owner_id, 0)
        return min(counted + self._added[owner_id], turns) - min(counted, turns)

    def total(self) -> int:
        return self._sums[-1] + self._added.total()


class QueuePosition:
    """The number of queued jobs by priority and owner: counted once a second, plus those that this process has added since."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_line = {priority: OwnersInLine({}) for priority in rq_queues.PRIORITIES}
        self._counted_at = -math.inf

    def join(self, jobs: Sequence[Job | JobRecord]) -> list[int]:
        """The positions of these new jobs, in this order. Their rows are committed already."""
        self._refresh(Counter((job.priority, job.owner_id) for job in jobs))
        with self._lock:
            return [self._position(job, self._in_line[job.priority].add(job.owner_id)) for job in jobs]

    def of(self, job: Job, own: int) -> int:
        """The position of a job with so many older jobs of its owner ahead."""
        self._refresh(Counter())
        with self._lock:
            return self._position(job, own)

    def _refresh(self, joining: Counter[tuple[str, int]]) -> None:
        if time.monotonic() - self._counted_at <= COUNTED_FOR_S:
            return
        self._counted_at = time.monotonic()  # set first, so that other threads do not count too
        queued = select(Job.priority, Job.owner_id, func.count()).where(Job.status == "queued").group_by(Job.priority, Job.owner_id)
        with read_connection() as connection:
            counted = Counter({(priority, owner_id): number for priority, owner_id, number in connection.execute(queued)})
        numbers: dict[str, dict[int, int]] = {priority: {} for priority in rq_queues.PRIORITIES}
        for (priority, owner_id), number in (counted - joining).items():
            numbers[priority][owner_id] = number
        in_line = {priority: OwnersInLine(of_owner) for priority, of_owner in numbers.items()}
        with self._lock:
            self._in_line = in_line

    def _position(self, job: Job | JobRecord, own: int) -> int:
        higher = sum(self._in_line[priority].total() for priority in _higher_priorities(job.priority))
        return 1 + higher + own + self._in_line[job.priority].ahead(job.owner_id, own)


@cache
def queue_position() -> QueuePosition:
    """This process's only `QueuePosition`."""
    return QueuePosition()


# ---- conditions that all waiting jobs share


class Conditions(NamedTuple):
    """Conditions that all waiting jobs share.

    `listened`: the queues that have a worker; `busy`: those whose workers are all busy (both None if Redis does not respond);
    `is_ticking`: whether a clock is running; `pace`: jobs ended per second, None if unknown.
    """

    listened: set[str] | None
    busy: set[str] | None
    is_ticking: bool
    pace: float | None


_reading = threading.Lock()  # one thread reads, and the others wait for its result


def _conditions() -> Conditions:
    with _reading:
        return conditions_in(int(time.monotonic() / CONDITIONS_S))


@lru_cache(maxsize=1)
def conditions_in(period: int) -> Conditions:
    """The conditions in this period of CONDITIONS_S seconds, read once for all submissions in it."""
    with read_session() as session:
        return Conditions(*_workers(), clock_lease.is_ticking(session), pace(session))


def _workers() -> tuple[set[str] | None, set[str] | None]:
    if rq_queues.cooldown.is_active:
        return None, None
    try:
        return rq_queues.listened(), workers.busy_queues()
    except RedisError as error:
        if not redis_keys.is_wrong_type(error):  # that is one key; the queues can be pushed to
            rq_queues.cooldown.start()
        return None, None


class TypicalDuration(NamedTuple):
    """The duration of the successful attempt of a job type's jobs, in seconds: median and 90th percentile."""

    median_s: float
    p90_s: float


def typical_duration(session: Session, type_name: str) -> TypicalDuration | None:
    """The typical duration of a job type; None if fewer than MIN_SAMPLES of its newest jobs are known."""
    done = select(Job.ended_at - Job.started_at).where(Job.status == "finished", Job.type == type_name)
    took = [max(seconds, 0.0) for seconds in session.scalars(done.order_by(Job.ended_at.desc()).limit(SAMPLED)) if seconds is not None]
    if len(took) < MIN_SAMPLES:
        return None
    return TypicalDuration(statistics.median(took), statistics.quantiles(took, n=10, method="inclusive")[-1])


def pace(session: Session) -> float | None:
    """Jobs ended per second in the last hour, over the minutes in which any ended, from samples. None if none ended."""
    ended = Sample.finished + Sample.failed
    sums = select(func.sum(ended), func.count(Sample.at.distinct())).where(Sample.at > now() - HOUR_S, ended > 0)
    jobs, minutes = session.execute(sums).one()
    return int(jobs) / (minutes * MINUTE_S) if minutes else None
