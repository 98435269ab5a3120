"""Numbers for `/metrics` beside the counts of jobs, and the log line `statistics`. Each query reads an index or a handful of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import structlog
from sqlalchemy import Select, func, select, union_all
from sqlalchemy.orm import Session

from monolith.db.engine import read_now, read_session
from monolith.db.models import Job, JobEvent, Sample
from monolith.runner.ledger import counts
from monolith.runner.llm.budget import DAY_S, Spending, usd
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from monolith.runner.monitoring import workers
from monolith.runner.webhooks.models import Delivery

STATISTICS_S = 30.0
COUNTED_EVENTS = ("started", "finished", "failed")
TIMES_S = 300.0
MAX_TIMED = 500  # newest jobs of each type
PERCENTILES = (50, 95)

log = structlog.get_logger()


@dataclass
class Times:
    """Run times and waiting times of jobs of one queue and type, in seconds."""

    queue: str
    type: str
    run: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Spent:
    """What language model calls cost, in USD and tokens."""

    usd: Decimal
    input_tokens: int
    output_tokens: int


def last_minute(session: Session) -> dict[tuple[str, str], tuple[int, int]]:
    """The numbers of jobs that finished and failed in the last whole minute, by queue and type, from its samples."""
    minute = read_now(session) // counts.SAMPLE_S * counts.SAMPLE_S
    rows = select(Sample.queue, Sample.type, Sample.finished, Sample.failed).where(Sample.at >= minute)
    return {(queue, type_name): (finished, failed) for queue, type_name, finished, failed in session.execute(rows)}


def times(session: Session) -> list[Times]:
    """The times of the jobs that finished in the last TIMES_S, by queue and type."""
    found: dict[tuple[str, str], Times] = {}
    since = read_now(session) - TIMES_S
    newest = [_newest(type_name, since) for type_name in counts.types(session, "finished")]
    for queue, type_name, ran, waited in session.execute(union_all(*newest)) if newest else ():
        one = found.setdefault((queue, type_name), Times(queue, type_name))
        one.run.append(max(0.0, ran or 0.0))
        one.wait.append(max(0.0, waited or 0.0))
    return [found[key] for key in sorted(found)]


def _newest(type_name: str, since: float) -> Select[Any]:
    """The newest finished jobs of one type, as one part of a union."""
    spans = ((Job.ended_at - Job.started_at).label("ran"), (Job.started_at - Job.queued_at).label("waited"))
    done = (Job.status == "finished", Job.type == type_name, Job.ended_at > since)
    return select(select(Job.queue, Job.type, *spans).where(*done).order_by(Job.ended_at.desc()).limit(MAX_TIMED).subquery())


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of the values, by nearest rank. `values` must not be empty."""
    return sorted(values)[max(0, math.ceil(percent * len(values) / 100) - 1)]


def breakers(session: Session) -> dict[str, int]:
    """Every known circuit breaker: 1 if it is open, else 0."""
    return {name: int(until is not None) for name, until in session.execute(select(CircuitBreaker.name, CircuitBreaker.open_until))}


def deliveries(session: Session) -> dict[str, int]:
    """The number of webhook deliveries that wait for an attempt and that are being sent, by state."""
    states = ("waiting", "sending")
    rows = session.execute(select(Delivery.state, func.count()).where(Delivery.state.in_(states)).group_by(Delivery.state))
    return dict.fromkeys(states, 0) | {state: int(count) for state, count in rows}


def spent_today(session: Session) -> Spent:
    """What all users have spent on language models since midnight UTC."""
    day = int(read_now(session) // DAY_S)
    sums = (func.sum(Spending.nano_usd), func.sum(Spending.input_tokens), func.sum(Spending.output_tokens))
    nano, read, written = session.execute(select(*sums).where(Spending.day == day)).one()
    return Spent(usd(nano), int(read or 0), int(written or 0))


class StatisticsLog:
    """The periodic task that logs `statistics`. It remembers the last event it has counted."""

    def __init__(self) -> None:
        self._counted_to: int | None = None

    def work(self) -> Iterator[None]:
        """Log one line. The first one has no event counts, because there is no earlier line to count from."""
        with read_session() as session:
            by_queue: dict[str, dict[str, int]] = {}
            for kind, count in counts.counts(session, *counts.LIVE).items():
                of_queue = by_queue.setdefault(kind.queue, dict.fromkeys(counts.LIVE, 0))
                of_queue[kind.status] += count
            oldest = max(counts.oldest_waiting(session).values(), default=0.0)
            events = self._new_events(session)
        names = workers.names()
        waiting = sum(one["queued"] for one in by_queue.values())
        log.info(
            "statistics",
            queues=by_queue,
            waiting=waiting,
            oldest_waiting_s=round(oldest, 1),
            workers=None if names is None else len(names),
            **events,
        )
        yield

    def _new_events(self, session: Session) -> dict[str, int]:
        """The number of events since the last line, by name. Ids increase, so only new rows are read."""
        newest = session.scalar(select(func.max(JobEvent.id))) or 0
        since, self._counted_to = self._counted_to, newest
        if since is None:
            return {}
        new = (JobEvent.id > since, JobEvent.id <= newest, JobEvent.name.in_(COUNTED_EVENTS))
        rows = session.execute(select(JobEvent.name, func.count()).where(*new).group_by(JobEvent.name))
        return dict.fromkeys(COUNTED_EVENTS, 0) | {name: int(count) for name, count in rows}
