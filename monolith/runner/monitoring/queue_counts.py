"""How many jobs of each queue and type are in which state, and how long the oldest waits: for the overview and `GET /api/v1/queues`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from monolith.db.models import STATUSES
from monolith.job_types import registry
from monolith.runner.ledger import counts, pauses
from monolith.runner.ledger.pauses import Paused

REST = 20  # counting may take a twentieth of the time: of a million jobs it takes some tenths of a second, and pages ask every two
CHEAP_S = 0.05  # what is counted faster is counted anew each time


@dataclass
class Counts:
    """The jobs of one name by status, and the age of the oldest that waits, in seconds."""

    name: str
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    oldest_waiting_s: float | None = None
    pause: Paused | None = None

    @property
    def paused(self) -> bool:
        return self.pause is not None


@dataclass
class QueueCounts(Counts):
    """The same of a queue, in all and by job type."""

    types: list[Counts] = field(default_factory=list)


class Kept:
    """The newest numbers of this process, for as long as REST says."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._until = 0.0
        self._numbers: tuple[dict[counts.Kind, int], dict[tuple[str, str], float]] = ({}, {})

    def numbers(self, session: Session) -> tuple[dict[counts.Kind, int], dict[tuple[str, str], float]]:
        began = time.monotonic()
        if began >= self._until:
            self._numbers = counts.counts(session), counts.oldest_waiting(session)
            took = time.monotonic() - began
            self._until = time.monotonic() + REST * took if took > CHEAP_S else 0.0
        return self._numbers


kept = Kept()


def by_queue(session: Session) -> list[QueueCounts]:
    """Every queue with its job types: those that are declared, and those that have a job."""
    numbers, oldest = kept.numbers(session)
    declared = {(one.queue, one.name) for one in registry.discover().values()}
    found: dict[str, QueueCounts] = {}
    paused = pauses.known()
    for queue, type_name in sorted(declared | {(kind.queue, kind.type) for kind in numbers}):
        own = found.setdefault(queue, QueueCounts(queue, pause=_first(("all", f"queue:{queue}"), paused)))
        statuses = {status: numbers.get(counts.Kind(queue, type_name, status), 0) for status in STATUSES}
        own.types.append(Counts(type_name, statuses, oldest.get((queue, type_name)), pauses.of(queue, type_name, paused)))
    for own in found.values():
        own.statuses = {status: sum(one.statuses[status] for one in own.types) for status in STATUSES}
        own.oldest_waiting_s = max((one.oldest_waiting_s for one in own.types if one.oldest_waiting_s is not None), default=None)
    return list(found.values())


def _first(scopes: Iterable[str], paused: list[Paused]) -> Paused | None:
    return next((one for scope in scopes for one in paused if one.scope == scope), None)
