"""What is measured for `/metrics`, beside the counts of `statistics`. Each query reads an index, or a handful of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import structlog
from redis import RedisError
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
TOLD = ("started", "finished", "failed")


TIMES_S = 300.0
TIMED = 500  # jobs of a type at most, the newest
QUANTILES = (0.5, 0.95)


@dataclass
class Times:
    """Seconds that jobs of one queue and type ran, and had waited before."""

    queue: str
    type: str
    run: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Spent:
    usd: Decimal
    input_tokens: int
    output_tokens: int


def last_minute(session: Session) -> dict[tuple[str, str], tuple[int, int]]:
    """How many jobs of each queue and type finished and failed in the last whole minute, by its sample."""
    minute = read_now(session) // counts.SAMPLE_S * counts.SAMPLE_S
    rows = select(Sample.queue, Sample.type, Sample.finished, Sample.failed).where(Sample.at >= minute)
    return {(queue, type_name): (finished, failed) for queue, type_name, finished, failed in session.execute(rows)}


def times(session: Session) -> list[Times]:
    """Of the jobs that finished in the last TIMES_S."""
    found: dict[tuple[str, str], Times] = {}
    since = read_now(session) - TIMES_S
    newest = [_newest(type_name, since) for type_name in counts.types(session, "finished")]
    for queue, type_name, ran, waited in session.execute(union_all(*newest)) if newest else ():
        one = found.setdefault((queue, type_name), Times(queue, type_name))
        one.run.append(max(0.0, ran or 0.0))
        one.wait.append(max(0.0, waited or 0.0))
    return [found[key] for key in sorted(found)]


def _newest(type_name: str, since: float) -> Select[Any]:
    """Those of one type, the newest, as a part of one statement for all."""
    spans = ((Job.ended_at - Job.started_at).label("ran"), (Job.started_at - Job.queued_at).label("waited"))
    done = (Job.status == "finished", Job.type == type_name, Job.ended_at > since)
    return select(select(Job.queue, Job.type, *spans).where(*done).order_by(Job.ended_at.desc()).limit(TIMED).subquery())


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which this part of them is (nearest rank)."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def breakers(session: Session) -> dict[str, int]:
    """Every breaker that ever was, and 1 where it is open."""
    return {name: int(until is not None) for name, until in session.execute(select(CircuitBreaker.name, CircuitBreaker.open_until))}


def deliveries(session: Session) -> dict[str, int]:
    """The deliveries of webhooks that wait for their next attempt, and that are being sent."""
    states = ("waiting", "sending")
    rows = session.execute(select(Delivery.state, func.count()).where(Delivery.state.in_(states)).group_by(Delivery.state))
    return dict.fromkeys(states, 0) | {state: int(count) for state, count in rows}


def spent_today(session: Session) -> Spent:
    day = int(read_now(session) // DAY_S)
    sums = (func.sum(Spending.nano_usd), func.sum(Spending.input_tokens), func.sum(Spending.output_tokens))
    nano, read, written = session.execute(select(*sums).where(Spending.day == day)).one()
    return Spent(usd(nano), int(read or 0), int(written or 0))


log = structlog.get_logger()


class StatisticsLog:
    """Remembers up to which event it has counted."""

    def __init__(self) -> None:
        self._counted_to: int | None = None

    def work(self) -> Iterator[None]:
        """Write the line. The first one can say nothing of what has happened before it."""
        with read_session() as session:
            by_queue: dict[str, dict[str, int]] = {}
            for kind, count in counts.counts(session, *counts.LIVE).items():
                of_queue = by_queue.setdefault(kind.queue, dict.fromkeys(counts.LIVE, 0))
                of_queue[kind.status] += count
            oldest = max(counts.oldest_waiting(session).values(), default=0.0)
            happened = self._happened(session)
        waiting = sum(one["queued"] for one in by_queue.values())
        log.info("statistics", queues=by_queue, waiting=waiting, oldest_waiting_s=round(oldest, 1), workers=_workers(), **happened)
        yield

    def _happened(self, session: Session) -> dict[str, int]:
        """Events since the last line; they are numbered, so only new ones are read."""
        newest = session.scalar(select(func.max(JobEvent.id))) or 0
        since, self._counted_to = self._counted_to, newest
        if since is None:
            return {}
        new = (JobEvent.id > since, JobEvent.id <= newest, JobEvent.name.in_(TOLD))
        rows = session.execute(select(JobEvent.name, func.count()).where(*new).group_by(JobEvent.name))
        return dict.fromkeys(TOLD, 0) | {name: int(count) for name, count in rows}


def _workers() -> int | None:
    """How many live; None while Redis is away."""
    try:
        return len(workers.names())
    except RedisError:
        return None
