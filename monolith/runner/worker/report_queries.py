"""Read-only queries on the ledger for job functions. Access depends on the job's owner alone, not on its params."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, String, Subquery, case, func, literal, select, tuple_

from monolith.db.engine import read_connection, read_session, whole
from monolith.db.models import Document, Job, User
from monolith.errors import Permanent
from monolith.job_types import registry
from monolith.job_types.interface import JobCount, LedgerRow, Spread

DAY_S = 86400.0
ROWS_PER_PAGE = 2000
MAX_MESSAGE = 300  # characters of an error message
MAX_VALUE = 100  # characters of a value of a result
MAX_COMBINATIONS = 1000
_RAN = case((Job.ended_at >= Job.started_at, Job.ended_at - Job.started_at))
_WAITED = case((Job.started_at >= Job.queued_at, Job.started_at - Job.queued_at))
_ROW = (
    *(Job.id, Job.type, Job.status, Job.priority, Document.title, User.email, Job.created_at, Job.started_at, Job.ended_at),
    *(_WAITED, _RAN, Job.attempt, Job.interruptions, Job.error_type, func.substr(Job.error_message, 1, MAX_MESSAGE)),
    *(Job.input_tokens, Job.output_tokens, Job.usd),
)


class VisibleLedger:
    """The jobs of a period that the asking user may see; implements `job_types.interface.Ledger`. Times in seconds since 1970."""

    def __init__(self, asker_id: int, job_id: str, start: float, end: float, types: Sequence[str], owner: str | None) -> None:
        user = _user_to_read(asker_id, owner)
        self.whose = user.email if user else None
        self._start = start
        internal = registry.internal_types()
        of_types = Job.type.in_(types) if types else Job.type.not_in(internal)
        self._guard: list[ColumnElement[bool]] = [Job.created_at >= start, Job.created_at < end, Job.id != job_id, of_types]
        if user:
            self._guard.append(Job.owner_id == user.id)

    def count(self, *by: str, every: int = 1, most: int = 10_000) -> list[JobCount]:
        """The number of jobs per group with their LLM cost, the largest groups first."""
        jobs = self._jobs(every)
        groups = [jobs.c[name] for name in by]
        sums = [func.count(), *(func.coalesce(func.sum(jobs.c[name]), 0) for name in ("input_tokens", "output_tokens", "usd"))]
        found = select(*groups, *sums).select_from(jobs).group_by(*groups).order_by(func.count().desc(), *groups).limit(most)
        return [JobCount(row[: len(by)], *row[len(by) :]) for row in _read(found)]

    def spread(self, what: str, by: str | None = None, every: int = 1) -> list[Spread]:
        """Durations per group. Percentiles are taken by rank, because SQLite has no function for them."""
        jobs = self._jobs(every)
        value, group = jobs.c[what], jobs.c[by] if by else jobs.c.all
        rank = func.row_number().over(partition_by=group, order_by=value).label("rank")
        number = func.count().over(partition_by=group).label("number")
        ranked = select(group.label("group"), value.label("value"), rank, number).where(value.is_not(None)).subquery()
        at = {share: func.min(case((ranked.c.rank >= share * ranked.c.number, ranked.c.value))) for share in (0.5, 0.95)}
        found = select(ranked.c.group, func.max(ranked.c.number), at[0.5], at[0.95], func.max(ranked.c.value))
        return [Spread(*row) for row in _read(found.group_by(ranked.c.group).order_by(ranked.c.group))]

    def results(self, type: str, *names: str) -> list[tuple[Any, ...]]:
        """The combinations of values that these fields have in the results of a type, each with its number of jobs."""
        values = [func.substr(Job.result[name].as_string(), 1, MAX_VALUE).label(f"value{place}") for place, name in enumerate(names)]
        results = select(*values).where(*self._guard, Job.type == type, Job.result.is_not(None)).subquery()
        found = select(*results.c, func.count()).group_by(*results.c).order_by(func.count().desc()).limit(MAX_COMBINATIONS)
        return [(*(None if one is None else str(one) for one in row[:-1]), row[-1]) for row in _read(found)]

    def longest(self, most: int) -> list[LedgerRow]:
        """The jobs that ran longest, at most `most`."""
        return [LedgerRow(*row) for row in _read(self._rows().where(_RAN.is_not(None)).order_by(_RAN.desc(), Job.id).limit(most))]

    def rows(self) -> Iterator[LedgerRow]:
        """Every job, the oldest first. Each page is a transaction of its own: a long one would keep SQLite from checkpointing its log."""
        query, last = self._rows().order_by(Job.created_at, Job.id).limit(ROWS_PER_PAGE), None
        while True:
            page = _read(query if last is None else query.where(tuple_(Job.created_at, Job.id) > tuple_(last.created_at, last.id)))
            yield from (LedgerRow(*row) for row in page)
            if len(page) < ROWS_PER_PAGE:
                return
            last = LedgerRow(*page[-1])

    def _jobs(self, every: int) -> Subquery:
        """The columns to group by and to measure. A subquery, because PostgreSQL does not match a grouped expression with parameters."""
        day = whole((Job.created_at - self._start) / (DAY_S * every))
        named = {"type": Job.type, "status": Job.status, "owner": User.email, "error_type": Job.error_type, "day": day}
        measured = {"ran": _RAN, "waited": _WAITED, "all": literal("", String)}
        spent = (Job.input_tokens, Job.output_tokens, Job.usd)
        return _join(select(*(one.label(name) for name, one in (named | measured).items()), *spent)).where(*self._guard).subquery()

    def _rows(self) -> Select[Any]:
        return _join(select(*_ROW)).outerjoin(Document, Document.id == Job.document_id).where(*self._guard)


def _join(query: Select[Any]) -> Select[Any]:
    return query.select_from(Job).join(User, User.id == Job.owner_id)


def _read(query: Select[Any]) -> Sequence[Any]:
    with read_connection() as connection:
        return connection.execute(query).all()


def _user_to_read(asker_id: int, owner: str | None) -> User | None:
    """The user whose jobs are read; None for all users. Raises `Permanent` when the asker may not read that user's jobs."""
    with read_session() as session:
        asker = session.get_one(User, asker_id)
        if not asker.is_admin:
            if owner and owner.lower() != asker.email.lower():
                raise Permanent("Only admins can read other users' jobs. Leave the owner empty.")
            return asker
        found = session.scalar(select(User).where(func.lower(User.email) == owner.lower())) if owner else None
    if owner and not found:
        raise Permanent(f"Unknown user {owner[:100]!r}. Give a user's e-mail address, or leave the owner empty.")
    return found
