"""The ledger as a job's function may read it: whose jobs these are is decided here, by the job's owner and by nothing it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, String, Subquery, case, func, literal, select, tuple_

from monolith.db.engine import read_connection, read_session, whole
from monolith.db.models import Document, Job, User
from monolith.errors import Permanent
from monolith.job_types import registry
from monolith.job_types.interface import Count, LedgerRow, Spread

DAY_S = 86400.0
ROWS_AT_ONCE = 2000
MAX_TEXT = 300  # characters of an error message that are read
MAX_VALUE = 100  # characters of a result's value
MOST_VALUES = 1000
_RAN = case((Job.ended_at >= Job.started_at, Job.ended_at - Job.started_at))
_WAITED = case((Job.started_at >= Job.queued_at, Job.started_at - Job.queued_at))
_ROW = (
    *(Job.id, Job.type, Job.status, Job.priority, Document.title, User.email, Job.created_at, Job.started_at, Job.ended_at),
    *(_WAITED, _RAN, Job.attempt, Job.interruptions, Job.error_type, func.substr(Job.error_message, 1, MAX_TEXT)),
    *(Job.input_tokens, Job.output_tokens, Job.usd),
)


class SeenLedger:
    """See `ledger.Ledger`. Times in seconds since 1970; `end` is not in the period."""

    def __init__(self, asker_id: int, job_id: str, start: float, end: float, types: Sequence[str], owner: str | None) -> None:
        whose = _whose(asker_id, owner)
        self.whose = whose.email if whose else None
        self._start = start
        self._guard: list[ColumnElement[bool]] = [Job.created_at >= start, Job.created_at < end, Job.id != job_id, _of(types)]
        if whose:
            self._guard.append(Job.owner_id == whose.id)

    def count(self, *by: str, every: int = 1, most: int = 10_000) -> list[Count]:
        """See `ledger.Ledger`."""
        jobs = self._jobs(every)
        groups = [jobs.c[name] for name in by]
        sums = [func.count(), *(func.coalesce(func.sum(jobs.c[name]), 0) for name in ("input_tokens", "output_tokens", "usd"))]
        found = select(*groups, *sums).select_from(jobs).group_by(*groups).order_by(func.count().desc(), *groups).limit(most)
        return [Count(row[: len(by)], *row[len(by) :]) for row in _read(found)]

    def spread(self, what: str, by: str | None = None, every: int = 1) -> list[Spread]:
        """See `ledger.Ledger`. By rank, because SQLite knows no percentiles."""
        jobs = self._jobs(every)
        value, group = jobs.c[what], jobs.c[by] if by else jobs.c.all
        rank = func.row_number().over(partition_by=group, order_by=value).label("rank")
        number = func.count().over(partition_by=group).label("number")
        ranked = select(group.label("group"), value.label("value"), rank, number).where(value.is_not(None)).subquery()
        at = {share: func.min(case((ranked.c.rank >= share * ranked.c.number, ranked.c.value))) for share in (0.5, 0.95)}
        found = select(ranked.c.group, func.max(ranked.c.number), at[0.5], at[0.95], func.max(ranked.c.value))
        return [Spread(*row) for row in _read(found.group_by(ranked.c.group).order_by(ranked.c.group))]

    def results(self, type: str, *names: str) -> list[tuple[Any, ...]]:
        """See `ledger.Ledger`."""
        values = [func.substr(Job.result[name].as_string(), 1, MAX_VALUE).label(f"value{place}") for place, name in enumerate(names)]
        told = select(*values).where(*self._guard, Job.type == type, Job.result.is_not(None)).subquery()
        found = select(*told.c, func.count()).group_by(*told.c).order_by(func.count().desc()).limit(MOST_VALUES)
        return [(*(None if one is None else str(one) for one in row[:-1]), row[-1]) for row in _read(found)]

    def longest(self, most: int) -> list[LedgerRow]:
        """See `ledger.Ledger`."""
        return [LedgerRow(*row) for row in _read(self._rows().where(_RAN.is_not(None)).order_by(_RAN.desc(), Job.id).limit(most))]

    def rows(self) -> Iterator[LedgerRow]:
        """See `ledger.Ledger`. Each part is a read of its own: a long one would keep SQLite from tidying up."""
        query, last = self._rows().order_by(Job.created_at, Job.id).limit(ROWS_AT_ONCE), None
        while True:
            part = _read(query if last is None else query.where(tuple_(Job.created_at, Job.id) > tuple_(last.created_at, last.id)))
            yield from (LedgerRow(*row) for row in part)
            if len(part) < ROWS_AT_ONCE:
                return
            last = LedgerRow(*part[-1])

    def _jobs(self, every: int) -> Subquery:
        """What is counted and measured, by name. Grouped from without: PostgreSQL takes an expression for another when its parameter is."""
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


def _whose(asker_id: int, owner: str | None) -> User | None:
    """The user whose jobs are read; None for those of everybody. Raises `Permanent` for who is not the asker's to read."""
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


def _of(types: Sequence[str]) -> ColumnElement[bool]:
    internal = [one.name for one in registry.discover().values() if one.is_internal]
    return Job.type.in_(types) if types else Job.type.not_in(internal)
