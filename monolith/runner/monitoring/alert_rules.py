"""The alert rules, and the conditions that each of them finds in a snapshot.

A rule that measures something has a limit. Its alert opens above the limit and closes at CLOSING times the limit, so that a value
near the limit does not open and close it repeatedly.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from monolith.config import settings
from monolith.runner.monitoring.alert_snapshot import COUNTED_TO, Snapshot

CLOSING = 0.8
MISSING_TYPE_ALERT_S = 300.0
CRITICAL, WARNING = "critical", "warning"


@dataclass(frozen=True)
class Condition:
    """A condition found in a snapshot. `level` is the measured value divided by the limit; infinite for a rule without a limit."""

    code: str
    subject: str
    message: str
    level: float = math.inf

    @property
    def opens(self) -> bool:
        """Whether it opens an alert."""
        return self.level > 1

    @property
    def holds(self) -> bool:
        """Whether an alert that is already open for it stays open."""
        return self.level > CLOSING

    @property
    def severity(self) -> str:
        return RULES[self.code].severity


class Rule(NamedTuple):
    """The rule of one alert code: its severity, when it opens (a format string for `limit`), and how to fix it."""

    severity: str
    when: str
    fix: str
    limit: Callable[[], float] = lambda: math.nan
    conditions: Callable[[Snapshot, float], Iterator[Condition]] = lambda snapshot, limit: iter(())


def conditions(snapshot: Snapshot) -> Iterator[Condition]:
    """The conditions found by all rules that this snapshot can evaluate."""
    for code, rule in RULES.items():
        if code not in snapshot.unknown:
            yield from rule.conditions(snapshot, rule.limit())


def _level(value: float, limit: float) -> float:
    return value / limit if limit else math.inf if value else 0.0


def _failed(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    more = " or more" if snapshot.failed >= COUNTED_TO else ""
    yield Condition("failed", "all", f"{_jobs(snapshot.failed, more)} failed in the last 24 hours.", _level(snapshot.failed, limit))


def _waiting(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    yield Condition("waiting", "all", f"{_jobs(snapshot.waiting)} waiting.", _level(snapshot.waiting, limit))


def _no_worker(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    """Opens only after a delay: a deploy restarts workers, so a short absence is normal."""
    for name, backlog in snapshot.backlogs.items():
        if snapshot.listened is not None and name not in snapshot.listened:
            message = f"No worker is running for {name} ({_jobs(backlog.jobs)} waiting)."
            yield Condition("no_worker", name, message, math.inf if backlog.oldest_s > limit else 1.0)


def _oldest_waiting(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    oldest: dict[str, float] = defaultdict(float)
    for name, backlog in snapshot.backlogs.items():
        queue = name.rpartition(".")[0]
        oldest[queue] = max(oldest[queue], backlog.oldest_s)
    for queue, seconds in oldest.items():
        yield Condition("oldest_waiting", queue, f"A job has been waiting in queue {queue} for {_span(seconds)}.", _level(seconds, limit))


def _silence(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    """Workers report, unpaused jobs wait for them, and no job has started or ended within the limit."""
    served = [backlog.oldest_s for name, backlog in snapshot.backlogs.items() if name in (snapshot.listened or ())]
    if served and not snapshot.has_activity:
        message = f"Workers are running and jobs are waiting, but no job has started or ended for {_span(limit)}."
        yield Condition("silence", "all", message, _level(max(served), limit))


def _redis_away(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    """Opens only at the second check in a row: a Redis that restarts is away for a moment."""
    if snapshot.redis_missed:
        yield Condition("redis_away", "redis", REDIS_AWAY, float(snapshot.redis_missed))


REDIS_AWAY = "Redis is not responding. New jobs are saved, but no job starts."


def _redis_memory(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    if snapshot.redis_percent is not None:
        message = f"Redis uses {snapshot.redis_percent:.0f} % of its memory limit."
        yield Condition("redis_memory", "redis", message, _level(snapshot.redis_percent, limit))


def _disk(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    if snapshot.disk_free_mb is not None:
        message = f"The database disk has {snapshot.disk_free_mb:,.0f} MB free."
        yield Condition("disk", "disk", message, limit / max(snapshot.disk_free_mb, 1.0))


def _pause_forgotten(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    for pause in snapshot.pauses:
        if pause.until is None and snapshot.moment - pause.since > limit:
            held = f"{pause.scope} has been paused for {_span(snapshot.moment - pause.since)}, with no end time."
            message = f"{held} Paused by {pause.paused_by}: {pause.reason}"
            yield Condition("pause_forgotten", pause.scope, message)


def _ledger_imbalance(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    if snapshot.imbalance:
        what = "missing from the ledger" if snapshot.imbalance > 0 else "in the ledger but never accepted"
        yield Condition("ledger_imbalance", "ledger", f"{_jobs(abs(snapshot.imbalance))} {what}.")


def _missing_type(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    """Opens only after a while: during a deploy, old workers lack the new types."""
    for name, one in snapshot.missing_types.items():
        seconds = snapshot.moment - one.since
        message = f"Jobs have waited {_span(seconds)} for a worker that has the job type {name}."
        yield Condition("missing_type", name, message, _level(seconds, limit))


def _breaker_open(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    for name, reason in snapshot.breakers.items():
        yield Condition("breaker_open", name, f"Jobs that need {name} are snoozed: {reason}")


def _budget_reached(snapshot: Snapshot, limit: float) -> Iterator[Condition]:
    if snapshot.spent_all is not None:
        message = f"Today's total language model budget is used up: {snapshot.spent_all:.2f} USD spent."
        yield Condition("budget_reached", "everybody", message)
    for email in snapshot.overspent:
        yield Condition("budget_reached", email, f"Today's language model budget of {email} is used up.")


def _jobs(number: int, more: str = "") -> str:
    return "1 job" if number == 1 else f"{number:,}{more} jobs"


def _span(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"


def _never() -> float:
    return math.nan


RULES: dict[str, Rule] = {
    "redis_away": Rule(
        CRITICAL,
        "Redis fails to respond to two checks in a row",
        "Check that Redis is running and that REDIS_URL is correct; run manage.py doctor for details. No job is lost meanwhile.",
        _never,
        _redis_away,
    ),
    "clock_missing": Rule(
        CRITICAL,
        "no clock is running; shown only on this page and in the API, because the clock sends the notifications",
        "Start it: manage.py clock. Until then, retries and delayed jobs do not start and no alerts are sent.",
    ),
    "no_worker": Rule(
        CRITICAL,
        "jobs have waited longer than {limit:g} s in a queue that has no worker and is not paused",
        "Start a worker: manage.py worker, or rq worker for that queue.",
        lambda: settings().alert_no_worker_s,
        _no_worker,
    ),
    "ledger_imbalance": Rule(
        CRITICAL,
        "the number of accepted jobs differs from the number of stored and deleted jobs; checked every minute",
        "Run manage.py ledger and see docs/operations.md about a ledger that does not balance.",
        _never,
        _ledger_imbalance,
    ),
    "silence": Rule(
        CRITICAL,
        "workers are running and jobs are waiting, but no job has started or ended for {limit:g} s",
        "See what the workers are running (/admin/), read their logs, and restart them.",
        lambda: settings().alert_silence_s,
        _silence,
    ),
    "failed": Rule(
        WARNING,
        "more than {limit:g} jobs failed in the last 24 hours",
        "Review the causes (/admin/failures), fix them, then retry.",
        lambda: settings().alert_failed,
        _failed,
    ),
    "waiting": Rule(
        WARNING,
        "more than {limit:g} jobs are waiting",
        "Start more workers or raise WORKER_CONCURRENCY. Check whether jobs are paused or snoozed.",
        lambda: settings().alert_waiting,
        _waiting,
    ),
    "oldest_waiting": Rule(
        WARNING,
        "a job has waited longer than {limit:g} s in a queue that is not paused",
        "Start more workers for that queue; long-running jobs may be blocking it.",
        lambda: settings().alert_oldest_s,
        _oldest_waiting,
    ),
    "pause_forgotten": Rule(
        WARNING,
        "a pause with no end time is older than {limit:g} s",
        "Resume it or set an end time (/admin/pauses).",
        lambda: settings().alert_pause_s,
        _pause_forgotten,
    ),
    "missing_type": Rule(
        WARNING,
        "a job has waited longer than {limit:g} s for a worker that has its job type; after an hour it fails",
        "Start workers of the version that has the type. manage.py doctor says if its file cannot be loaded.",
        lambda: MISSING_TYPE_ALERT_S,
        _missing_type,
    ),
    "breaker_open": Rule(
        WARNING,
        "a server that jobs depend on is unavailable or refuses requests, so these jobs are snoozed",
        "Intray tests the server again automatically and then resumes the jobs. If it stays down, check that server.",
        _never,
        _breaker_open,
    ),
    "budget_reached": Rule(
        WARNING,
        "a daily budget for the language model is used up",
        "Raise LLM_BUDGET_USD or LLM_BUDGET_PER_USER_USD, or wait until midnight UTC.",
        _never,
        _budget_reached,
    ),
    "redis_memory": Rule(
        WARNING,
        "Redis uses more than {limit:g} % of its maxmemory",
        "Raise maxmemory or lower MAX_QUEUED. When Redis is full, no job is lost, but jobs start late.",
        lambda: settings().alert_redis_percent,
        _redis_memory,
    ),
    "disk": Rule(
        WARNING,
        "the disk of the SQLite database has less than {limit:g} MB free",
        "Free space: delete old jobs (/admin/bin) or move INTRAY_HOME to a larger disk.",
        lambda: settings().alert_disk_mb,
        _disk,
    ),
}


def worst_first(alerts: Iterable[Condition]) -> list[Condition]:
    """Critical conditions first, then by code and subject."""
    return sorted(alerts, key=lambda one: (RULES[one.code].severity != CRITICAL, one.code, one.subject))
