"""Everything a worker says to Redis while it works, and what to do while Redis is away: keep it, and try again."""

from __future__ import annotations

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

from monolith.runner.prefork.connections import Command, Connections
from monolith.runner.prefork.redis_script import EVERYTHING, FreeSlots, RedisScript
from monolith.runner.prefork.task import Ending, Task

FLUSH_S = 0.005  # endings are collected for so long while there is other work
LOOK_S = 0.05  # between two looks for waiting jobs behind ordinary ones that have no room, or the other way round
AGAIN_S = 0.5  # after Redis failed
ASKED_EVERY_S = 1.0  # where nobody tells us of new jobs: an old server, or suspended workers


@dataclass(frozen=True)
class RqFailure:
    """A task that RQ's own code has to end: raised, killed, or stopped."""

    task: Task
    trace: str
    how: str  # raised, crashed or stopped


class RedisWriter:
    """What is still to be written down, and whether there may be something to take."""

    def __init__(self, worker: Worker, wire: Connections, books: RedisScript) -> None:
        self._worker = worker
        self._wire = wire
        self._books = books
        self._endings: list[Ending] = []
        self._failures: deque[RqFailure] = deque()
        self._first_ended_at = 0.0
        self._try_at = 0.0
        self._ask_at = 0.0
        self._look_at = 0.0
        self._more = self._more_waiting = True
        self._unseen = False
        self.is_away = True
        self.is_suspended = False

    @property
    def is_written(self) -> bool:
        return not self._endings and not self._failures

    @property
    def may_be_more(self) -> bool:
        """Whether the queues may hold something that was not taken."""
        return self._more or self._more_waiting or self._unseen

    def end(self, how: str, task: Task, result: bytes = b"") -> None:
        if not self._endings:
            self._first_ended_at = time.monotonic()
        self._endings.append(Ending(how, task, result, now()))

    def fail(self, task: Task, trace: str, how: str) -> None:
        self._failures.append(RqFailure(task, trace, how))

    # ---- the connection

    def connect(self, known: Sequence[Task]) -> bool:
        """Whether Redis can be talked to; connects when it is time to, and gives back what Redis alone thinks we run. Raises RedisError."""
        if not self.is_away:
            return True
        if time.monotonic() < self._try_at:
            return False
        self._wire.open()
        self._return_strays(known)
        self.is_away, self._more, self._more_waiting = False, True, True
        return True

    def _return_strays(self, known: Sequence[Task]) -> None:
        unwritten = [*(ending.task for ending in self._endings), *(failure.task for failure in self._failures)]
        ours = {task.composite_key for task in (*known, *unwritten)}
        for stray in self._books.strays(self._worker.executions_key, ours):
            job_id, _, execution_id = stray.rpartition(":")
            origin = self._wire.client.hget(os.fsencode(Job.key_for(job_id)), "origin") or b""
            queue = Queue(os.fsdecode(origin), connection=self._worker.connection, serializer=self._worker.serializer)
            self.end("back", Task(job_id, execution_id, queue, {}, now(), False, False))

    def lose(self, error: RedisError) -> None:
        """Redis failed: what was to be written stays to be written."""
        if not self.is_away:
            self._worker.log.warning("Worker %s: Redis is not responding: %s", self._worker.name, error)
        self._wire.close()
        self.is_away, self._try_at = True, time.monotonic() + AGAIN_S

    def hear(self) -> Iterator[Command]:
        """RQ's commands that have come. Raises RedisError."""
        for command in self._wire.hear():
            if command is None:
                self._more = self._more_waiting = True
            else:
                yield command
        if (self.is_suspended or not self._wire.is_told) and time.monotonic() >= self._ask_at:
            self._ask_at, self._more, self._more_waiting = time.monotonic() + ASKED_EVERY_S, True, True

    def next_at(self) -> float:
        """When to come back even if nothing is heard."""
        moments = [self._try_at] if self.is_away else []
        if self._endings and not self.is_away:
            moments.append(self._first_ended_at + FLUSH_S)
        if self._unseen and not self.is_away:
            moments.append(self._look_at)
        if self.is_suspended or not self._wire.is_told:
            moments.append(self._ask_at)
        return min(moments, default=float("inf"))

    # ---- turns

    def wants_turn(self, room: FreeSlots, is_low: bool, is_idle: bool) -> bool:
        """Whether it is worth a round trip now. While children have work left, endings are collected."""
        if self._endings and (is_idle or time.monotonic() > self._first_ended_at + FLUSH_S):
            return True
        if self._unseen and room and time.monotonic() >= self._look_at:
            return True
        may_take = (self._more and room.ordinary > 0 and is_low) or (self._more_waiting and room.waiting > 0)
        return may_take or (bool(self._endings) and is_low)

    def turn(self, queues: Sequence[Queue], room: FreeSlots, *, will_idle: bool, in_a_row: int = EVERYTHING) -> list[Task]:
        """Write down what has ended, take what there is room for. Raises RedisError, and then keeps the endings."""
        looks_past = time.monotonic() >= self._look_at
        if looks_past:
            self._look_at = time.monotonic() + LOOK_S
        state = "suspended" if self.is_suspended else ("idle" if will_idle else "")
        endings = list(self._endings)
        try:
            turn = self._books.turn(endings, queues, room, state, looks_past=looks_past, in_a_row=in_a_row)
        except NoScriptError:  # Redis has forgotten it
            turn = self._books.turn(endings, queues, room, state, looks_past=looks_past, in_a_row=in_a_row)
        del self._endings[: len(endings)]
        self._more, self._more_waiting, self._unseen, self.is_suspended = turn.more, turn.more_waiting, turn.unseen, turn.is_suspended
        if turn.late:
            self._finish_late([one for one in endings if one.task.execution_id in turn.late])
        if not turn.is_known:
            self.register_again()
        return turn.taken

    def register_again(self) -> None:
        """Redis has forgotten us, and nobody would know that we listen."""
        with self._hanging_up():
            self._worker.connection.delete(self._worker.key)
            self._worker.register_birth()

    # ---- RQ's own code, for all that is unusual

    def write_failures(self) -> None:
        """Raises RedisError."""
        if self._failures:
            with self._hanging_up():
                while self._failures:
                    self._write_failure(self._failures[0])
                    self._failures.popleft()
            self.look_again()

    def _write_failure(self, failure: RqFailure) -> None:
        job, execution = self._restored(failure.task)
        if failure.how == "raised":
            job.last_heartbeat = now()
        else:  # as RQ's parent process writes it, which knows only what it had fetched
            job.worker_name = ""
        job.ended_at = None if failure.how == "stopped" else now()
        try:
            if job.get_status() in (JobStatus.FINISHED, JobStatus.FAILED):
                return  # its child had written it down before it died
        except InvalidJobOperation:
            return  # it is gone from Redis
        if failure.how == "stopped":
            self._worker._stopped_job_id = job.id
            self._worker._handle_stopped_job(job, failure.task.queue, execution)
        else:
            self._worker.handle_job_failure(job, queue=failure.task.queue, exc_string=failure.trace, execution=execution)

    def _finish_late(self, endings: Sequence[Ending]) -> None:
        """Jobs that got dependents while they ran."""
        with self._hanging_up():
            for ending in endings:
                job, execution = self._restored(ending.task)
                job.ended_at = job.last_heartbeat = ending.ended_at
                job._result = self._worker.serializer.loads(b64decode(ending.result)) if ending.result else None
                queue = ending.task.queue
                self._worker.handle_job_success(job, queue, queue.started_job_registry, execution)
        self.look_again()

    def look_again(self) -> None:
        """RQ's own code has written something: it may have queued a job, and our state is to be written."""
        self._more = self._more_waiting = True

    def _restored(self, task: Task) -> tuple[Job, Execution]:
        job = self._worker.job_class(task.job_id, connection=self._worker.connection, serializer=self._worker.serializer)
        job.restore(task.fields)
        job.started_at, job.worker_name = task.taken_at, self._worker.name
        execution = Execution(task.execution_id, task.job_id, self._worker.connection, self._worker.name)
        execution.created_at = task.taken_at
        return job, execution

    @contextmanager
    def _hanging_up(self) -> Iterator[None]:
        """RQ's own code has connections of its own: closed when it is through, for hosts count them."""
        try:
            yield
        finally:
            self._worker.connection.connection_pool.disconnect()

    # ---- heartbeats

    def beat(self, running: Sequence[Task], told: Mapping[str, str]) -> None:
        """Say that we live, what runs, and what is `told` of the children. Raises RedisError."""
        known_at, created = 3, []
        with self._wire.client.pipeline(transaction=False) as pipeline:
            self._worker.heartbeat(self._worker.worker_ttl + 60, pipeline)
            pipeline.hexists(self._worker.key, "queues")
            pipeline.hset(self._worker.key, mapping=told)  # type: ignore[arg-type]
            for task in running:
                job, execution = self._restored(task)
                ttl = self._worker.get_heartbeat_ttl(job)
                execution.heartbeat(task.queue.started_job_registry, ttl, pipeline)
                created.append((job.key, len(pipeline)))
                job.heartbeat(now(), ttl, pipeline, xx=True)
            answers = pipeline.execute()
        gone = [key for key, place in created if answers[place] == 1]  # Redis had lost the job: a hash of one field is none
        if gone:
            self._wire.client.delete(*gone)
        if not answers[known_at]:
            self.register_again()

    def report(self, told: Mapping[str, str]) -> None:
        """Between two heartbeats, what is `told` of the children. Raises RedisError."""
        self._wire.client.hset(self._worker.key, mapping=told)  # type: ignore[arg-type]
