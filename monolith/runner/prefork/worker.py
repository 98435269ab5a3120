"""The worker for `rq worker --worker-class monolith.runner.prefork.worker.PreforkWorker`: RQ's queues and data, long-lived children.

The parent alone talks to Redis, in one script for many jobs at once, and to the children over sockets. It waits for all of
them in one `poll`, in one thread. It knows rq and redis only, and `Hooks` for whoever keeps other books; see docs/architecture.md.
"""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

from redis import RedisError
from rq.utils import now, utcformat
from rq.worker import DequeueStrategy, Worker

from monolith.linux.processes import end_children, forks_die_with_us, inherit_orphans, leave_guard
from monolith.runner.prefork import options
from monolith.runner.prefork.children import Children, ChildrenReport
from monolith.runner.prefork.connections import Command, Connections
from monolith.runner.prefork.dispatch import Dispatcher, TaskOutcome
from monolith.runner.prefork.hooks import Hooks
from monolith.runner.prefork.outcomes import OutcomeRecorder
from monolith.runner.prefork.redis_script import EVERYTHING, FreeSlots, RedisScript
from monolith.runner.prefork.redis_writer import RedisWriter

WATCH_S = 0.1  # how often limits are looked at while something runs
IDLE_BEAT_S = 60
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PreforkWorker(Worker):
    """See the module. WORKER_CONCURRENCY children, each used for many jobs; `rq worker`'s own options all hold."""

    hooks: Hooks | None = None  # with them, the job's end in Redis is theirs to decide

    def options(self) -> options.Options:
        return options.from_environment()

    def preload(self) -> None:
        """Import what jobs need, once for all children."""

    # ---- the life of the worker

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = "%H:%M:%S",
        log_format: str = "%(asctime)s %(message)s",
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Take and run jobs until told to stop, or until `burst`, `max_jobs` or `max_idle_time` say so; whether any was run."""
        self._burst, self._max_jobs, self._max_idle_time = burst, max_jobs, max_idle_time
        self._dequeue_strategy = dequeue_strategy
        self._begin()
        try:
            self._start_children()
            if with_scheduler:
                self._start_scheduler(burst, logging_level, date_format, log_format)
            self.bootstrap(logging_level, date_format, log_format)
            self.run_maintenance_tasks()
            self.connection.connection_pool.disconnect()
            while not self._is_over():
                self._converse()
                self._wait()
                self._settle_all()
                self._settling.beat(self._jobs)
                self._watch()
        finally:
            self._end()
        return bool(self._taken)

    def _begin(self) -> None:
        self._options = self.options()
        self._taken = 0
        self._drain_until = 0.0
        self._watch_at = self._beat_at = 0.0
        self._idle_since = time.monotonic()
        self._wire = Connections(self.connection, self.pubsub_channel_name)
        books = RedisScript(self._wire.client, self.name, self.worker_ttl + 60, self.job_monitoring_interval, self.default_result_ttl)
        self._records = RedisWriter(self, self._wire, books)
        self._install_signal_handlers()

    def _install_signal_handlers(self) -> None:
        """Each signal wakes the `poll`; nothing else is interrupted by one."""
        self._awake, self._waking = socket.socketpair()
        for end in (self._awake, self._waking):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in SIGNALS:
            signal.signal(number, self.request_stop)

    def _start_children(self) -> None:
        os.environ["RQ_WORKER_ID"] = self.name
        os.environ["RQ_WORKER_GUARD"] = mark = uuid4().hex  # not the name: workers of two Redis servers on one machine may share it
        self._guard = leave_guard(f"RQ_WORKER_GUARD={mark}")
        inherit_orphans()
        forks_die_with_us()
        self.preload()
        self.connection.connection_pool.disconnect()  # children must not inherit it
        gc.collect()
        gc.freeze()  # what is shared with the children is not written to by looking for garbage
        self._settling = OutcomeRecorder(self, self._records, self.hooks, self._close_inherited)
        self._crew = Children(self, self._options, self._close_and_prepare, self._other_children)
        self._crew.fill()
        self._jobs = Dispatcher(self._crew)
        self._reporting = ChildrenReport(self._crew)

    def _close_inherited(self) -> None:
        self._wire.forget()
        self._awake.close()
        self._waking.close()

    def _close_and_prepare(self) -> None:
        self._close_inherited()
        self._settling.forget()
        if self.hooks:
            self.hooks.prepare()

    def _other_children(self) -> set[int]:
        scheduler = self.scheduler._process if self.scheduler else None
        return {self._guard} | self._settling.pids | ({scheduler.pid} if scheduler and scheduler.pid else set())

    def subscribe(self) -> None:
        """RQ's own starts a thread, in which signals get lost. Ours hears RQ's commands in `poll`."""
        self._records.connect([])

    def unsubscribe(self) -> None:
        self._wire.close()

    # ---- stopping

    def request_stop(self, signum: int, frame: Any) -> None:
        """Take nothing more; what runs gets SHUTDOWN_GRACE seconds. A second signal changes nothing."""
        if not self._stop_requested:
            self._stop_requested = True
            self._drain_until = time.monotonic() + self._options.grace_s

    request_force_stop = request_stop

    def _is_over(self) -> bool:
        if self._stop_requested:
            self._return_unbegun()
            return self._jobs.is_empty and (self._records.is_written or self._records.is_away)
        if not self._jobs.is_empty or not self._records.is_written:
            self._idle_since = time.monotonic()
            return False
        may_be_more = self._records.may_be_more or self._records.is_away
        return (
            (self._burst and not may_be_more)
            or (self._burst and self._records.is_suspended)
            or (self._max_jobs is not None and self._taken >= self._max_jobs)
            or (self._max_idle_time is not None and time.monotonic() - self._idle_since > self._max_idle_time)
        )

    def _return_unbegun(self) -> None:
        for task in reversed(self._jobs.return_unbegun()):
            self._records.end("back", task)
        if time.monotonic() > self._drain_until:
            self._jobs.kill_running("shutdown")

    def _end(self) -> None:
        self._crew_leaves()
        self._settling.leave()
        with suppress(RedisError):
            self.teardown()
        signal.set_wakeup_fd(-1)

    def _crew_leaves(self) -> None:
        for child in self._crew.children:
            child.kill()
        end_children(but=self._other_children())

    # ---- Redis

    def _converse(self) -> None:
        try:
            if self._records.connect(self._jobs.tasks):
                self._beat_when_due()
                self._note_stop()
                for command in self._records.hear():
                    self._obey(command)
                self._records.write_failures()
                self._take_turns()
        except RedisError as error:
            self._records.lose(error)

    def _take_turns(self) -> None:
        while self._records.wants_turn(room := self._room(), self._jobs.is_low(), self._jobs.is_empty):
            found = self._records.turn(self._queues_in_order(), room, will_idle=self._jobs.is_empty, in_a_row=self._in_a_row())
            self._taken += len(found)
            tasks = self._settling.accepted(found)
            for task in tasks:
                self.log.info("Worker %s: %s: %s", self.name, task.queue.name, task.job_id)
            self._jobs.take_in(tasks)

    def _room(self) -> FreeSlots:
        room = FreeSlots() if self._stop_requested else self._jobs.room()
        if self._max_jobs is None:
            return room
        ordinary = min(max(0, room.ordinary), self._max_jobs - self._taken)
        return FreeSlots(ordinary, min(room.waiting, self._max_jobs - self._taken - ordinary))

    def _queues_in_order(self) -> list[Any]:
        if self._dequeue_strategy == DequeueStrategy.RANDOM:
            random.shuffle(self._ordered_queues)
        elif self._dequeue_strategy == DequeueStrategy.ROUND_ROBIN:
            self._ordered_queues.append(self._ordered_queues.pop(0))
        return self._ordered_queues

    def _in_a_row(self) -> int:
        return EVERYTHING if self._dequeue_strategy == DequeueStrategy.DEFAULT else 1

    def _beat_when_due(self) -> None:
        if time.monotonic() < self._beat_at:
            if not self._jobs.is_empty and self._reporting.is_due:
                self._records.report(self._reporting.fields())
            return
        running = [task for _, task in self._jobs.running()]
        self._records.beat(running, self._reporting.fields())
        at_most = self.job_monitoring_interval if running else IDLE_BEAT_S
        self._beat_at = time.monotonic() + max(1, min(at_most, self.worker_ttl - 15))
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()
            self.connection.connection_pool.disconnect()

    def _note_stop(self) -> None:
        """As RQ does it, for whoever looks: this worker takes nothing more, and has jobs to end."""
        if self._stop_requested and self._shutdown_requested_date is None and not self._jobs.is_empty:
            self._shutdown_requested_date = now()
            self._wire.client.hset(self.key, "shutdown_requested_date", utcformat(self._shutdown_requested_date))

    def _obey(self, command: Command) -> None:
        """RQ's commands: `stop-job`, `stop-execution`, `kill-horse`, `shutdown`."""
        match command.get("command"):
            case "stop-job" | "stop-execution" as verb:
                for task in self._jobs.stop(str(command.get("job_id" if verb == "stop-job" else "execution_id"))):
                    self._settling.settle(TaskOutcome("stopped", task))
            case "kill-horse":
                self._jobs.kill_running("crashed")
            case "shutdown":
                self.request_stop(signal.SIGINT, None)

    # ---- children

    def _wait(self) -> None:
        """Until somebody says something, or something is due."""
        poll = select.poll()
        for fileno in self._filenos():
            poll.register(fileno, select.POLLIN)
        wait = min(self._moments()) - time.monotonic()
        poll.poll(None if wait == float("inf") else max(0.0, wait * 1000))
        with suppress(BlockingIOError):
            self._awake.recv(4096)

    def _filenos(self) -> Iterator[int]:
        yield self._awake.fileno()
        yield from (child.reports.fileno() for child in self._crew.children)
        yield from self._settling.filenos()
        if not self._records.is_away:
            yield from self._wire.filenos()

    def _moments(self) -> Iterator[float]:
        """When to look again without being woken."""
        yield self._records.next_at()
        yield self._beat_at if not self._records.is_away else float("inf")
        if not self._jobs.is_empty:
            yield self._watch_at
        if self._max_idle_time is not None:
            yield self._idle_since + self._max_idle_time
        ends_when_empty = self._burst or self._stop_requested or self._max_jobs is not None
        if ends_when_empty and self._jobs.is_empty and not self._records.is_away:
            yield 0.0

    def _settle_all(self) -> None:
        for outcome in self._jobs.outcomes():
            self._settling.settle(outcome)

    def _watch(self) -> None:
        if time.monotonic() < self._watch_at:
            return
        self._watch_at = time.monotonic() + WATCH_S
        for task in reversed(self._jobs.watch()):
            self._records.end("back", task)
