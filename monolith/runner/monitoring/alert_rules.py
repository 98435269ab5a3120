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
    yield Condition("failed", "all", f"Failed in the last 24 hours: {_jobs(look.failed)}{more}.", _level(look.failed, limit))


def _waiting(look: Snapshot, limit: float) -> Iterator[Condition]:
    yield Condition("waiting", "all", f"Waiting: {_jobs(look.waiting)}.", _level(look.waiting, limit))


def _no_worker(look: Snapshot, limit: float) -> Iterator[Condition]:
    """Only after a while: workers that are started anew, as by a deploy, are away for a moment."""
    for name, line in look.lines.items():
        if look.listened is not None and name not in look.listened:
            said = f"No worker listens to {name}; what waits there: {_jobs(line.jobs)}."
            yield Condition("no_worker", name, said, math.inf if line.oldest_s > limit else 1.0)


def _oldest_waiting(look: Snapshot, limit: float) -> Iterator[Condition]:
    oldest: dict[str, float] = defaultdict(float)
    for name, line in look.lines.items():
        queue = name.rpartition(".")[0]
        oldest[queue] = max(oldest[queue], line.oldest_s)
    for queue, seconds in oldest.items():
        yield Condition("oldest_waiting", queue, f"A job has waited in {queue} for {_span(seconds)}.", _level(seconds, limit))


def _silence(look: Snapshot, limit: float) -> Iterator[Condition]:
    """Workers say that they live, jobs wait that nothing holds back, and none was begun or ended for all that time."""
    served = [line.oldest_s for name, line in look.lines.items() if name in (look.listened or ())]
    if served and not look.has_moved:
        said = f"Workers are there and jobs wait, but none was begun or ended for {_span(limit)}."
        yield Condition("silence", "all", said, _level(max(served), limit))


def _redis_away(look: Snapshot, limit: float) -> Iterator[Condition]:
    """Only when it is so twice in a row: a Redis that is started again is away for a moment."""
    if look.redis_missed:
        yield Condition("redis_away", "redis", REDIS_AWAY, float(look.redis_missed))


REDIS_AWAY = "Redis does not answer. What is submitted is kept, and no job is begun."


def _redis_memory(look: Snapshot, limit: float) -> Iterator[Condition]:
    if look.redis_percent is not None:
        said = f"Redis uses {look.redis_percent:.0f} % of the memory it may have."
        yield Condition("redis_memory", "redis", said, _level(look.redis_percent, limit))


def _disk(look: Snapshot, limit: float) -> Iterator[Condition]:
    if look.disk_free_mb is not None:
        said = f"The disk of the database has {look.disk_free_mb:,.0f} MB left."
        yield Condition("disk", "disk", said, limit / max(look.disk_free_mb, 1.0))


def _pause_forgotten(look: Snapshot, limit: float) -> Iterator[Condition]:
    for pause in look.pauses:
        if pause.until is None and look.moment - pause.since > limit:
            said = f"{pause.scope} has been paused for {_span(look.moment - pause.since)}, with no end: {pause.reason} ({pause.paused_by})"
            yield Condition("pause_forgotten", pause.scope, said)


def _ledger_imbalance(look: Snapshot, limit: float) -> Iterator[Condition]:
    if look.imbalance:
        what = "Vanished from the ledger" if look.imbalance > 0 else "In the ledger, but never accepted"
        yield Condition("ledger_imbalance", "ledger", f"{what}: {_jobs(abs(look.imbalance))}.")


def _breaker_open(look: Snapshot, limit: float) -> Iterator[Condition]:
    for name, reason in look.breakers.items():
        yield Condition("breaker_open", name, f"Jobs that need {name} are parked: {reason}")


def _budget_reached(look: Snapshot, limit: float) -> Iterator[Condition]:
    if look.spent_all is not None:
        said = f"Everybody's budget for the language model today is used up: {look.spent_all:.2f} USD."
        yield Condition("budget_reached", "everybody", said)
    for email in look.overspent:
        yield Condition("budget_reached", email, f"The budget of {email} for the language model today is used up.")


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


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
        "Redis does not answer, twice in a row",
        "See that it runs, and that REDIS_URL is right; manage.py doctor says more. Nothing is lost meanwhile.",
        _never,
        _redis_away,
    ),
    "clock_missing": Rule(
        CRITICAL,
        "no clock leads; seen when somebody looks, as the clock cannot say it",
        "Start one: manage.py clock. Until then nothing delayed or tried again starts, and no other alert is sent.",
    ),
    "no_worker": Rule(
        CRITICAL,
        "jobs wait longer than {limit:g} s in a queue that no worker listens to, and that is not paused",
        "Start a worker: manage.py worker, or rq worker on that queue.",
        lambda: settings().alert_no_worker_s,
        _no_worker,
    ),
    "ledger_imbalance": Rule(
        CRITICAL,
        "accepted jobs are in no status and were not pruned; counted every minute",
        "Run manage.py ledger, and read what docs/operations.md says of a ledger that does not balance.",
        _never,
        _ledger_imbalance,
    ),
    "silence": Rule(
        CRITICAL,
        "workers beat and jobs wait, but none was begun or ended for {limit:g} s",
        "See what the workers' children do (/admin/), read their logs, and start the workers anew.",
        lambda: settings().alert_silence_s,
        _silence,
    ),
    "failed": Rule(
        WARNING,
        "more than {limit:g} jobs failed in the last 24 hours",
        "Look at the causes (/admin/failures), mend them, and requeue what failed.",
        lambda: settings().alert_failed,
        _failed,
    ),
    "waiting": Rule(
        WARNING,
        "more than {limit:g} jobs wait",
        "Start more workers, or raise WORKER_CONCURRENCY; see whether something is paused or parked.",
        lambda: settings().alert_waiting,
        _waiting,
    ),
    "oldest_waiting": Rule(
        WARNING,
        "a job of a queue that is not paused waits longer than {limit:g} s",
        "Start more workers for that queue; a long job in each child holds up the others.",
        lambda: settings().alert_oldest_s,
        _oldest_waiting,
    ),
    "pause_forgotten": Rule(
        WARNING,
        "a pause with no end is older than {limit:g} s",
        "Resume it (/admin/pauses), or give it an end.",
        lambda: settings().alert_pause_s,
        _pause_forgotten,
    ),
    "breaker_open": Rule(
        WARNING,
        "a server that jobs depend on refuses or is away, and its jobs are parked",
        "Nothing, if it comes back by itself: one job asks again when its time is over. Else see to that server.",
        _never,
        _breaker_open,
    ),
    "budget_reached": Rule(
        WARNING,
        "a daily budget for the language model is used up",
        "Raise LLM_BUDGET_USD or LLM_BUDGET_PER_USER_USD, or wait for midnight UTC.",
        _never,
        _budget_reached,
    ),
    "redis_memory": Rule(
        WARNING,
        "Redis uses more than {limit:g} % of its maxmemory",
        "Raise its maxmemory, or lower MAX_QUEUED. A full Redis loses nothing, but jobs start late.",
        lambda: settings().alert_redis_percent,
        _redis_memory,
    ),
    "disk": Rule(
        WARNING,
        "the disk of an SQLite ledger has less than {limit:g} MB left",
        "Make room: clean old jobs, or move INTRAY_HOME to a larger disk.",
        lambda: settings().alert_disk_mb,
        _disk,
    ),
}


def worst_first(alerts: Iterable[Condition]) -> list[Condition]:
    return sorted(alerts, key=lambda one: (RULES[one.code].severity != CRITICAL, one.code, one.subject))
