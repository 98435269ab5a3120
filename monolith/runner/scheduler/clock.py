"""The clock: moves what is due, repairs what fell between, counts and prunes. One leader among any number of clocks, by a lease."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from redis import RedisError
from sqlalchemy import update
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from monolith.db.engine import now, write_session
from monolith.db.models import Lease
from monolith.runner.admin import bulk_retry, trash
from monolith.runner.ledger import balance, counts, lifecycle
from monolith.runner.ledger.lease import lead, resign
from monolith.runner.monitoring.alerts import Judge
from monolith.runner.monitoring.metrics_data import STATISTICS_S, StatisticsLog
from monolith.runner.scheduler import cron_schedules, retention
from monolith.runner.scheduler.recovery import MissingMessages, interrupt_lost
from monolith.runner.webhooks.dispatch import WebhookTask

RENEW_S = 3.0  # a lease this old is renewed before the next step
TICK_S = 1.0
REPAIR_S = 10.0
JUDGE_S = 5.0
MINUTE_S = 60.0
HOUR_S = 3600.0
BEATS_S = 15.0  # after the database was away, workers get so long to say that they live
DUE_BUDGET_S = 1.0  # in one tick
BUDGET_S = 0.1  # in one tick, for all the rest: a tick is short, and what is due never waits long
BATCH = 1000

log = structlog.get_logger()


def run(stopped: Callable[[], bool], wait: Callable[[float], object] = time.sleep) -> None:
    """Tick every second until `stopped()`. Nothing that goes wrong ends it: a database that is away is waited for."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    clock = Clock(stopped, holder)
    while not stopped():
        clock.tick()
        wait(0 if clock.is_behind() else TICK_S)
    resign(holder)


class Clock:
    """One clock, and where it is in each of its duties. It does them only while it leads."""

    def __init__(self, stopped: Callable[[], bool], holder: str) -> None:
        self._holder = holder
        self._stopped = stopped
        self._renew_at = 0.0
        self._away_until = 0.0
        missing = MissingMessages()
        self._due = PeriodicTask("queue_due", _queue_due, every_s=0)  # in each tick
        self._lost = PeriodicTask("interrupt_lost", interrupt_lost, REPAIR_S)
        self._repairs = (
            self._lost,
            PeriodicTask("push_missing", missing.push, REPAIR_S),
            PeriodicTask("resume", missing.resume, TICK_S / 2),
            PeriodicTask("requeue_causes", bulk_retry.advance, TICK_S / 2),
            PeriodicTask("schedules", cron_schedules.submit_due, TICK_S / 2),
            PeriodicTask("webhooks", WebhookTask().work, TICK_S / 2),  # so in each tick, but not twice when one follows at once
        )
        self._chores = (
            PeriodicTask("sample", counts.sample, REPAIR_S),
            PeriodicTask("fold_tallies", balance.fold, REPAIR_S),
            PeriodicTask("empty_bin", trash.empty_trash, MINUTE_S),
            PeriodicTask("judge_alerts", Judge().work, JUDGE_S, time.monotonic() + JUDGE_S),  # after what can be repaired was
            PeriodicTask("pulse", StatisticsLog().work, STATISTICS_S),
            PeriodicTask("prune", retention.prune, HOUR_S),
            PeriodicTask("tell", self._tell, REPAIR_S),
        )

    def tick(self) -> None:
        """Do what is up now, for as long as this clock leads and is not stopped: what is due, and then a little of the rest."""
        self._work(self._due, DUE_BUDGET_S)
        rest_at = time.monotonic() + BUDGET_S
        for duty in sorted((*self._repairs, *self._chores), key=lambda duty: duty.due_at):
            self._work(duty, rest_at - time.monotonic())

    def _tell(self) -> Iterator[None]:
        """Write down how the duties go, for the page of schedules: another process shows it. Times are ages, as hosts' clocks differ."""
        told = [duty.told() for duty in (self._due, *self._repairs, *self._chores) if duty.name != "tell"]
        with write_session() as session:
            session.execute(
                update(Lease)
                .where(Lease.name == "clock", Lease.holder == self._holder)
                .values(periodic_tasks=told, periodic_tasks_at=now())
            )
        yield

    def is_behind(self) -> bool:
        """Whether something that people wait for is half done. Pruning is no such thing: it takes its time."""
        return any(duty.steps is not None for duty in (self._due, *self._repairs))

    def _work(self, duty: PeriodicTask, budget_s: float) -> None:
        rest_at = time.monotonic() + budget_s
        if budget_s > 0 and self._may_go_on():
            duty.work(lambda: time.monotonic() < rest_at and self._may_go_on())

    def _may_go_on(self) -> bool:
        if self._stopped() or not self._leads():
            for duty in (self._due, *self._repairs, *self._chores):
                duty.abandon()
            return False
        return True

    def _leads(self) -> bool:
        """The lease is renewed between the steps of a duty too: a long one does not outlive it."""
        asked_at = time.monotonic()
        if asked_at < self._renew_at:
            return True
        if asked_at < self._away_until:
            return False
        try:
            leads = lead(self._holder)
        except OperationalError as error:
            log.error("database_away", error=str(error.orig))
            self._away_until = time.monotonic() + TICK_S / 2  # so asked once in each tick
            self._lost.due_at = time.monotonic() + BEATS_S
            return False
        except SQLAlchemyError:
            log.exception("lease_not_renewed")
            return False
        self._renew_at = asked_at + RENEW_S if leads else 0.0
        return leads


@dataclass
class PeriodicTask:
    """Work that comes up every so often, in steps. Between two of them the clock renews its lease, turns to other duties, or ends."""

    name: str
    begin: Callable[[], Iterator[None]]
    every_s: float
    due_at: float = 0.0
    steps: Iterator[None] | None = None
    has_failed: bool = False
    _began_at: float = 0.0
    _ran_at: float | None = None
    _took_s: float = 0.0

    def work(self, may_go_on: Callable[[], bool]) -> None:
        """Do some of it, if it is up. What goes wrong is logged and tried again; it never holds up the other duties."""
        if self.steps is None and time.monotonic() < self.due_at:
            return
        try:
            self._work(may_go_on)
        except RedisError as error:
            log.warning("redis_away", error=str(error))
            self._again_in(0)  # in the next tick
        except OperationalError as error:
            log.error("database_away", error=str(error.orig), duty=self.name)
            self._again_in(REPAIR_S)
        except Exception:  # a fault in one duty, such as pruning, must not stop due jobs
            log.exception("duty_failed", duty=self.name)
            self._again_in(MINUTE_S)

    def _work(self, may_go_on: Callable[[], bool]) -> None:
        if self.steps is None:
            self._began_at = time.monotonic()
            self.steps = self.begin()
        for _ in self.steps:
            if not may_go_on():
                return
        self.steps = None
        self._ran_at, self.has_failed = time.monotonic(), False
        self._took_s = self._ran_at - self._began_at
        self.due_at = self._began_at + self.every_s

    def told(self) -> dict[str, Any]:
        """How it goes: seconds since it last ended, that it took then, and until it comes again."""
        moment = time.monotonic()
        ago_s = None if self._ran_at is None else round(moment - self._ran_at, 1)
        told = {"name": self.name, "every_s": self.every_s, "ago_s": ago_s, "took_s": round(self._took_s, 3)}
        return {
            **told,
            "in_s": round(max(0.0, self.due_at - moment), 1),
            "has_failed": self.has_failed,
            "is_going_on": self.steps is not None,
        }

    def _again_in(self, seconds: float) -> None:
        self.steps, self.has_failed = None, True
        self.due_at = time.monotonic() + min(self.every_s, seconds)

    def abandon(self) -> None:
        """Leave the rest of it to whoever leads next."""
        self.steps = None


def _queue_due() -> Iterator[None]:
    while len(lifecycle.queue_due(BATCH)) == BATCH:
        yield


def repair() -> bool:
    """Interrupt what lost its worker and push what lost its message, now. False while Redis is away."""
    try:
        for duty in (interrupt_lost, MissingMessages().push):
            for _ in duty():
                pass
    except RedisError as error:
        log.warning("redis_away", error=str(error))
        return False
    return True
