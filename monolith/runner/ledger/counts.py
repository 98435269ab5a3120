"""Counts of jobs by queue, type and status: now, and as a sample of every minute."""

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
    """The key of a count."""

    queue: str
    type: str
    status: str


def counts(session: Session, *statuses: str, in_trash: bool = False) -> dict[Kind, int]:
    """The number of jobs by queue, type and status, of these statuses or of all; those in the trash or those outside it.

    Reads one index only.
    """
    rows = select(Job.queue, Job.type, Job.status, func.count()).group_by(Job.status, Job.queue, Job.type)
    rows = rows.where(IN_TRASH if in_trash else NOT_IN_TRASH)
    if statuses:
        rows = rows.where(Job.status.in_(statuses))
    return {Kind(queue, type_name, status): count for queue, type_name, status, count in session.execute(rows)}


def by_status(counted: dict[Kind, int]) -> dict[str, int]:
    """Sums counts by status; every status is there."""
    found = Counter(dict.fromkeys(STATUSES, 0))
    for kind, count in counted.items():
        found[kind.status] += count
    return dict(found)


def oldest_waiting(session: Session) -> dict[tuple[str, str], float]:
    """The seconds that the oldest queued job of each (queue, type) has waited. Reads one index only."""
    rows = select(Job.queue, Job.type, func.min(Job.queued_at)).where(Job.status == "queued").group_by(Job.queue, Job.type)
    moment = read_now(session)
    return {(queue, type_name): max(0.0, moment - since) for queue, type_name, since in session.execute(rows) if since}


def types(session: Session, status: str) -> list[str]:
    """The names of the job types with a job in this status, including types that no longer exist.

    One statement, which reads one index entry for each type.
    """
    found = select(func.min(Job.type).label("type")).where(Job.status == status).cte("found", recursive=True)
    following = select(func.min(Job.type)).where(Job.status == status, Job.type > found.c.type).scalar_subquery()
    every = found.union_all(select(following).where(found.c.type.is_not(None)))
    return list(session.scalars(select(every.c.type).where(every.c.type.is_not(None))))


def ended_since(session: Session, status: str, since: float) -> Select[str]:
    """A query for the ids of the jobs that ended with this status since then. Names the types, so that the index is used."""
    return select(Job.id).where(Job.status == status, Job.type.in_(types(session, status)), Job.ended_at > since)


def failed_since(session: Session, since: float, at_most: int) -> int:
    """How many jobs failed since then, counted no further than `at_most`. Jobs in the trash do not count."""
    failed = ended_since(session, "failed", since).where(NOT_IN_TRASH).limit(at_most)
    return session.scalar(select(func.count()).select_from(failed.subquery())) or 0


def sample() -> Iterator[None]:
    """Store the sample of the last full minute, if it is not stored yet: one row for each queue and type with any jobs."""
    with read_session() as session:
        minute = read_now(session) // SAMPLE_S * SAMPLE_S
        is_stored = session.scalar(select(Sample.id).where(Sample.at >= minute).limit(1))
        rows = [] if is_stored else _minute(session, minute)
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
        # types are named, so that the index on status, type and end is used
        ended = (Job.status == status, Job.type.in_(types(session, status)), Job.ended_at >= end - SAMPLE_S, Job.ended_at < end)
        means = func.avg(Job.started_at - Job.queued_at), func.avg(Job.ended_at - Job.started_at)
        rows = select(Job.queue, Job.type, func.count(), *means).where(*ended).group_by(Job.queue, Job.type)
        for queue, type_name, count, wait, ran in session.execute(rows):
            found[queue, type_name].update({status: count})
            if status == "finished":
                found[queue, type_name].update(mean_wait_s=wait, mean_run_s=ran)
    zeros = dict.fromkeys((*LIVE, "finished", "failed"), 0) | dict.fromkeys(("oldest_waiting_s", "mean_wait_s", "mean_run_s"))
    return [{"at": end, "queue": queue, "type": type_name, **zeros, **numbers} for (queue, type_name), numbers in found.items()]


WAITING = (Job.status == "queued", ~pauses.holds_back(Job.queue, Job.type))  # the message of a paused job may be missing
