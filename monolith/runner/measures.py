"""What is measured for `/metrics`, beside the counts of `statistics`. Each query reads an index, or a handful of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, func, select, union_all
from sqlalchemy.orm import Session

from monolith.database import read_now
from monolith.models import Job, Sample
from monolith.runner import statistics
from monolith.runner.breakers import Breaker
from monolith.runner.spending import DAY_S, Spending, usd
from monolith.runner.webhooks.tables import Delivery

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
    minute = read_now(session) // statistics.SAMPLE_S * statistics.SAMPLE_S
    rows = select(Sample.queue, Sample.type, Sample.finished, Sample.failed).where(Sample.at >= minute)
    return {(queue, type_name): (finished, failed) for queue, type_name, finished, failed in session.execute(rows)}


def times(session: Session) -> list[Times]:
    """Of the jobs that finished in the last TIMES_S."""
    found: dict[tuple[str, str], Times] = {}
    since = read_now(session) - TIMES_S
    newest = [_newest(type_name, since) for type_name in statistics.types(session, "finished")]
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
    return {name: int(until is not None) for name, until in session.execute(select(Breaker.name, Breaker.open_until))}


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
