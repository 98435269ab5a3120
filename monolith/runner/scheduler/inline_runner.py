"""The inline runner (`QUEUE_MODE=inline`): jobs run in threads of the web process, with a clock thread and without Redis.

For a laptop or a small host. A thread cannot be killed, so time limits stop Python code but not C code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from itertools import count
from queue import PriorityQueue

import structlog

from monolith.config import settings
from monolith.runner.ledger import lifecycle
from monolith.runner.queue import rq_queues
from monolith.runner.queue.rq_queues import Pushed
from monolith.runner.scheduler import clock
from monolith.runner.worker import execute

STOPPING_S = 10.0  # how long running jobs may continue when the process stops; gunicorn allows 20
log = structlog.get_logger()


class ThreadPool:
    """`WORKER_CONCURRENCY` threads and a priority queue of job ids, which replaces Redis."""

    def __init__(self) -> None:
        from monolith.runner.worker import ledger_worker  # the worker with all it loads, in a web process only where jobs run inline

        self._hooks = ledger_worker.LedgerHooks(execute.worker_name())
        self._waiting: PriorityQueue[tuple[int, int, str, str]] = PriorityQueue()
        self._numbers = count()
        self._held: set[str] = set()
        self._stopping = threading.Event()
        works = [threading.Thread(target=self._work, daemon=True) for _ in range(settings().worker_concurrency)]
        ticks = threading.Thread(target=clock.run, args=(self._stopping.is_set, self._stopping.wait), daemon=True)
        for thread in (*works, ticks):
            thread.start()

    def push(self, jobs: Iterable[Pushed]) -> None:
        """Add the ids to the queue."""
        for job in jobs:
            self._waiting.put((rq_queues.PRIORITIES.index(job.rq_queue.rpartition(".")[2]), next(self._numbers), job.rq_queue, job.id))

    def waiting_ids(self, queue: str) -> set[str]:
        """The ids waiting in this RQ queue."""
        return {job_id for _, _, name, job_id in list(self._waiting.queue) if name == queue}

    def stop(self) -> None:
        """Take no more jobs, wait for running ones, and return those that do not end in time to their queues."""
        self._stopping.set()
        give_up_at = time.monotonic() + min(STOPPING_S, settings().shutdown_grace)
        while self._held and time.monotonic() < give_up_at:
            time.sleep(0.05)
        self._hooks.interrupted(lifecycle.claims_of(execute.worker_name(), list(self._held)))

    def _work(self) -> None:
        while not self._stopping.is_set():
            job_id = self._waiting.get()[-1]
            if self._stopping.is_set():
                return
            self._held.add(job_id)
            try:
                execute.run(job_id)
            except Exception:  # the clock recovers the job: it stays queued, or its heartbeat ends
                log.exception("job_not_run", job_id=job_id)
            finally:
                self._held.discard(job_id)


def start() -> None:
    """Start the threads in this process if `QUEUE_MODE` is `inline`."""
    if settings().queue_mode == "inline":
        rq_queues.use_pool(ThreadPool())
        log.info("running_inline", process=execute.worker_name(), threads=settings().worker_concurrency)


def stop() -> None:
    """Stop the threads that `start` has started, if any."""
    if isinstance(pool := rq_queues.pool(), ThreadPool):
        pool.stop()
