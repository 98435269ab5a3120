"""What an alert is opened for: the rules, and what is so now by each of them.

A rule that measures something has a limit. Its alert opens above the limit and closes at CLOSING of it, so that a number which
hovers around the limit does not open and close it all the time.
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
CRITICAL, WARNING = "critical", "warning"


@dataclass(frozen=True)
class Condition:
    """Something that is so now. `level` is what was measured, in parts of its limit; without a limit it is simply so."""

    code: str
    subject: str
    message: str
    level: float = math.inf

    @property
    def opens(self) -> bool:
        return self.level > 1

    @property
    def holds(self) -> bool:
        """Whether an alert that is open for it stays so."""
        return self.level > CLOSING

    @property
    def severity(self) -> str:
        return RULES[self.code].severity


class Rule(NamedTuple):
    """One code: how bad it is, when it opens (`limit` is filled in), and what to do."""

    severity: str
    when: str
    mend: str
    limit: Callable[[], float] = lambda: math.nan
    conditions: Callable[[Snapshot, float], Iterator[Condition]] = lambda look, limit: iter(())


def conditions(look: Snapshot) -> Iterator[Condition]:
    """What is so now, by every rule that can be judged."""
    for code, rule in RULES.items():
        if code not in look.unknown:
            yield from rule.conditions(look, rule.limit())


def _level(value: float, limit: float) -> float:
    return value / limit if limit else math.inf if value else 0.0


def _failed(look: Snapshot, limit: float) -> Iterator[Condition]:
    more = " or more" if look.failed >= COUNTED_TO else ""
    yield Condition("failed", "all", f"{_jobs(look.failed, more)} failed in the last 24 hours.", _level(look.failed, limit))


def _waiting(look: Snapshot, limit: float) -> Iterator[Condition]:
    yield Condition("waiting", "all", f"{_jobs(look.waiting)} waiting.", _level(look.waiting, limit))


def _no_worker(look: Snapshot, limit: float) -> Iterator[Condition]:
    """Only after a while: workers that are started anew, as by a deploy, are away for a moment."""
    for name, line in look.lines.items():
        if look.listened is not None and name not in look.listened:
            said = f"No worker is running for {name} ({_jobs(line.jobs)} waiting)."
            yield Condition("no_worker", name, said, math.inf if line.oldest_s > limit else 1.0)


def _oldest_waiting(look: Snapshot, limit: float) -> Iterator[Condition]:
    oldest: dict[str, float] = defaultdict(float)
    for name, line in look.lines.items():
        queue = name.rpartition(".")[0]
        oldest[queue] = max(oldest[queue], line.oldest_s)
    for queue, seconds in oldest.items():
        yield Condition("oldest_waiting", queue, f"A job has been waiting in queue {queue} for {_span(seconds)}.", _level(seconds, limit))


def _silence(look: Snapshot, limit: float) -> Iterator[Condition]:
    """Workers say that they live, jobs wait that nothing holds back, and none was begun or ended for all that time."""
    served = [line.oldest_s for name, line in look.lines.items() if name in (look.listened or ())]
    if served and not look.has_moved:
        said = f"Workers are running and jobs are waiting, but no job has started or ended for {_span(limit)}."
        yield Condition("silence", "all", said, _level(max(served), limit))


def _redis_away(look: Snapshot, limit: float) -> Iterator[Condition]:
    """Only when it is so twice in a row: a Redis that is started again is away for a moment."""
    if look.redis_missed:
        yield Condition("redis_away", "redis", REDIS_AWAY, float(look.redis_missed))


REDIS_AWAY = "Redis is not responding. New jobs are saved, but no job starts."


def _redis_memory(look: Snapshot, limit: float) -> Iterator[Condition]:
    if look.redis_percent is not None:
        said = f"Redis uses {look.redis_percent:.0f} % of its memory limit."
        yield Condition("redis_memory", "redis", said, _level(look.redis_percent, limit))


def _disk(look: Snapshot, limit: float) -> Iterator[Condition]:
    if look.disk_free_mb is not None:
        said = f"The database disk has {look.disk_free_mb:,.0f} MB free."
        yield Condition("disk", "disk", said, limit / max(look.disk_free_mb, 1.0))


def _pause_forgotten(look: Snapshot, limit: float) -> Iterator[Condition]:
    for pause in look.pauses:
        if pause.until is None and look.moment - pause.since > limit:
            held = f"{pause.scope} has been paused for {_span(look.moment - pause.since)}, with no end time."
            said = f"{held} Paused by {pause.paused_by}: {pause.reason}"
            yield Condition("pause_forgotten", pause.scope, said)


def _ledger_imbalance(look: Snapshot, limit: float) -> Iterator[Condition]:
    if look.imbalance:
        what = "missing from the ledger" if look.imbalance > 0 else "in the ledger but never accepted"
        yield Condition("ledger_imbalance", "ledger", f"{_jobs(abs(look.imbalance))} {what}.")


def _breaker_open(look: Snapshot, limit: float) -> Iterator[Condition]:
    for name, reason in look.breakers.items():
        yield Condition("breaker_open", name, f"Jobs that need {name} are snoozed: {reason}")


def _budget_reached(look: Snapshot, limit: float) -> Iterator[Condition]:
    if look.spent_all is not None:
        said = f"Today's total language model budget is used up: {look.spent_all:.2f} USD spent."
        yield Condition("budget_reached", "everybody", said)
    for email in look.overspent:
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
    return sorted(alerts, key=lambda one: (RULES[one.code].severity != CRITICAL, one.code, one.subject))
