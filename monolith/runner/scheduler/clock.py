"""The clock: queues due jobs, repairs lost ones, records statistics, prunes. Of several clocks, the holder of a lease leads."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis import RedisError
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from monolith.db.away import DatabaseAway, is_locked, outage
from monolith.db.engine import now, write_session
from monolith.db.models import Lease
from monolith.job_types import registry
from monolith.logs import Fault
from monolith.runner.admin import bulk_retry, trash
from monolith.runner.ledger import balance, counts, lifecycle, limits
from monolith.runner.ledger.clock_lease import lead, resign, set_back_s
from monolith.runner.monitoring.alerts import AlertTask
from monolith.runner.monitoring.metrics_data import STATISTICS_S, StatisticsLog
from monolith.runner.prefork import redis_keys
from monolith.runner.queue import rq_queues
from monolith.runner.scheduler import clock_steps, cron_schedules, retention
from monolith.runner.scheduler.recovery import MissingMessages, interrupt_lost
from monolith.runner.webhooks.dispatch import WebhookTask
from monolith.runner.worker.recorder import Recorder

RENEW_S = 3.0  # the lease is renewed before the next step if it is older
TICK_S = 1.0
SHORTEST_TICK_S = 0.1  # where a rate has room again before the next tick
LOST_S = 5.0
REPAIR_S = 10.0
ALERTS_S = 5.0
MINUTE_S = 60.0
HOUR_S = 3600.0
DUE_BUDGET_S = 1.0  # of each tick, for queuing due jobs
BUDGET_S = 0.1  # of each tick, for all other tasks: ticks stay short, so that due jobs never wait long
BATCH = 1000

log = structlog.get_logger()


def run(stopped: Callable[[], bool], wait: Callable[[float], object] = time.sleep) -> None:
    """Tick every second until `stopped()`. No error ends it; if the database is away, it tries again."""
    registry.log_broken()
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    clock = Clock(stopped, holder)
    Recorder().start(stopped)  # first: a job whose outcome is known must not be given to another worker
    while not stopped():
        clock.tick()
        wait(0 if clock.is_behind() else clock.rest_s)
    resign(holder)


class Clock:
    """One clock with its periodic tasks. It works on them only while it holds the lease."""

    def __init__(self, stopped: Callable[[], bool], holder: str) -> None:
        self._holder = holder
        self._stopped = stopped
        self._renew_at = 0.0
        self._away_until = 0.0
        self._lease_fault = Fault("lease_not_renewed")
        self._room_in: float | None = None  # seconds until a rate has room for a held job
        missing = MissingMessages()
        self._due = PeriodicTask("queue_due", _queue_due, every_s=0)  # in each tick
        self._repairs = (
            PeriodicTask("release_held", self._release_held, every_s=0),
            PeriodicTask("interrupt_lost", interrupt_lost, LOST_S),
            PeriodicTask("push_missing", missing.push, REPAIR_S),
            PeriodicTask("resume", missing.resume, TICK_S / 2),
            PeriodicTask("requeue_error_groups", bulk_retry.advance, TICK_S / 2),
            PeriodicTask("schedules", cron_schedules.submit_due, TICK_S / 2),
            PeriodicTask("correct_schedules", cron_schedules.correct, REPAIR_S),
            PeriodicTask(
                "webhooks", WebhookTask().work, TICK_S / 2
            ),  # runs in each tick, but not twice if the next tick follows immediately
        )
        self._chores = (
            PeriodicTask("sample", counts.sample, REPAIR_S),
            PeriodicTask("fold_tallies", balance.fold, REPAIR_S),
            PeriodicTask("empty_trash", trash.empty_trash, MINUTE_S),
            PeriodicTask(
                "evaluate_alerts", AlertTask().work, ALERTS_S, time.monotonic() + ALERTS_S
            ),  # the first evaluation comes after the first repairs
            PeriodicTask("log_statistics", StatisticsLog().work, STATISTICS_S),
            PeriodicTask("prune", retention.prune, HOUR_S),
            PeriodicTask("report", self._report, REPAIR_S),
        )

    def tick(self) -> None:
        """Queue due jobs, then work on other due tasks within BUDGET_S, for as long as this clock leads and is not stopped."""
        self._work(self._due, DUE_BUDGET_S)
        rest_at = time.monotonic() + BUDGET_S
        for task in sorted((*self._repairs, *self._chores), key=lambda task: task.due_at):
            self._work(task, rest_at - time.monotonic())

    @property
    def rest_s(self) -> float:
        """The seconds until the next tick."""
        return TICK_S if self._room_in is None else min(max(self._room_in, SHORTEST_TICK_S), TICK_S)

    def _release_held(self) -> Iterator[None]:
        """Queue the jobs that a rate holds when it has room; and what a limit still holds although it has room or was removed."""
        self._room_in = None
        if limits.are_held():
            self._room_in = lifecycle.release_held()
        yield

    def _report(self) -> Iterator[None]:
        """Save the status of all tasks for the schedules page, which another process renders."""
        statuses = [task.status() for task in (self._due, *self._repairs, *self._chores) if task.name != "report"]
        with write_session() as session:
            session.execute(
                update(Lease)
                .where(Lease.name == "clock", Lease.holder == self._holder)
                .values(periodic_tasks=statuses, periodic_tasks_at=now())
            )
        yield

    def is_behind(self) -> bool:
        """Whether a task that users wait for is unfinished. Chores such as pruning do not count."""
        return any(task.steps is not None for task in (self._due, *self._repairs))

    def _work(self, task: PeriodicTask, budget_s: float) -> None:
        rest_at = time.monotonic() + budget_s
        if budget_s > 0 and self._may_go_on():
            task.work(lambda: time.monotonic() < rest_at and self._may_go_on())

    def _may_go_on(self) -> bool:
        if self._stopped() or not self._leads():
            for task in (self._due, *self._repairs, *self._chores):
                task.abandon()
            self._room_in = None
            return False
        return True

    def _leads(self) -> bool:
        """Whether this clock holds the lease; renews it. Called between the steps of a task, so that a long task does not outlive it."""
        checked_at = time.monotonic()
        if checked_at < self._renew_at:
            return True
        if checked_at < self._away_until:
            return False
        try:
            back_s = set_back_s()
            leads = lead(self._holder)
            if leads and back_s > clock_steps.NOTICED_S:
                clock_steps.follow(back_s)
        except DatabaseAway as error:
            outage.began(error)
            self._away_until = time.monotonic() + TICK_S / 2  # so it is tried once in each tick
            return False
        except SQLAlchemyError as error:
            self._lease_fault.occurred(error)
            return False
        outage.ended()
        self._lease_fault.ended()
        self._renew_at = checked_at + RENEW_S if leads else 0.0
        return leads


@dataclass
class PeriodicTask:
    """A task that runs every `every_s` seconds, in steps. Between two steps the clock can renew its lease, switch tasks, or stop."""

    name: str
    begin: Callable[[], Iterator[None]]
    every_s: float
    due_at: float = 0.0
    steps: Iterator[None] | None = None
    has_failed: bool = False
    _started_at: float = 0.0
    _ran_at: float | None = None
    _took_s: float = 0.0
    _fault: Fault = field(default_factory=lambda: Fault("task_failed"))

    def work(self, may_go_on: Callable[[], bool]) -> None:
        """Run steps while `may_go_on()`, if the task is due. Errors are logged and the task is retried; other tasks are not affected."""
        if self.steps is None and time.monotonic() < self.due_at:
            return
        try:
            self._work(may_go_on)
        except RedisError as error:
            log.warning("redis_away", error=str(error))
            self._retry_in(0)  # in the next tick
            _set_aside_if_wrong(error)
        except DatabaseAway as error:
            if is_locked(error):
                log.warning("row_locked", error=str(error.orig), task=self.name)
                self.steps, self.has_failed = None, True
                self.due_at = time.monotonic() + REPAIR_S  # not sooner: each time it waits, all other tasks wait with it
                return
            outage.began(error, task=self.name)
            self._retry_in(REPAIR_S)
        except Exception as error:  # a fault in one task, such as pruning, must not stop due jobs
            self._fault.occurred(error, task=self.name)
            self._retry_in(MINUTE_S)

    def _work(self, may_go_on: Callable[[], bool]) -> None:
        if self.steps is None:
            self._started_at = time.monotonic()
            self.steps = self.begin()
        for _ in self.steps:
            if not may_go_on():
                return
        self.steps = None
        self._fault.ended(task=self.name)
        self._ran_at, self.has_failed = time.monotonic(), False
        self._took_s = self._ran_at - self._started_at
        self.due_at = self._started_at + self.every_s

    def status(self) -> dict[str, Any]:
        """Its status for the schedules page. Times are relative, in seconds, because clocks of hosts differ.

        `ago_s`: since its last end; `took_s`: duration of that run; `in_s`: until the next run.
        """
        moment = time.monotonic()
        ago_s = None if self._ran_at is None else round(moment - self._ran_at, 1)
        return {
            "name": self.name,
            "every_s": self.every_s,
            "ago_s": ago_s,
            "took_s": round(self._took_s, 3),
            "in_s": round(max(0.0, self.due_at - moment), 1),
            "has_failed": self.has_failed,
            "is_going_on": self.steps is not None,
        }

    def _retry_in(self, seconds: float) -> None:
        self.steps, self.has_failed = None, True
        self.due_at = time.monotonic() + min(self.every_s, seconds)

    def abandon(self) -> None:
        """Drop the remaining steps; the next leader starts the task again."""
        self.steps = None


def _set_aside_if_wrong(error: RedisError) -> None:
    """One key that somebody has filled with something of another type must not stop a task for ever."""
    if redis_keys.is_wrong_type(error):
        with suppress(RedisError):  # the next tick tries it again
            redis_keys.set_aside(rq_queues.connection())


def _queue_due() -> Iterator[None]:
    while len(lifecycle.queue_due(BATCH)) == BATCH:
        yield


def repair() -> bool:
    """Interrupt jobs of lost workers and push missing messages now. False if Redis does not respond."""
    try:
        for task in (interrupt_lost, MissingMessages().push):
            for _ in task():
                pass
    except RedisError as error:
        log.warning("redis_away", error=str(error))
        _set_aside_if_wrong(error)
        return False
    return True
