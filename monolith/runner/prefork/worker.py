"""`rq worker --worker-class monolith.runner.prefork.worker.PreforkWorker`: RQ's queues and data, with long-lived children.

Only the parent talks to Redis, in one script for many jobs at once, and to the children over sockets. It waits for all of
them in one `poll`, in one thread. It knows rq and redis only; `Hooks` connect it to other records of jobs. See docs/worker.md.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

from redis import RedisError
from redis.exceptions import ResponseError
from rq.timeouts import JobTimeoutException
from rq.utils import now, utcformat
from rq.worker import DequeueStrategy, Worker

from monolith.linux.processes import OrphanGuard, end_children, forks_die_with_us, inherit_orphans
from monolith.runner.prefork import options, redis_keys
from monolith.runner.prefork.children import LATE_S, Children
from monolith.runner.prefork.connections import Command, Connections
from monolith.runner.prefork.hooks import Answer, HookProcess, Hooks
from monolith.runner.prefork.redis_script import UNLIMITED, FreeSlots, RedisScript
from monolith.runner.prefork.redis_writer import RedisWriter
from monolith.runner.prefork.task import Task, TaskOutcome

HELD_EVERY_S = 2.0  # between two reports of what the worker holds, if the record does not know
LIMITS_S = 0.1  # between two checks of time limits while something runs
IDLE_BEAT_S = 60
RECORDING_S = 1.0  # after the grace period, for what the hooks have not recorded yet
MAX_UNRECORDED = 1000  # no more jobs are taken while so many wait for the hooks
COLLECT_S = 0.005  # how long reports of ordinary children are collected while all of them have enough to do
REPORT_S = 5.0  # between two reports of the children while something runs: heartbeats alone would be half a minute apart
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PreforkWorker(Worker):
    """A worker with WORKER_CONCURRENCY children, each used for many jobs. It accepts all options of `rq worker`."""

    hooks: Hooks | None = None  # with hooks, they claim each job before it runs, and record its end before Redis does

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
        """Run jobs until told to stop, or as long as `burst`, `max_jobs` and `max_idle_time` allow. True when any job was taken."""
        self._burst, self._max_jobs, self._max_idle_time = burst, max_jobs, max_idle_time
        self._dequeue_strategy = dequeue_strategy
        self._begin()
        try:
            self._start_children()
            if with_scheduler:
                self._start_scheduler(burst, logging_level, date_format, log_format)
            redis_keys.set_aside(self.connection, redis_keys.keys_of(self.queue_names(), self.name))
            self.bootstrap(logging_level, date_format, log_format)
            self.run_maintenance_tasks()
            self.connection.connection_pool.disconnect()
            while not self._is_over():
                self._exchange_with_redis()
                self._wait()
                self._read_at = time.monotonic() + COLLECT_S
                for outcome in self._children.outcomes():
                    self._record(outcome)
                self._enforce_limits()
                self._exchange_with_hooks()
        finally:
            self._end()
        return bool(self._taken)

    def _begin(self) -> None:
        self._options = self.options()
        self._taken = 0
        self._grace_ends_at = 0.0
        self._limits_at = self._beat_at = self._report_at = self._held_at = self._read_at = 0.0
        self._idle_since = time.monotonic()
        self._repeated: dict[str, list[Task]] = {}  # messages that came again while the claim of their job is not answered
        self._connections = Connections(self.connection, self.pubsub_channel_name)
        ttl = self.worker_ttl + 60
        script = RedisScript(self._connections.client, self.name, ttl, self.job_monitoring_interval, self.default_result_ttl)
        self._redis = RedisWriter(self, self._connections, script)
        # Each signal wakes the `poll`; nothing else is interrupted by one.
        self._wakeup, self._signalled = socket.socketpair()
        for end in (self._wakeup, self._signalled):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in SIGNALS:
            signal.signal(number, self.request_stop)

    def _start_children(self) -> None:
        os.environ["RQ_WORKER_ID"] = self.name
        os.environ["RQ_WORKER_GUARD"] = mark = uuid4().hex  # not the name: workers of two Redis servers on one machine may share it
        self._guard = OrphanGuard(f"RQ_WORKER_GUARD={mark}")
        inherit_orphans()
        forks_die_with_us()
        self.preload()
        self.connection.connection_pool.disconnect()  # children must not inherit it
        gc.collect()
        gc.freeze()  # the garbage collector no longer writes to memory that is shared with the children
        self._children = Children(self, self._options, self._prepare_child, self._other_processes)
        self._hook_process = HookProcess(self.hooks, self, self._close_inherited, self._claimed_tasks) if self.hooks else None
        self._children.start_missing()

    def _close_inherited(self) -> None:
        self._connections.close_copies()
        self._wakeup.close()
        self._signalled.close()
        self._children.close()

    def _prepare_child(self) -> None:
        self._close_inherited()
        if self.hooks and self._hook_process:
            self._hook_process.close()
            self.hooks.prepare()

    def _other_processes(self) -> set[int]:
        """Our processes that are no children for jobs: the guard, the hook process, RQ's scheduler."""
        scheduler = self.scheduler._process if self.scheduler else None
        return {self._guard.pid, *(one.pid for one in (self._hook_process, scheduler) if one and one.pid)}

    def run_maintenance_tasks(self) -> None:
        """RQ's own maintenance; what it cannot read is set aside."""
        try:
            super().run_maintenance_tasks()
        except ResponseError as error:
            if not redis_keys.is_wrong_type(error):
                raise
            redis_keys.set_aside(self.connection)

    def subscribe(self) -> None:
        """RQ's own starts a thread, in which signals get lost. Ours receives RQ's commands in `poll`."""
        self._redis.connect([])

    def unsubscribe(self) -> None:
        self._connections.close()

    # ---- stopping

    def request_stop(self, signum: int, frame: Any) -> None:
        """Take no more jobs; running ones get SHUTDOWN_GRACE seconds. A second signal changes nothing."""
        if not self._stop_requested:
            self._stop_requested = True
            self._grace_ends_at = time.monotonic() + self._options.grace_s

    request_force_stop = request_stop

    def _is_over(self) -> bool:
        if self._stop_requested:
            self._return_jobs()
            is_recorded = self._is_idle or time.monotonic() > self._grace_ends_at + RECORDING_S
            return self._children.is_empty and is_recorded and (self._redis.is_written or self._redis.is_away)
        if not self._is_idle or not self._redis.is_written:
            self._idle_since = time.monotonic()
            return False
        may_be_more = self._redis.may_be_more or self._redis.is_away
        return (
            (self._burst and not may_be_more)
            or (self._burst and self._redis.is_suspended)
            or (self._max_jobs is not None and self._taken >= self._max_jobs)
            or (self._max_idle_time is not None and time.monotonic() - self._idle_since > self._max_idle_time)
        )

    @property
    def _is_idle(self) -> bool:
        """Whether no job is with the children or the hooks."""
        return self._children.is_empty and (self._hook_process is None or self._hook_process.is_idle)

    def _held_tasks(self) -> list[Task]:
        """All tasks that were taken and whose end is not written."""
        asked = self._hook_process.tasks if self._hook_process else ()
        return [*self._children.tasks, *asked, *(task for tasks in self._repeated.values() for task in tasks)]

    def _return_jobs(self) -> None:
        """Give unstarted jobs back to their queues; after the grace period, kill the running ones."""
        self._give_back(self._children.take_back_unstarted())
        if time.monotonic() > self._grace_ends_at:
            for task in self._children.withdraw_all():
                self._redis.end("requeue", task)
            self._children.kill_running("shutdown")

    def _give_back(self, tasks: list[Task]) -> None:
        """Return unstarted tasks to their queues, the hooks first: another worker could not claim them otherwise."""
        for task in reversed(tasks):
            if self._hook_process:
                self._hook_process.ask("give_back", task, (task.job_id, task.claim_number))
            else:
                self._redis.end("requeue", task)

    def _end(self) -> None:
        for child in self._children.children:
            child.kill()
        end_children(but=self._other_processes())
        if self._hook_process:
            self._hook_process.leave()
        with suppress(RedisError):
            self.teardown()
        signal.set_wakeup_fd(-1)

    # ---- Redis

    def _exchange_with_redis(self) -> None:
        try:
            if self._redis.connect(self._held_tasks()):
                self._beat_when_due()
                self._report_held()
                self._write_shutdown_date()
                for command in self._redis.commands():
                    self._obey(command)
                self._redis.write_failures()
                self._take_turns()
        except RedisError as error:
            self._redis.disconnect(error)

    def _take_turns(self) -> None:
        """Write what has ended and take jobs, as long as a turn is worth its round trip."""
        in_a_row = UNLIMITED if self._dequeue_strategy == DequeueStrategy.DEFAULT else 1
        while self._redis.wants_turn(free := self._free_slots(), self._children.need_tasks(), self._is_idle):
            found = self._redis.turn(self._queues_in_order(), free, will_idle=self._is_idle, in_a_row=in_a_row)
            self._taken += len(found)
            if found:
                self.reorder_queues(found[-1].queue)
            accepted = []
            for task in found:
                if reason := task.defect or (self.hooks.why_refused(task.job_id, task.fields) if self.hooks else ""):
                    self.log.error("Worker %s: %s: refused %.100r: %s", self.name, task.queue.name, task.job_id, reason)
                    self._redis.end("refuse", task)
                else:
                    self.log.info("Worker %s: %s: %s", self.name, task.queue.name, task.job_id)
                    accepted.append(task)
            self._start_tasks(accepted)

    def _start_tasks(self, tasks: list[Task]) -> None:
        """Send the tasks to the children, once the hooks have claimed them."""
        if self._hook_process is None:
            self._children.assign(tasks)
            return
        for task in tasks:
            if self._hook_process.is_claiming(task.job_id):
                self._repeated.setdefault(task.job_id, []).append(task)
            else:
                self._children.expect(task)
                self._hook_process.ask("claim", task, task.job_id)
        self._exchange_with_hooks()

    def _free_slots(self) -> FreeSlots:
        is_full = self._hook_process is not None and len(self._hook_process.tasks) > MAX_UNRECORDED
        free = FreeSlots() if self._stop_requested or is_full else self._children.free_slots()
        if self._max_jobs is None:
            return free
        ordinary = min(max(0, free.ordinary), self._max_jobs - self._taken)
        return FreeSlots(ordinary, min(free.io_bound, self._max_jobs - self._taken - ordinary))

    def _queues_in_order(self) -> list[Any]:
        """The queues in the order to take from them, by RQ's dequeue strategy."""
        return self._ordered_queues

    def _beat_when_due(self) -> None:
        if time.monotonic() < self._beat_at:
            if not self._children.is_empty and time.monotonic() >= self._report_at:
                self._report_at = time.monotonic() + REPORT_S
                self._redis.report(self._children.report())
            return
        held = [task for _, task in self._children.running()]
        held += self._hook_process.tasks if self._hook_process else []
        self._report_at = time.monotonic() + REPORT_S
        self._redis.beat(held, self._children.report())
        at_most = self.job_monitoring_interval if held else IDLE_BEAT_S
        self._beat_at = time.monotonic() + max(1, min(at_most, self.worker_ttl - 15))
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()
            self.connection.connection_pool.disconnect()

    def _report_held(self) -> None:
        """Where the record cannot be reached, say in Redis that the worker lives and runs its jobs: nobody else must take them."""
        if self.hooks and self._hook_process and time.monotonic() >= self._held_at:
            self._held_at = time.monotonic() + HELD_EVERY_S
            held = {**dict(self.hooks.kept()), **{task.job_id: task.claim_number for task in self._hook_process.unconfirmed}}
            if held:
                self._redis.report_held(held)

    def _write_shutdown_date(self) -> None:
        """Show, as RQ does, that this worker takes no more jobs and has some left to end."""
        if self._stop_requested and self._shutdown_requested_date is None and not self._children.is_empty:
            self._shutdown_requested_date = now()
            self._connections.client.hset(self.key, "shutdown_requested_date", utcformat(self._shutdown_requested_date))

    def _obey(self, command: Command) -> None:
        """RQ's commands: `stop-job`, `stop-execution`, `kill-horse`, `shutdown`."""
        match command.get("command"):
            case "stop-job" | "stop-execution" as verb:
                for task in self._children.stop(str(command.get("job_id" if verb == "stop-job" else "execution_id"))):
                    self._record(TaskOutcome("stopped", task))
            case "kill-horse":
                self._children.kill_running("crashed")
            case "shutdown":
                self.request_stop(signal.SIGINT, None)

    # ---- outcomes

    def _record(self, outcome: TaskOutcome) -> None:
        """Have the outcome of a task recorded by the hooks, if there are any, and written to Redis."""
        task = outcome.task
        match outcome.how:
            case "done":
                assert isinstance(outcome.payload, bytes)
                self._redis.end("finish" if task.claimed is None else "close", task, outcome.payload)
                self.log.info("Worker %s: %s: Job OK (%s)", self.name, task.queue.name, task.job_id)
            case "ended":
                assert self._hook_process
                self._hook_process.ask("record", task, (task.job_id, task.claim_number, outcome.payload))
            case "failed" if not self._hook_process:
                self._redis.fail(task, str(outcome.payload), "raised")
            case "handled":
                self._redis.expect_more()
            case how:
                self.log.warning("Worker %s: job %s: %s, %.2000s", self.name, task.job_id, how, outcome.payload)
                if self._hook_process:
                    self._ask_to_record(self._hook_process, outcome)
                else:
                    self._record_as_rq(outcome)

    def _ask_to_record(self, hooks: HookProcess, outcome: TaskOutcome) -> None:
        """Have the hooks record what the job could not report itself."""
        task = outcome.task
        claim = (task.job_id, task.claim_number)
        match outcome.how:
            case "stopped":
                hooks.ask("stopped", task, claim)
            case "timeout":
                hooks.ask("lost", task, (*claim, "timeout"))
            case "crashed" | "suspect" | "failed":
                hooks.ask("lost", task, (*claim, f"its process ended: {outcome.payload!s}"))
            case "shutdown" | "innocent":
                hooks.ask("interrupted", task, claim)
            case _:
                self._redis.end("drop", task)

    def _exchange_with_hooks(self) -> None:
        """Ask the hooks, and go on with what they have answered."""
        if self._hook_process:
            self._hook_process.ask_heartbeats()
            self._children.assign([task for answer in self._hook_process.exchange() for task in self._go_on(answer)])

    def _claimed_tasks(self) -> list[Task]:
        return [task for task in self._held_tasks() if task.claimed is not None]

    def _go_on(self, answer: Answer) -> list[Task]:
        """Go on with the task that was answered. Returns it where it is to be started."""
        task = answer.task
        match answer.name:
            case "claim":
                return self._claimed(task, answer.value)
            case "heartbeat" if not answer.value:
                self._children.kill_taken(task)
            case "record":
                self._redis.end("close", task)
            case "give_back":
                self._redis.end("requeue", task)
            case "lost" | "interrupted" | "stopped":
                self._redis.end("drop", task)
        return []

    def _claimed(self, task: Task, claim: tuple[int, bytes] | None) -> list[Task]:
        """The task if it may start. Otherwise it ends: its message came twice, or what it waits for pushes it again, or it was stopped."""
        for repeated in self._repeated.pop(task.job_id, ()):
            self._redis.end("requeue", repeated)
        if claim is None:
            self._children.withdraw(task)
            self._redis.end("pass", task)
            return []
        task.claim_number, task.claimed = claim
        if task.killed_because:
            self._children.withdraw(task)
            self._record(TaskOutcome(task.killed_because, task))
            return []
        return [task]

    def _record_as_rq(self, outcome: TaskOutcome) -> None:
        """Without hooks: record in Redis what RQ's own parent process records."""
        task, status = outcome.task, outcome.status
        match outcome.how:
            case "stopped":
                self._redis.fail(task, "Job stopped by user, work-horse terminated.", "stopped")
            case "timeout":
                message = f"Task exceeded maximum timeout value ({task.limit:g} seconds) and was killed {LATE_S:g} s later"
                self._redis.fail(task, f"{JobTimeoutException.__module__}.{JobTimeoutException.__name__}: {message}\n", "crashed")
            case "crashed":
                signalled = f" (signal {os.WTERMSIG(status)})" if os.WIFSIGNALED(status) else ""
                self._redis.fail(task, f"Work-horse terminated unexpectedly; waitpid returned {status}{signalled}; ", "crashed")
            case _:
                self._redis.end("requeue", task)

    # ---- waiting

    def _wait(self) -> None:
        """Wait until something arrives or is due."""
        collects = self._children.are_busy() and time.monotonic() < self._read_at
        poll = select.poll()
        for fileno in self._filenos(collects):
            poll.register(fileno, select.POLLIN)
        if self._hook_process and self._hook_process.has_unsent:
            poll.register(self._hook_process.fileno(), select.POLLIN | select.POLLOUT)
        moments = [self._read_at, *self._moments()] if collects else self._moments()
        timeout = min(moments) - time.monotonic()
        poll.poll(None if timeout == float("inf") else max(0.0, timeout * 1000))
        with suppress(BlockingIOError):
            self._wakeup.recv(4096)

    def _filenos(self, collects: bool) -> Iterator[int]:
        """What may arrive. While reports are collected, those of ordinary children wake nobody: one loop reads many."""
        yield self._wakeup.fileno()
        yield from (child.reports.fileno() for child in self._children.children if not collects or child.slots is not None)
        if self._hook_process:
            yield self._hook_process.fileno()
        if not self._redis.is_away:
            yield from self._connections.filenos()

    def _moments(self) -> Iterator[float]:
        """When something is due, on the monotonic clock."""
        yield self._redis.next_at()
        yield self._beat_at if not self._redis.is_away else float("inf")
        if not self._is_idle:
            yield self._limits_at
        if self._max_idle_time is not None:
            yield self._idle_since + self._max_idle_time
        ends_when_empty = self._burst or self._stop_requested or self._max_jobs is not None
        if ends_when_empty and self._is_idle and not self._redis.is_away:
            yield 0.0

    def _enforce_limits(self) -> None:
        if time.monotonic() < self._limits_at:
            return
        self._limits_at = time.monotonic() + LIMITS_S
        self._give_back(self._children.enforce_limits())
        if self._guard.replace_if_dead():
            self.log.warning("Worker %s: the guard was killed and is replaced", self.name)
