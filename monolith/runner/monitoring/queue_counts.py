"""The number of jobs of each queue and type by status, and the age of the oldest queued job: for the overview and `GET /api/v1/queues`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from monolith.db.models import STATUSES
from monolith.job_types import registry
from monolith.runner.ledger import counts, pauses
from monolith.runner.ledger.pauses import Paused

CACHE_FACTOR = 20  # counting may take a twentieth of the time: a million jobs take tenths of a second, and pages poll every two seconds
CHEAP_S = 0.05  # a count that takes less is not cached


@dataclass
class Counts:
    """The jobs of one queue or job type by status, the age of the oldest queued one in seconds, and the pause in effect."""

    name: str
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    oldest_waiting_s: float | None = None
    pause: Paused | None = None

    @property
    def paused(self) -> bool:
        return self.pause is not None


@dataclass
class QueueCounts(Counts):
    """The jobs of a queue, in total and by job type."""

    types: list[Counts] = field(default_factory=list)


class CountsCache:
    """This process's last counts, reused for CACHE_FACTOR times as long as counting took."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Count again at the next call."""
        self._until = 0.0
        self._numbers: tuple[dict[counts.Kind, int], dict[tuple[str, str], float]] = ({}, {})

    def numbers(self, session: Session) -> tuple[dict[counts.Kind, int], dict[tuple[str, str], float]]:
        """The number of jobs by queue, type and status; and the age of the oldest queued job by queue and type, in seconds."""
        began = time.monotonic()
        if began >= self._until:
            self._numbers = counts.counts(session), counts.oldest_waiting(session)
            took = time.monotonic() - began
            self._until = time.monotonic() + CACHE_FACTOR * took if took > CHEAP_S else 0.0
        return self._numbers


cached_counts = CountsCache()


def by_queue(session: Session) -> list[QueueCounts]:
    """Every queue with its job types: all declared ones, and all that have a job."""
    numbers, oldest = cached_counts.numbers(session)
    declared = {(one.queue, one.name) for one in registry.discover().values()}
    found: dict[str, QueueCounts] = {}
    paused = pauses.known()
    for queue, type_name in sorted(declared | {(kind.queue, kind.type) for kind in numbers}):
        own = found.setdefault(queue, QueueCounts(queue, pause=pauses.of(queue, "", paused)))
        statuses = {status: numbers.get(counts.Kind(queue, type_name, status), 0) for status in STATUSES}
        own.types.append(Counts(type_name, statuses, oldest.get((queue, type_name)), pauses.of(queue, type_name, paused)))
    for own in found.values():
        own.statuses = {status: sum(one.statuses[status] for one in own.types) for status in STATUSES}
        own.oldest_waiting_s = max((one.oldest_waiting_s for one in own.types if one.oldest_waiting_s is not None), default=None)
    return list(found.values())
