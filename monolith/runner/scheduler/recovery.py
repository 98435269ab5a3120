"""What the clock repairs: running jobs that lost their worker, waiting jobs that lost their message."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy import func, select, tuple_

from monolith.db.engine import now, read_now, read_session
from monolith.db.models import Job
from monolith.runner.ledger import lifecycle, pauses
from monolith.runner.ledger.counts import WAITING
from monolith.runner.ledger.lease import LOST_AFTER_S
from monolith.runner.queue import rq_queues

ARRIVING_S = 2.0  # a message that was pushed a moment ago is not missing
BATCH = 1000
PAGE = 10_000
LONGEST_REST_S = 30.0
REST = 100  # a close look at a queue is followed by so many times its duration of rest: it costs at most 1 % of the time

log = structlog.get_logger()


def interrupt_lost() -> Iterator[None]:
    """Give back the jobs whose worker has said nothing for LOST_AFTER_S."""
    silent = select(Job.id, Job.claims, Job.worker).where(Job.status == "started", Job.heartbeat_at < now() - LOST_AFTER_S).limit(BATCH)
    with read_session() as session:
        lost = session.execute(silent).all()
    for job_id, claims, worker in lost:
        log.warning("worker_lost", job_id=job_id, worker=worker)
        lifecycle.interrupt(job_id, claims, f"worker {worker} stopped reporting for {LOST_AFTER_S:g} s")
        yield


@dataclass(frozen=True)
class Rest:
    """A queue that was looked at: left alone until then, unless a whole batch more is missing than there was."""

    until: float
    missing: int


class MissingMessages:
    """Pushes queued jobs whose message is not in Redis.

    First only numbers are compared. A queue that lacks messages is looked at closely, which costs a read of all its ids.
    Workers that hold messages they have not claimed yet make a busy queue look like that all the time: hence the rest.
    A Redis that was started again or emptied since is looked at closely at once, and so is all when a pause is over.
    """

    def __init__(self) -> None:
        self._rests: dict[str, Rest] = {}
        self._incarnation = ""
        self._paused: set[str] = set()

    def push(self) -> Iterator[None]:
        """Raises RedisError when Redis is away."""
        incarnation = rq_queues.incarnation()
        if incarnation != self._incarnation:
            self._incarnation, self._rests = incarnation, {}
        for name, missing in _too_few().items():
            rest = self._rests.get(name)
            if rest is None or time.monotonic() >= rest.until or missing > rest.missing + BATCH:
                yield from self._look_closer(name, missing)

    def _look_closer(self, name: str, missing: int) -> Iterator[None]:
        began, pushed = time.monotonic(), 0
        before = read_now() - ARRIVING_S
        present: set[str] = set()
        for ids in rq_queues.waiting_pages(name):
            present.update(ids)
            yield
        for page in _pages(name, before):
            absent = [job_id for job_id in page if job_id not in present]
            for start in range(0, len(absent), BATCH):
                pushed += _push_again(absent[start : start + BATCH], before)
                yield
            yield
        if pushed:
            log.warning("messages_pushed_again", queue=name, jobs=pushed)
        ended = time.monotonic()
        rest = min(REST * (ended - began), LONGEST_REST_S)
        self._rests[name] = Rest(ended + rest, max(0, missing - pushed))

    def resume(self) -> Iterator[None]:
        """Push what waited for a pause that is over now. Raises RedisError when Redis is away: then it is tried again."""
        pauses.forget_ended()
        with read_session() as session:
            paused = {one.scope for one in pauses.active(session)}
        if not self._paused <= paused:
            self._rests = {}
            yield from self.push()
        self._paused = paused


def _too_few() -> dict[str, int]:
    """How many messages each queue lacks, where it does. Counting the rows reads one index only."""
    moment = select(now()).scalar_subquery()  # read once: an index cannot be searched by a clock that goes on
    waiting = select(Job.rq_queue, func.count()).where(*WAITING, Job.queued_at < moment - ARRIVING_S)
    with read_session() as session:
        found = session.execute(waiting.group_by(Job.queue, Job.priority)).all()
    rows = Counter(dict(found))
    lengths = rq_queues.lengths(sorted({*rows, *rq_queues.names()}))
    rq_queues.cooldown.end()
    return {name: rows[name] - messages for name, messages in lengths.items() if messages < rows[name]}


def _pages(name: str, before: float) -> Iterator[list[str]]:
    """The ids that wait in this queue since before that moment, the oldest first."""
    queue, _, priority = name.rpartition(".")
    guard = (*WAITING, Job.queue == queue, Job.priority == priority, Job.queued_at < before)
    page = select(Job.queued_at, Job.id).where(*guard).order_by(Job.queued_at, Job.id).limit(PAGE)
    last: tuple[float | None, str] = (0.0, "")
    while True:
        with read_session() as session:
            rows = session.execute(page.where(tuple_(Job.queued_at, Job.id) > last)).all()
        yield [job_id for _, job_id in rows]
        if len(rows) < PAGE:
            return
        last = (rows[-1].queued_at, rows[-1].id)


def _push_again(job_ids: list[str], before: float) -> int:
    """Push those that still wait: a worker may just have claimed one, which then was not missing. How many were pushed."""
    with read_session() as session:
        still = (Job.id.in_(job_ids), *WAITING, Job.queued_at < before)
        jobs = session.scalars(select(Job).where(*still).order_by(Job.queued_at)).all()
    if not rq_queues.push(jobs):
        raise RedisAway("Redis stopped responding while messages were being resent")
    return len(jobs)
