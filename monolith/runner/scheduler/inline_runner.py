"""Running jobs in threads of the web process, with a clock beside them and no Redis at all (`QUEUE_MODE=inline`).

For a laptop or a small host. A thread cannot be killed: a time limit holds against Python code, not against code in C.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from itertools import count
from queue import PriorityQueue

import structlog

from monolith.config import settings
from monolith.runner.queue import rq_queues
from monolith.runner.queue.rq_queues import Pushed
from monolith.runner.scheduler import clock
from monolith.runner.worker import execute, ledger_worker

LEAVING_S = 10.0  # the most that running jobs get when the process ends; gunicorn gives it 20
log = structlog.get_logger()


class ThreadPool:
    """`WORKER_CONCURRENCY` threads that take the ids of jobs, the most urgent first; it stands where Redis would."""

    def __init__(self) -> None:
        self._waiting: PriorityQueue[tuple[int, int, str, str]] = PriorityQueue()
        self._numbers = count()
        self._held: set[str] = set()
        self._leaving = threading.Event()
        works = [threading.Thread(target=self._work, daemon=True) for _ in range(settings().worker_concurrency)]
        ticks = threading.Thread(target=clock.run, args=(self._leaving.is_set, self._leaving.wait), daemon=True)
        for thread in (*works, ticks):
            thread.start()

    def push(self, jobs: Iterable[Pushed]) -> None:
        for job in jobs:
            self._waiting.put((rq_queues.PRIORITIES.index(job.rq_queue.rpartition(".")[2]), next(self._numbers), job.rq_queue, job.id))

    def waiting_ids(self, queue: str) -> set[str]:
        return {job_id for _, _, name, job_id in list(self._waiting.queue) if name == queue}

    def leave(self) -> None:
        """Take nothing more, let what runs end, and give back what does not end in time."""
        self._leaving.set()
        give_up_at = time.monotonic() + min(LEAVING_S, settings().shutdown_grace)
        while self._held and time.monotonic() < give_up_at:
            time.sleep(0.05)
        ledger_worker.LedgerHooks(execute.worker_name()).interrupted(list(self._held))

    def _work(self) -> None:
        while not self._leaving.is_set():
            job_id = self._waiting.get()[-1]
            if self._leaving.is_set():
                return
            self._held.add(job_id)
            try:
                execute.run(job_id)
            except Exception:  # the row stays queued or falls silent: the clock sees to it
                log.exception("job_not_run", job_id=job_id)
            finally:
                self._held.discard(job_id)


def start() -> None:
    """Make this process run jobs, where `QUEUE_MODE` asks for it."""
    if settings().queue_mode == "inline":
        rq_queues.use_pool(ThreadPool())
        log.info("running_inline", process=execute.worker_name(), threads=settings().worker_concurrency)


def leave() -> None:
    """End what `start` began."""
    if isinstance(pool := rq_queues.pool(), ThreadPool):
        pool.leave()
