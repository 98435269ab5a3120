"""The inline runner (`QUEUE_MODE=inline`): jobs run in threads of the web process, with a clock thread and without Redis.

For a laptop or a small host. A thread cannot be killed, so time limits stop Python code but not C code.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import structlog

from monolith.config import settings
from monolith.db.away import DatabaseAway, outage
from monolith.runner.ledger import lifecycle
from monolith.runner.queue import rq_queues
from monolith.runner.queue.rq_queues import Pushed
from monolith.runner.scheduler import clock
from monolith.runner.worker import execute

STOPPING_S = 10.0  # how long running jobs may continue when the process stops; gunicorn allows 20
log = structlog.get_logger()


class WaitingJob(NamedTuple):
    """A job that waits."""

    job_id: str
    queue: str
    owner_id: int

    @property
    def priority(self) -> str:
        return self.queue.rpartition(".")[2]


class Waiting:
    """The waiting jobs of one priority, served by shares: the owners take turns, as in `prefork.redis_script`."""

    def __init__(self) -> None:
        self._of_owner: dict[int, deque[WaitingJob]] = {}
        self._next_turns: dict[int, int] = {}
        self._turn = 0

    def add(self, message: WaitingJob) -> None:
        self._of_owner.setdefault(message.owner_id, deque()).append(message)

    def take(self) -> WaitingJob | None:
        """The next job; None when none waits."""
        if not self._of_owner:
            self._next_turns.clear()
            return None
        owner_id = min(self._of_owner, key=lambda one: self._next_turns.get(one, 0))
        self._turn = max(self._turn, self._next_turns.get(owner_id, 0))
        self._next_turns[owner_id] = self._turn + 1
        messages = self._of_owner[owner_id]
        message = messages.popleft()
        if not messages:
            del self._of_owner[owner_id]
        return message

    def return_turn(self, owner_id: int) -> None:
        """The job did not run: its owner gets the turn back."""
        if owner_id in self._next_turns:
            self._next_turns[owner_id] -= 1

    def ids(self, queue: str) -> set[str]:
        return {one.job_id for messages in self._of_owner.values() for one in messages if one.queue == queue}


class ThreadPool:
    """`WORKER_CONCURRENCY` threads and queues of job ids, which replace Redis."""

    def __init__(self) -> None:
        from monolith.runner.worker import ledger_worker  # the worker with all it loads, in a web process only where jobs run inline

        self._hooks = ledger_worker.LedgerHooks(execute.worker_name())
        self._waiting = {priority: Waiting() for priority in rq_queues.PRIORITIES}
        self._changed = threading.Condition()  # also guards `_waiting`
        self._held: set[str] = set()
        self._stopping = threading.Event()
        works = [threading.Thread(target=self._work, daemon=True) for _ in range(settings().worker_concurrency)]
        ticks = threading.Thread(target=clock.run, args=(self._stopping.is_set, self._stopping.wait), daemon=True)
        for thread in (*works, ticks):
            thread.start()

    def push(self, jobs: Iterable[Pushed]) -> None:
        """Add the jobs to the queues."""
        with self._changed:
            for job in jobs:
                message = WaitingJob(job.id, job.rq_queue, job.owner_id)
                self._waiting[message.priority].add(message)
            self._changed.notify_all()

    def waiting_ids(self, queue: str) -> set[str]:
        """The ids waiting in this RQ queue."""
        with self._changed:
            return {job_id for waiting in self._waiting.values() for job_id in waiting.ids(queue)}

    def stop(self) -> None:
        """Take no more jobs, wait for running ones, and return those that do not end in time to their queues."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        give_up_at = time.monotonic() + min(STOPPING_S, settings().shutdown_grace)
        while self._held and time.monotonic() < give_up_at:
            time.sleep(0.05)
        self._hooks.interrupted(lifecycle.claims_of(execute.worker_name(), list(self._held)))

    def _work(self) -> None:
        while message := self._next():
            self._held.add(message.job_id)
            try:
                has_run = execute.run(message.job_id)
            except DatabaseAway as error:
                outage.began(error)
            except Exception:  # the clock recovers the job: it stays queued, or its heartbeat ends
                log.exception("job_not_run", job_id=message.job_id)
            else:
                if not has_run:
                    with self._changed:
                        self._waiting[message.priority].return_turn(message.owner_id)
            finally:
                self._held.discard(message.job_id)

    def _next(self) -> WaitingJob | None:
        """Wait for the next job. None when the process stops."""
        with self._changed:
            while not self._stopping.is_set():
                if message := next(filter(None, (waiting.take() for waiting in self._waiting.values())), None):
                    return message
                self._changed.wait()
            return None


def start() -> None:
    """Start the threads in this process if `QUEUE_MODE` is `inline`."""
    if settings().queue_mode == "inline":
        rq_queues.use_pool(ThreadPool())
        log.info("running_inline", process=execute.worker_name(), threads=settings().worker_concurrency)


def stop() -> None:
    """Stop the threads that `start` has started, if any."""
    if isinstance(pool := rq_queues.pool(), ThreadPool):
        pool.stop()
