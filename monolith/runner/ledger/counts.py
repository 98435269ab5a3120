"""How many jobs are in which state, now and minute by minute."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Select, func, insert, select
from sqlalchemy.orm import Session

from monolith.db.engine import read_now, read_session, write_session
from monolith.db.models import IN_TRASH, NOT_IN_TRASH, STATUSES, Job, Sample
from monolith.runner.ledger import pauses

SAMPLE_S = 60
LIVE = ("queued", "scheduled", "started")


class Kind(NamedTuple):
    """What jobs are counted by."""

    queue: str
    type: str
    status: str


def counts(session: Session, *statuses: str) -> dict[Kind, int]:
    """The number of jobs of each queue and type, in each of these statuses or in every one, but for the bin. Reads one index only."""
    rows = select(Job.status, Job.queue, Job.type, func.count()).where(NOT_IN_TRASH).group_by(Job.status, Job.queue, Job.type)
    if statuses:
        rows = rows.where(Job.status.in_(statuses))
    return _kinds(session, rows)


def by_status(counted: dict[Kind, int]) -> dict[str, int]:
    """The number of jobs in each status."""
    found = Counter(dict.fromkeys(STATUSES, 0))
    for kind, count in counted.items():
        found[kind.status] += count
    return dict(found)


def counts_in_bin(session: Session) -> dict[Kind, int]:
    """The same of what is in the bin."""
    return _kinds(session, select(Job.status, Job.queue, Job.type, func.count()).where(IN_TRASH).group_by(Job.status, Job.queue, Job.type))


def _kinds(session: Session, rows: Any) -> dict[Kind, int]:
    return {Kind(queue, type_name, status): count for status, queue, type_name, count in session.execute(rows)}


def oldest_waiting(session: Session) -> dict[tuple[str, str], float]:
    """For how many seconds the oldest queued job of each queue and type has waited. Reads one index only."""
    rows = select(Job.queue, Job.type, func.min(Job.queued_at)).where(Job.status == "queued").group_by(Job.queue, Job.type)
    moment = read_now(session)
    return {(queue, type_name): max(0.0, moment - since) for queue, type_name, since in session.execute(rows) if since}


def types(session: Session, status: str) -> list[str]:
    """The job types that have a job in this status, also those that no code knows any more. One look into the index for each, and
    one statement for all.
    """
    found = select(func.min(Job.type).label("type")).where(Job.status == status).cte("found", recursive=True)
    following = select(func.min(Job.type)).where(Job.status == status, Job.type > found.c.type).scalar_subquery()
    every = found.union_all(select(following).where(found.c.type.is_not(None)))
    return list(session.scalars(select(every.c.type).where(every.c.type.is_not(None))))


def ended_since(session: Session, status: str, since: float) -> Select[str]:
    """The ids of those that came to this status since then. Names the types, because the index is by status, type and time of the end."""
    return select(Job.id).where(Job.status == status, Job.type.in_(types(session, status)), Job.ended_at > since)


def failed_since(session: Session, since: float, at_most: int) -> int:
    """How many jobs failed since then, counted up to a number, but for the bin."""
    failed = ended_since(session, "failed", since).where(NOT_IN_TRASH).limit(at_most)
    return session.scalar(select(func.count()).select_from(failed.subquery())) or 0


def sample() -> Iterator[None]:
    """Keep the minute that has just passed, unless it is kept: one row for each job type that had something to do."""
    with read_session() as session:
        minute = read_now(session) // SAMPLE_S * SAMPLE_S
        is_kept = session.scalar(select(Sample.id).where(Sample.at >= minute).limit(1))
        rows = [] if is_kept else _minute(session, minute)
    if rows:
        with write_session() as session:
            session.execute(insert(Sample), rows)
    yield


def _minute(session: Session, end: float) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    for kind, count in counts(session, *LIVE).items():
        found[kind.queue, kind.type][kind.status] = count
    for key, seconds in oldest_waiting(session).items():
        found[key]["oldest_waiting_s"] = seconds
    for status in ("finished", "failed"):
        for queue, type_name, count, wait, ran in session.execute(_ended(status, types(session, status), end)):
            found[queue, type_name].update({status: count})
            if status == "finished":
                found[queue, type_name].update(mean_wait_s=wait, mean_run_s=ran)
    nothing = dict.fromkeys((*LIVE, "finished", "failed"), 0) | dict.fromkeys(("oldest_waiting_s", "mean_wait_s", "mean_run_s"))
    return [{"at": end, "queue": queue, "type": type_name, **nothing, **numbers} for (queue, type_name), numbers in found.items()]


def _ended(status: str, type_names: list[str], end: float) -> Any:
    """Names the types, because the index is by status, type and time of the end."""
    ended = (Job.status == status, Job.type.in_(type_names), Job.ended_at >= end - SAMPLE_S, Job.ended_at < end)
    wait, ran = func.avg(Job.started_at - Job.queued_at), func.avg(Job.ended_at - Job.started_at)
    return select(Job.queue, Job.type, func.count(), wait, ran).where(*ended).group_by(Job.queue, Job.type)


WAITING = (Job.status == "queued", ~pauses.holds_back(Job.queue, Job.type))  # a paused job's message is left to be lost
