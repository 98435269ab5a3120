"""A snapshot of everything that alert rules use. Each query reads an index only, or a handful of rows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from redis import RedisError
from redis.exceptions import NoPermissionError
from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from monolith.config import settings
from monolith.db.engine import read_now, read_session
from monolith.db.models import OVER, Job, JobEvent, User
from monolith.runner.ledger import counts, lifecycle, pauses
from monolith.runner.ledger.counts import WAITING
from monolith.runner.ledger.lifecycle import MISSING_TYPE
from monolith.runner.ledger.pauses import Paused
from monolith.runner.llm.budget import DAY_S, PLACES, Spending, usd
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from monolith.runner.prefork import redis_keys
from monolith.runner.queue import rq_queues

COUNTED_TO = 10_000  # failed jobs are counted up to this number
SEEN_S = 60.0  # a job that waits for its type counts for so long after it was seen: it may be tried just now
MAX_OVERSPENT = 20  # users named in alerts


class QueueBacklog(NamedTuple):
    """The number of queued jobs of one RQ queue that are not paused, and the age of the oldest in seconds."""

    jobs: int
    oldest_s: float


class MissingType(NamedTuple):
    """A job type that jobs wait for a worker with: when the first of them met a worker without it, and when one was last seen waiting."""

    since: float
    seen_at: float


@dataclass(frozen=True)
class Snapshot:
    """The state of the installation at one moment, in seconds since 1970. `unknown`: codes of alerts that cannot be evaluated from it."""

    moment: float
    waiting: int
    failed: int
    backlogs: dict[str, QueueBacklog]
    has_activity: bool  # whether a job started or ended in the last ALERT_SILENCE_S; also true if no job has waited that long
    pauses: list[Paused]
    missing_types: dict[str, MissingType]
    breakers: dict[str, str]
    spent_all: Decimal | None  # today's total, only if the total budget is used up
    overspent: list[str]
    listened: set[str] | None
    redis_percent: float | None
    redis_missed: int  # consecutive snapshots, including this one, for which Redis did not respond
    disk_free_mb: float | None
    imbalance: int | None

    @property
    def unknown(self) -> set[str]:
        of_redis = {"no_worker", "silence", "redis_memory"} if self.listened is None else set()
        return of_redis | ({"ledger_imbalance"} if self.imbalance is None else set())


def take_snapshot(redis_missed: int = 0, imbalance: int | None = None, missing_types: Mapping[str, MissingType] | None = None) -> Snapshot:
    """Read the ledger and Redis.

    `redis_missed` and `missing_types` are those of the previous snapshot. `imbalance` is counted by the caller, because that reads
    all rows.
    """
    listened, percent = _redis()
    with read_session() as session:
        moment = read_now(session)
        spent, overspent = _spent(session, int(moment // DAY_S))
        backlogs = _backlogs(session, moment)
        return Snapshot(
            moment=moment,
            waiting=sum(counts.counts(session, "queued").values()),
            failed=counts.failed_since(session, moment - DAY_S, COUNTED_TO),
            backlogs=backlogs,
            has_activity=_has_activity(session, backlogs, moment - settings().alert_silence_s),
            pauses=pauses.active(session),
            missing_types=_missing_types(session, moment, missing_types or {}),
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
    """The queues that a worker listens to, None if Redis does not respond; and its memory use in percent, if it has a limit."""
    try:
        return rq_queues.listened(), None if rq_queues.is_inline() else _redis_percent()
    except RedisError as error:
        if redis_keys.is_wrong_type(error):
            _set_aside()
        return None, None


def _set_aside() -> None:
    with suppress(RedisError):  # the next snapshot tries it again
        redis_keys.set_aside(rq_queues.connection())


def _redis_percent() -> float | None:
    try:
        memory = rq_queues.connection().info("memory")
    except NoPermissionError:  # not known
        return None
    limit = int(memory.get("maxmemory") or 0)
    return 100 * int(memory["used_memory"]) / limit if limit else None


def _backlogs(session: Session, moment: float) -> dict[str, QueueBacklog]:
    rows = select(Job.rq_queue, func.count(), func.min(Job.queued_at)).where(*WAITING).group_by(Job.queue, Job.priority)
    return {rq_queue: QueueBacklog(jobs, max(0.0, moment - (since or moment))) for rq_queue, jobs, since in session.execute(rows)}


def _has_activity(session: Session, backlogs: dict[str, QueueBacklog], since: float) -> bool:
    """Whether a job started or ended since then. Not queried if no job has waited for ALERT_SILENCE_S."""
    if all(line.oldest_s <= settings().alert_silence_s for line in backlogs.values()):
        return True
    started = exists().where(Job.status == "started", Job.started_at > since)
    if session.scalar(select(started)):
        return True
    return any(session.scalar(counts.ended_since(session, status, since).limit(1)) for status in OVER)


def _missing_types(session: Session, moment: float, before: Mapping[str, MissingType]) -> dict[str, MissingType]:
    """Such jobs are tried every few minutes, so this reads only what is due soon. Those of `before` may be tried just now."""
    waits = (Job.status == "scheduled", Job.run_at <= moment + lifecycle.MISSING_TYPE_TRY_S, Job.snooze_reason.startswith(MISSING_TYPE))
    first = select(Job.snooze_reason, func.min(JobEvent.at)).join(JobEvent, JobEvent.job_id == Job.id)
    found = {name: one for name, one in before.items() if one.seen_at > moment - SEEN_S}
    for reason, since in session.execute(first.where(*waits, JobEvent.name == "unknown_type").group_by(Job.snooze_reason)):
        name = str(reason).removeprefix(MISSING_TYPE).partition(",")[0]
        earlier = found[name].since if name in found else since
        found[name] = MissingType(min(earlier, since), moment)
    return found


def _breakers(session: Session) -> dict[str, str]:
    rows = session.execute(
        select(CircuitBreaker.name, CircuitBreaker.reason).where(CircuitBreaker.open_until.is_not(None)).order_by(CircuitBreaker.name)
    )
    return {name: reason or "" for name, reason in rows}


def _spent(session: Session, day: int) -> tuple[Decimal | None, list[str]]:
    """The total spent today, if that uses up the total budget; and the users who have used up their own."""
    limit, own_limit = settings().llm_budget_usd, settings().llm_budget_per_user_usd
    spent, over = Decimal(0), list[str]()
    if limit:
        spent = usd(session.scalar(select(func.sum(Spending.nano_usd)).where(Spending.day == day)))
    if own_limit:
        used_up = (Spending.day == day, Spending.nano_usd >= int(own_limit.scaleb(PLACES)))
        emails = select(User.email).join(Spending, Spending.owner_id == User.id).where(*used_up).order_by(Spending.nano_usd.desc())
        over = list(session.scalars(emails.limit(MAX_OVERSPENT)))
    return (spent if limit and spent >= limit else None), over


def _disk_free_mb() -> float | None:
    """Free space of the disk that holds the SQLite database; None with PostgreSQL."""
    if not settings().database_url.startswith("sqlite"):
        return None
    try:
        return shutil.disk_usage(settings().home).free / 2**20
    except OSError:
        return None
