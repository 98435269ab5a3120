"""Everything the worker writes to Redis while it works. While Redis is away, it is kept and written later."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from redis import RedisError
from redis.exceptions import NoScriptError
from rq.exceptions import InvalidJobOperation
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.utils import now
from rq.worker import Worker

from monolith.runner.prefork import redis_keys
from monolith.runner.prefork.connections import Command, Connections
from monolith.runner.prefork.redis_script import UNLIMITED, FreeSlots, RedisScript
from monolith.runner.prefork.task import Ending, Task

FLUSH_S = 0.005  # how long endings are collected while there is other work
SCAN_S = 0.05  # between two searches for I/O-bound jobs behind ordinary ones without a free slot, or the other way round
HELD_S = 15  # how long it holds what `report_held` says; it is said again before
RECONNECT_S = 0.5  # after Redis failed
POLL_S = 1.0  # between two turns where Redis reports no new jobs: an old server, or suspended workers


def held_key(worker_key: str) -> str:
    """Where a worker says which jobs it runs: JSON, the number of its claim by job id."""
    return f"{worker_key}:held"


@dataclass(frozen=True)
class RqFailure:
    """A task that RQ's own code has to end. how: `raised`, `crashed` or `stopped`."""

    task: Task
    trace: str
    how: str


class RedisWriter:
    """What is still to be written, and whether there may be something to take."""

    def __init__(self, worker: Worker, connections: Connections, script: RedisScript) -> None:
        self._worker = worker
        self._connections = connections
        self._script = script
        self._endings: list[Ending] = []
        self._failures: deque[RqFailure] = deque()
        self._first_ended_at = 0.0
        self._reconnect_at = 0.0
        self._poll_at = 0.0
        self._scan_at = 0.0
        self._more = self._more_io_bound = True
        self._unscanned = False
        self._has_wrong_keys = False
        self.is_away = True
        self.is_suspended = False

    @property
    def is_written(self) -> bool:
        return not self._endings and not self._failures

    @property
    def may_be_more(self) -> bool:
        """Whether the queues may hold jobs that were not taken."""
        return self._more or self._more_io_bound or self._unscanned

    def end(self, how: str, task: Task, result: bytes = b"") -> None:
        """Have an ending written with the next turn; `how` as in `Ending`."""
        if not self._endings:
            self._first_ended_at = time.monotonic()
        self._endings.append(Ending(how, task, result, now()))

    def fail(self, task: Task, trace: str, how: str) -> None:
        """Have RQ's own code record a failure; `how` as in `RqFailure`."""
        self._failures.append(RqFailure(task, trace, how))

    # ---- the connection

    def connect(self, known: Sequence[Task]) -> bool:
        """Whether Redis is connected; connects when it is time to. Jobs that only Redis says we run are requeued. Raises RedisError."""
        if not self.is_away:
            return True
        if time.monotonic() < self._reconnect_at:
            return False
        self._connections.open()
        if self._has_wrong_keys:
            redis_keys.set_aside(self._connections.client)
            self._has_wrong_keys = False
        self._requeue_unknown(known)
        self.is_away, self._more, self._more_io_bound = False, True, True
        return True

    def _requeue_unknown(self, known: Sequence[Task]) -> None:
        unwritten = [*(ending.task for ending in self._endings), *(failure.task for failure in self._failures)]
        ours = {task.composite_key for task in (*known, *unwritten)}
        for execution in self._script.unknown_executions(self._worker.executions_key, ours):
            job_id, _, execution_id = execution.rpartition(":")
            origin = self._connections.client.hget(os.fsencode(Job.key_for(job_id)), "origin") or b""
            queue = Queue(os.fsdecode(origin), connection=self._worker.connection, serializer=self._worker.serializer)
            self.end("requeue", Task(job_id, execution_id, queue, {}, now(), False, False))

    def disconnect(self, error: RedisError) -> None:
        """Redis failed: keep what is to be written, and connect again later."""
        if not self.is_away:
            self._worker.log.warning("Worker %s: Redis is not responding: %s", self._worker.name, error)
        self._has_wrong_keys |= redis_keys.is_wrong_type(error)
        self._connections.close()
        self.is_away, self._reconnect_at = True, time.monotonic() + RECONNECT_S

    def commands(self) -> Iterator[Command]:
        """RQ's commands that have arrived; also notes that queues have changed. Raises RedisError."""
        for command in self._connections.receive():
            if command is None:
                self.expect_more()
            else:
                yield command
        if (self.is_suspended or not self._connections.is_tracking) and time.monotonic() >= self._poll_at:
            self._poll_at = time.monotonic() + POLL_S
            self.expect_more()

    def expect_more(self) -> None:
        """Have the next turn look for jobs: queues have changed, or RQ's own code may have queued some or set our state."""
        self._more = self._more_io_bound = True

    def next_at(self) -> float:
        """When there is something to do even if nothing arrives, on the monotonic clock."""
        moments = [self._reconnect_at] if self.is_away else []
        if self._endings and not self.is_away:
            moments.append(self._first_ended_at + FLUSH_S)
        if self._unscanned and not self.is_away:
            moments.append(self._scan_at)
        if self.is_suspended or not self._connections.is_tracking:
            moments.append(self._poll_at)
        return min(moments, default=float("inf"))

    # ---- turns

    def wants_turn(self, free: FreeSlots, need_tasks: bool, is_idle: bool) -> bool:
        """Whether a turn is worth its round trip now. While children have enough to do, endings are collected."""
        if self._endings and (is_idle or time.monotonic() > self._first_ended_at + FLUSH_S):
            return True
        if self._unscanned and free and time.monotonic() >= self._scan_at:
            return True
        may_take = (self._more and free.ordinary > 0 and need_tasks) or (self._more_io_bound and free.io_bound > 0)
        return may_take or (bool(self._endings) and need_tasks)

    def turn(self, queues: Sequence[Queue], free: FreeSlots, *, will_idle: bool, in_a_row: int = UNLIMITED) -> list[Task]:
        """Write what has ended and take jobs for the free slots. Raises RedisError, and then keeps the endings."""
        skips = time.monotonic() >= self._scan_at
        if skips:
            self._scan_at = time.monotonic() + SCAN_S
        state = "suspended" if self.is_suspended else ("idle" if will_idle else "")
        endings = list(self._endings)
        try:
            turn = self._script.turn(endings, queues, free, state, skips=skips, in_a_row=in_a_row)
        except NoScriptError:  # Redis was restarted
            turn = self._script.turn(endings, queues, free, state, skips=skips, in_a_row=in_a_row)
        del self._endings[: len(endings)]
        self._more, self._more_io_bound, self._unscanned = turn.more, turn.more_io_bound, turn.unscanned
        self.is_suspended = turn.is_suspended
        if turn.late:
            self._finish_late([one for one in endings if one.task.execution_id in turn.late])
        if not turn.is_known:
            self._register_again()
        return turn.taken

    def _register_again(self) -> None:
        """Redis has lost this worker's hash: without it nobody would know that we listen."""
        with self._rq_connections():
            self._worker.connection.delete(self._worker.key)
            self._worker.register_birth()

    # ---- RQ's own code, for all that is unusual

    def write_failures(self) -> None:
        """Have RQ's own code record the failures. Raises RedisError."""
        if self._failures:
            with self._rq_connections():
                while self._failures:
                    self._write_failure(self._failures[0])
                    self._failures.popleft()
            self.expect_more()

    def _write_failure(self, failure: RqFailure) -> None:
        job, execution = self._restored(failure.task)
        if failure.how == "raised":
            job.last_heartbeat = now()
        else:  # RQ's parent process writes it so: it knows only what it had fetched
            job.worker_name = ""
        job.ended_at = None if failure.how == "stopped" else now()
        try:
            if job.get_status() in (JobStatus.FINISHED, JobStatus.FAILED):
                return  # its child had recorded it before it died
        except InvalidJobOperation:
            return  # it is gone from Redis
        if failure.how == "stopped":
            self._worker._stopped_job_id = job.id
            self._worker._handle_stopped_job(job, failure.task.queue, execution)
        else:
            self._worker.handle_job_failure(job, queue=failure.task.queue, exc_string=failure.trace, execution=execution)

    def _finish_late(self, endings: Sequence[Ending]) -> None:
        """Have RQ's own code finish jobs that got dependents while they ran."""
        with self._rq_connections():
            for ending in endings:
                job, execution = self._restored(ending.task)
                job.ended_at = job.last_heartbeat = ending.ended_at
                job._result = self._worker.serializer.loads(b64decode(ending.result)) if ending.result else None
                queue = ending.task.queue
                self._worker.handle_job_success(job, queue, queue.started_job_registry, execution)
        self.expect_more()

    def _restored(self, task: Task) -> tuple[Job, Execution]:
        job = self._worker.job_class(task.job_id, connection=self._worker.connection, serializer=self._worker.serializer)
        job.restore(task.fields)
        job.started_at, job.worker_name = task.taken_at, self._worker.name
        execution = Execution(task.execution_id, task.job_id, self._worker.connection, self._worker.name)
        execution.created_at = task.taken_at
        return job, execution

    @contextmanager
    def _rq_connections(self) -> Iterator[None]:
        """RQ's own code opens connections: they are closed afterwards, because hosts limit their number."""
        try:
            yield
        finally:
            self._worker.connection.connection_pool.disconnect()

    # ---- heartbeats

    def beat(self, running: Sequence[Task], report: Mapping[str, str]) -> None:
        """Write the heartbeats of the worker and its running jobs, and the report of its children. Raises RedisError."""
        known_at, created = 3, []
        with self._connections.client.pipeline(transaction=False) as pipeline:
            self._worker.heartbeat(self._worker.worker_ttl + 60, pipeline)
            pipeline.hexists(self._worker.key, "queues")
            pipeline.hset(self._worker.key, mapping=report)  # type: ignore[arg-type]
            for task in running:
                job, execution = self._restored(task)
                ttl = self._worker.get_heartbeat_ttl(job)
                execution.heartbeat(task.queue.started_job_registry, ttl, pipeline)
                created.append((job.key, len(pipeline)))
                job.heartbeat(now(), ttl, pipeline, xx=True)
            answers = pipeline.execute()
        gone = [key for key, place in created if answers[place] == 1]  # a new hash of one field: Redis had lost the job
        if gone:
            self._connections.client.delete(*gone)
        if not answers[known_at]:
            self._register_again()

    def report_held(self, claims: Mapping[str, int]) -> None:
        """Say that the worker runs these jobs, under these claims, while the record does not take their heartbeats. Raises RedisError."""
        self._connections.client.set(held_key(self._worker.key), json.dumps(claims), ex=HELD_S)

    def report(self, report: Mapping[str, str]) -> None:
        """Write the report of the children between two heartbeats. Raises RedisError."""
        self._connections.client.hset(self._worker.key, mapping=report)  # type: ignore[arg-type]
