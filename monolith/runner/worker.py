"""The worker: RQ's own, with the mends that keep a job from being lost, run twice or left running.

A plain SIGTERM does not fail or lose the job, the parent holds the time limit itself, the job's whole process group ends
with it, and a Redis that lost everything knows its workers again. The hooks in `holding` tell the ledger.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from redis import RedisError
from redis.client import Pipeline
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.worker import Worker
from sqlalchemy.exc import OperationalError

from monolith.config import settings
from monolith.processes import dying_with, kill_marked
from monolith.runner import holding, queues, running

CHECK_S = 1  # how often the parent looks at the job it runs
HEARTBEAT_S = 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)
log = structlog.get_logger()


class LedgerWorker(Worker):
    """One job at a time, in a forked child; see `holding` for what it tells the ledger."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options["job_monitoring_interval"] = CHECK_S
        super().__init__(*args, **options)
        running.beats_itself = False
        self._drain_until: float | None = None
        self._is_waiting = False
        self._ended_because: str | None = None
        self._started_at = 0.0
        self._beat_at = 0.0
        self._was_held = False

    # ---- Redis

    max_connection_wait_time = 2.0  # seconds between attempts to reach a Redis that is away: jobs start soon after its return

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's own; and where Redis has forgotten us, we register again, or nobody would know that we listen."""
        with _redis_may_be_away():
            super().heartbeat(timeout, pipeline)
            if pipeline is None and not self.connection.hexists(self.key, "queues"):
                self.connection.delete(self.key)
                self.register_birth()

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        with _redis_may_be_away():
            super().set_state(state, pipeline)

    def check_for_suspension(self, burst: bool) -> None:
        with _redis_may_be_away():
            super().check_for_suspension(burst)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """RQ's own; a message lost in it is pushed again by the clock."""
        with _redis_may_be_away():
            super().execute_job(job, queue)

    # ---- signals

    def subscribe(self) -> None:
        """Start the thread that hears commands with our signals blocked, or two of them at once are lost in it."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().subscribe()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def request_stop(self, signum: int, frame: Any) -> None:
        """Take nothing more; give what runs SHUTDOWN_GRACE seconds. A second signal changes nothing."""
        self._stop_requested = True
        if self._drain_until is None:
            self._drain_until = time.monotonic() + settings().shutdown_grace
            log.info("worker_stops", grace_s=settings().shutdown_grace, job_id=self.get_current_job_id())
        if self._is_waiting:
            raise StopRequested

    request_force_stop = request_stop

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        """RQ's own; only while it waits may a signal end it at once."""
        self._is_waiting = True
        try:
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        finally:
            self._is_waiting = False

    # ---- the child

    def setup_work_horse_signals(self) -> None:
        """Hosts signal every process of a dyno: the child leaves it to the parent, whose death ends it."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        self._ended_because, self._was_held = None, False
        self._started_at = self._beat_at = time.monotonic()
        self._die_with_parent = dying_with(os.getpid(), signal.SIGKILL)
        running.phase[0] = running.WORKING
        super().fork_work_horse(job, queue)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        self._die_with_parent()
        super().main_work_horse(job, queue)

    # ---- the parent, while the child works

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Called every CHECK_S: hold the limits, tell the ledger that the job lives, then Redis."""
        elapsed = time.monotonic() - self._started_at
        is_working = running.phase[0] == running.WORKING
        if is_working and job.timeout and elapsed > float(job.timeout):
            self._end_child("timeout")
        elif self._drain_until is not None and time.monotonic() > self._drain_until:
            self._end_child("shutdown")
        elif time.monotonic() - self._beat_at >= HEARTBEAT_S:
            self._beat_at = time.monotonic()
            self._beat(job, execution)

    def _beat(self, job: Job, execution: Execution) -> None:
        try:
            is_held = job.id in holding.heartbeat(self.name, [job.id])
            if self._was_held and not is_held and running.phase[0] == running.WORKING:
                self._end_child("taken")
            self._was_held = is_held
        except OperationalError as error:
            log.warning("heartbeat_failed", job_id=job.id, error=str(error.orig))
        with _redis_may_be_away():
            if queues.is_reachable():  # a frozen Redis would keep us from the ledger and from our limits
                super().maintain_heartbeats(job, execution)

    def _end_child(self, why: str) -> None:
        log.warning("child_killed", why=why, pid=self.horse_pid)
        self._ended_because = why
        self.kill_horse()

    def handle_job_failure(self, job: Job, queue: Queue, *args: Any, **options: Any) -> None:
        """RQ's own, which forgets that its stop command was the reason."""
        if self._stopped_job_id == job.id:
            self._ended_because = "stopped"
        super().handle_job_failure(job, queue, *args, **options)

    def wait_for_horse(self) -> Any:
        """RQ's own, which asks Redis before it tells anybody how the child ended."""
        found = super().wait_for_horse()
        status = found[1]
        if status and os.WIFSIGNALED(status) and not self._ended_because:
            self._ended_because = f"its process got {signal.Signals(os.WTERMSIG(status)).name}"
        return found

    def monitor_work_horse(self, job: Job, queue: Queue, execution: Execution) -> None:
        """RQ's own; then whatever the job left behind ends, and the ledger hears how it went."""
        child = self.horse_pid
        with _redis_may_be_away():
            super().monitor_work_horse(job, queue, execution)
        self._end_group(child, job.id)
        try:
            self._tell_ledger(job.id)
        except OperationalError as error:  # the clock finds out by the silence
            log.error("database_away", error=str(error.orig))

    def _end_group(self, child: int, job_id: str) -> None:
        """Nothing that the job started outlives it: not its process group, nor what left the group but bears its mark."""
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if self._ended_because:
            kill_marked(f"RQ_JOB_ID={job_id}")

    def _tell_ledger(self, job_id: str) -> None:
        """Says nothing new when the child recorded its outcome: the ledger's guard sees to that."""
        if self._ended_because == "stopped":
            holding.stopped(self.name, job_id)
        elif self._ended_because == "timeout":
            holding.timed_out(self.name, job_id)
        elif self._ended_because == "shutdown":
            holding.interrupted(self.name, [job_id])
        else:
            holding.lost(self.name, job_id, self._ended_because or "its process ended without a word")


@contextmanager
def _redis_may_be_away() -> Iterator[None]:
    """What Redis does not hear ends no worker: hosts start again ever more slowly what dies often."""
    try:
        yield
    except RedisError as error:
        log.warning("redis_away", error=str(error))
