"""One look at everything that alerts are judged by. Each query reads an index only, or a handful of rows."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from redis import RedisError
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from monolith.config import settings
from monolith.db.engine import read_now, read_session
from monolith.db.models import OVER, Job, User
from monolith.runner.ledger import counts, pauses
from monolith.runner.ledger.counts import WAITING
from monolith.runner.ledger.pauses import Paused
from monolith.runner.llm.budget import DAY_S, PLACES, Spending, usd
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from monolith.runner.queue import rq_queues

COUNTED_TO = 10_000  # failures, and no further
OVERSPENT_AT_MOST = 20  # users who are named


class QueueBacklog(NamedTuple):
    """What waits in one RQ queue and is not paused, and for how many seconds the oldest does."""

    jobs: int
    oldest_s: float


@dataclass(frozen=True)
class Snapshot:
    """How things were at one moment. `unknown` are the codes of alerts that could not be judged."""

    moment: float
    waiting: int
    failed: int
    lines: dict[str, QueueBacklog]
    has_moved: bool  # whether a job was begun or ended in the last ALERT_SILENCE_S, or none has waited for so long
    pauses: list[Paused]
    breakers: dict[str, str]
    spent_all: Decimal | None  # where that is everybody's budget or more
    overspent: list[str]
    listened: set[str] | None
    redis_percent: float | None
    redis_missed: int  # looks in a row, this one included, at which Redis did not answer
    disk_free_mb: float | None
    imbalance: int | None

    @property
    def unknown(self) -> set[str]:
        of_redis = {"no_worker", "silence", "redis_memory"} if self.listened is None else set()
        return of_redis | ({"ledger_imbalance"} if self.imbalance is None else set())


def take_snapshot(redis_missed: int = 0, imbalance: int | None = None) -> Snapshot:
    """Look at the ledger and at Redis. `redis_missed`: before this look; `imbalance` takes a minute's count, and is the caller's."""
    listened, percent = _redis()
    with read_session() as session:
        moment = read_now(session)
        spent, overspent = _spent(session, int(moment // DAY_S))
        lines = _lines(session, moment)
        return Snapshot(
            moment=moment,
            waiting=sum(counts.counts(session, "queued").values()),
            failed=counts.failed_since(session, moment - DAY_S, COUNTED_TO),
            lines=lines,
            has_moved=_has_moved(session, lines, moment - settings().alert_silence_s),
            pauses=pauses.active(session),
            breakers=_breakers(session),
            spent_all=spent,
            overspent=overspent,
            listened=listened,
            redis_percent=percent,
            redis_missed=0 if listened is not None else redis_missed + 1,
            disk_free_mb=_disk_free_mb(),
            imbalance=imbalance,
        )


def _redis() -> tuple[set[str] | None, float | None]:
    """The queues that some worker listens to, None while Redis is away; and how full it is, where it has a limit."""
    try:
        return rq_queues.listened(), None if rq_queues.is_inline() else _redis_percent()
    except RedisError:
        return None, None


def _redis_percent() -> float | None:
    said = rq_queues.connection().info("memory")
    most = int(said.get("maxmemory") or 0)
    return 100 * int(said["used_memory"]) / most if most else None


def _lines(session: Session, moment: float) -> dict[str, QueueBacklog]:
    rows = select(Job.rq_queue, func.count(), func.min(Job.queued_at)).where(*WAITING).group_by(Job.queue, Job.priority)
    return {rq_queue: QueueBacklog(jobs, max(0.0, moment - (since or moment))) for rq_queue, jobs, since in session.execute(rows)}


def _has_moved(session: Session, lines: dict[str, QueueBacklog], since: float) -> bool:
    """Whether a job was begun since, or ended; not asked where none has waited for so long."""
    if all(line.oldest_s <= settings().alert_silence_s for line in lines.values()):
        return True
    begun = exists().where(Job.status == "started", Job.started_at > since)
    if session.scalar(select(begun)):
        return True
    return any(session.scalar(counts.ended_since(session, status, since).limit(1)) for status in OVER)


def _breakers(session: Session) -> dict[str, str]:
    rows = session.execute(
        select(CircuitBreaker.name, CircuitBreaker.reason).where(CircuitBreaker.open_until.is_not(None)).order_by(CircuitBreaker.name)
    )
    return {name: reason or "" for name, reason in rows}


def _spent(session: Session, day: int) -> tuple[Decimal | None, list[str]]:
    """What all have spent today, where that is the budget; and who has used up their own."""
    limit, own_limit = settings().llm_budget_usd, settings().llm_budget_per_user_usd
    spent, over = Decimal(0), list[str]()
    if limit:
        spent = usd(session.scalar(select(func.sum(Spending.nano_usd)).where(Spending.day == day)))
    if own_limit:
        used_up = (Spending.day == day, Spending.nano_usd >= int(own_limit.scaleb(PLACES)))
        emails = select(User.email).join(Spending, Spending.owner_id == User.id).where(*used_up).order_by(Spending.nano_usd.desc())
        over = list(session.scalars(emails.limit(OVERSPENT_AT_MOST)))
    return (spent if limit and spent >= limit else None), over


def _disk_free_mb() -> float | None:
    """Of the disk with the ledger, where that is a file under the home."""
    if not settings().database_url.startswith("sqlite"):
        return None
    try:
        return shutil.disk_usage(settings().home).free / 2**20
    except OSError:
        return None
