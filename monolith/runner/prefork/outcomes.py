"""What becomes of a task that left its child: Redis is told, and whoever keeps other books hears what the job could not say itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from rq.timeouts import JobTimeoutException
from rq.worker import Worker

from monolith.runner.prefork.dispatch import LATE_S, Dispatcher, TaskOutcome
from monolith.runner.prefork.hooks import HookProcess, Hooks
from monolith.runner.prefork.redis_writer import RedisWriter
from monolith.runner.prefork.task import Task

BEAT_S = 5.0  # how often the hooks are told what runs
LEAVING_S = 3.0  # what they get to be told the last


class OutcomeRecorder:
    """As RQ does it. With hooks, a job that ended without a word of its own is theirs: Redis forgets it, and they are told."""

    def __init__(self, worker: Worker, records: RedisWriter, hooks: Hooks | None, close_inherited: Callable[[], None]) -> None:
        self._log = worker.log
        self._name = worker.name
        self._records = records
        self._close_inherited = close_inherited
        self._beat_at = 0.0
        self._refuses = hooks.refuses if hooks else lambda job_id, fields: ""
        self.teller = HookProcess(hooks) if hooks else None
        if self.teller:
            self.teller.start(close_inherited, self._log)

    def accepted(self, tasks: list[Task]) -> list[Task]:
        """Those that may be run. The others are put aside in Redis, where an admin can look at them."""
        found = []
        for task in tasks:
            if reason := task.oddity or self._refuses(task.job_id, task.fields):
                self._log.error("Worker %s: %s: refused %.100r: %s", self._name, task.queue.name, task.job_id, reason)
                self._records.end("aside", task)
            else:
                found.append(task)
        return found

    def settle(self, outcome: TaskOutcome) -> None:
        task = outcome.task
        match outcome.how:
            case "done":
                assert isinstance(outcome.payload, bytes)
                self._records.end("done", task, outcome.payload)
                self._log.info("Worker %s: %s: Job OK (%s)", self._name, task.queue.name, task.job_id)
            case "failed":
                self._records.fail(task, str(outcome.payload), "raised")
            case "handled":
                self._records.look_again()
            case _:
                self._log.warning("Worker %s: job %s: %s, %s", self._name, task.job_id, outcome.how, outcome.payload)
                if self.teller:
                    self._tell(self.teller, outcome)
                else:
                    self._settle_as_rq(outcome)

    def _tell(self, teller: HookProcess, outcome: TaskOutcome) -> None:
        self._records.end("dropped", outcome.task)
        job_id = outcome.task.job_id
        match outcome.how:
            case "stopped":
                teller.tell("stopped", job_id)
            case "timeout":
                teller.tell("lost", job_id, "timeout")
            case "crashed" | "suspect":
                teller.tell("lost", job_id, f"its process ended: {outcome.payload!s}")
            case "shutdown" | "innocent":
                teller.tell("interrupted", [job_id])

    def _settle_as_rq(self, outcome: TaskOutcome) -> None:
        task = outcome.task
        match outcome.how:
            case "stopped":
                self._records.fail(task, "Job stopped by user, work-horse terminated.", "stopped")
            case "timeout":
                said = f"Task exceeded maximum timeout value ({task.limit:g} seconds) and was killed {LATE_S:g} s later"
                self._records.fail(task, f"{JobTimeoutException.__module__}.{JobTimeoutException.__name__}: {said}\n", "crashed")
            case "crashed":
                signalled = f" (signal {os.WTERMSIG(outcome.status)})" if os.WIFSIGNALED(outcome.status) else ""
                self._records.fail(task, f"Work-horse terminated unexpectedly; waitpid returned {outcome.status}{signalled}; ", "crashed")
            case _:
                self._records.end("back", task)

    # ---- the hooks

    def beat(self, jobs: Dispatcher) -> None:
        """Tell them now and then what runs, and end what they say is not ours any more: it runs elsewhere, or was stopped."""
        if self.teller is None:
            return
        self.teller.flush()
        if (held := self.teller.held()) is not None:
            self._end_what_is_taken(jobs, held)
        if time.monotonic() >= self._beat_at and (running := [task.job_id for _, task in jobs.running()]):
            self._beat_at = time.monotonic() + BEAT_S
            self.teller.beat(running)
        if self.teller.has_died():
            self._log.error("Worker %s: the hook process died", self._name)
            self.teller = self.teller.replaced()
            self.teller.start(self._close_inherited, self._log)

    def _end_what_is_taken(self, jobs: Dispatcher, held: set[str]) -> None:
        for child, task in jobs.running():
            if task.job_id in held:
                task.was_held = True
            elif task.was_held and not child.is_writing_down(task):
                jobs.kill(child, task, "taken")

    def leave(self) -> None:
        """Let the hooks be told all there is."""
        if self.teller is None:
            return
        self.teller.leave()
        give_up_at = time.monotonic() + LEAVING_S
        while not self.teller.has_died() and time.monotonic() < give_up_at:
            time.sleep(0.01)
        self.teller.kill()

    def forget(self) -> None:
        """For a forked child."""
        if self.teller:
            self.teller.forget()

    @property
    def pids(self) -> set[int]:
        return {self.teller.pid} if self.teller else set()

    def filenos(self) -> list[Any]:
        return [self.teller.fileno()] if self.teller else []
