"""Recovery: interrupts running jobs whose worker is lost, and pushes queued jobs whose message is missing in Redis."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy import ColumnElement, ScalarSelect, func, or_, select, tuple_

from monolith.db.away import DatabaseAway, is_locked
from monolith.db.engine import now, read_now, read_session
from monolith.db.models import Job
from monolith.runner.ledger import lifecycle, pauses
from monolith.runner.ledger.counts import WAITING
from monolith.runner.ledger.lifecycle import LOST_AFTER_S
from monolith.runner.ledger.on_failure import ConfinedCalls
from monolith.runner.monitoring import workers
from monolith.runner.prefork import redis_keys
from monolith.runner.queue import rq_queues

IN_FLIGHT_S = 2.0  # a job queued more recently is not missing: its message is on its way
HELD_S = 600.0  # for longer, no worker keeps a job without reaching the database
BATCH = 1000
PAGE = 10_000
MAX_COOLDOWN_S = 30.0
COOLDOWN_FACTOR = (
    100  # a full check of a queue is followed by a cooldown of this many times its duration, so it costs at most 1 % of the time
)

_now = select(now()).scalar_subquery()  # evaluated once: an index cannot be searched by a volatile expression
_on_failure = ConfinedCalls()
log = structlog.get_logger()


def interrupt_lost() -> Iterator[None]:
    """Interrupt the running jobs whose worker has not reported for LOST_AFTER_S; they return to their queues.

    A worker that cannot reach the database says in Redis that it lives; then its jobs stay its for HELD_S.
    """
    lost = lifecycle.lost(BATCH)
    held = workers.claims_held_by(one.worker for one in lost if one.overdue_s < HELD_S)
    for one in lost:
        if (one.job_id, one.claim) not in held:
            _interrupt(one.job_id, one.claim, one.worker)
        yield
    while lifecycle.give_notice(BATCH) == BATCH:
        yield


def _interrupt(job_id: str, claims: int, worker: str) -> None:
    try:
        why = f"worker {worker} stopped reporting for {LOST_AFTER_S:g} s"
        # What waits for `on_failure` is lost the next time too.
        is_interrupted = lifecycle.interrupt(job_id, claims, why, only_lost=True, consequences=_on_failure.outcome)
    except DatabaseAway as error:
        if not is_locked(error):
            raise
        log.warning("row_locked", job_id=job_id, error=str(error.orig))  # the other jobs do not wait for it
    else:
        if is_interrupted:
            log.warning("worker_lost", job_id=job_id, worker=worker)


@dataclass(frozen=True)
class Cooldown:
    """A queue that was checked: not checked again before `until`, unless more than BATCH further messages are missing."""

    until: float
    missing: int


class MissingMessages:
    """Pushes queued jobs whose message is not in Redis.

    First only counts are compared. A queue with too few messages is checked in full, which reads all its ids. Messages that
    workers have taken but not claimed yet make a busy queue differ all the time; hence the cooldown. It is skipped after Redis
    was restarted or emptied, and when a pause ends.
    """

    def __init__(self) -> None:
        self._cooldowns: dict[str, Cooldown] = {}
        self._incarnation = ""
        self._paused: set[str] = set()

    def push(self) -> Iterator[None]:
        """Push all missing messages, a batch at a step. Raises RedisError."""
        incarnation = rq_queues.incarnation()
        if incarnation != self._incarnation:
            self._incarnation, self._cooldowns = incarnation, {}
        for name, missing in _missing_messages().items():
            cooldown = self._cooldowns.get(name)
            if cooldown is None or time.monotonic() >= cooldown.until or missing > cooldown.missing + BATCH:
                yield from self._push_missing(name, missing)

    def _push_missing(self, name: str, missing: int) -> Iterator[None]:
        began, pushed = time.monotonic(), 0
        moment = read_now()
        present: set[str] = set()
        for ids in rq_queues.waiting_pages(name):
            present.update(ids)
            yield
        for page in _pages(name, moment):
            absent = [job_id for job_id in page if job_id not in present]
            for start in range(0, len(absent), BATCH):
                pushed += _push_again(absent[start : start + BATCH], moment)
                yield
            yield
        if pushed:
            log.warning("messages_pushed_again", queue=name, jobs=pushed)
        ended = time.monotonic()
        cooldown = min(COOLDOWN_FACTOR * (ended - began), MAX_COOLDOWN_S)
        self._cooldowns[name] = Cooldown(ended + cooldown, max(0, missing - pushed))

    def resume(self) -> Iterator[None]:
        """Push the jobs that waited for a pause that has ended. Raises RedisError; then the next run tries again."""
        pauses.forget_ended()
        with read_session() as session:
            paused = {one.scope for one in pauses.active(session)}
        if not self._paused <= paused:
            self._cooldowns = {}
            yield from self.push()
        self._paused = paused


def _missing_messages() -> dict[str, int]:
    """The number of missing messages of each queue that has fewer messages than queued jobs. Reads one index only."""
    waiting = select(Job.rq_queue, func.count()).where(*WAITING, _was_queued_before(_now))
    with read_session() as session:
        found = session.execute(waiting.group_by(Job.queue, Job.priority)).all()
    rows = Counter(dict(found))
    lengths = rq_queues.lengths(sorted({*rows, *rq_queues.names()}))
    rq_queues.cooldown.end()
    return {name: rows[name] - messages for name, messages in lengths.items() if messages < rows[name]}


def _was_queued_before(moment: float | ScalarSelect[float]) -> ColumnElement[bool]:
    """Whether a job's message had time to arrive by then. A time in the future was set before the database's clock was set back."""
    return or_(Job.queued_at < moment - IN_FLIGHT_S, Job.queued_at > _now)


def _pages(name: str, moment: float) -> Iterator[list[str]]:
    """Pages of the ids of jobs whose messages should have arrived in this RQ queue by that moment, oldest first."""
    queue, _, priority = name.rpartition(".")
    guard = (*WAITING, Job.queue == queue, Job.priority == priority, _was_queued_before(moment))
    page = select(Job.queued_at, Job.id).where(*guard).order_by(Job.queued_at, Job.id).limit(PAGE)
    last: tuple[float | None, str] = (0.0, "")
    while True:
        with read_session() as session:
            rows = session.execute(page.where(tuple_(Job.queued_at, Job.id) > last)).all()
        yield [job_id for _, job_id in rows]
        if len(rows) < PAGE:
            return
        last = (rows[-1].queued_at, rows[-1].id)


def _push_again(job_ids: list[str], moment: float) -> int:
    """Push those that are still queued and return their number. A job that was just claimed was not missing."""
    with read_session() as session:
        still = (Job.id.in_(job_ids), *WAITING, _was_queued_before(moment))
        jobs = session.scalars(select(Job).where(*still).order_by(Job.queued_at)).all()
    if not rq_queues.push(jobs):
        if not rq_queues.cooldown.is_active and not rq_queues.is_inline():  # Redis answers: a key holds another type
            redis_keys.set_aside(rq_queues.connection())
        raise RedisAway("Redis stopped responding while messages were being resent")
    return len(jobs)
