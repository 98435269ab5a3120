"""Limits on running jobs, and rates at which jobs start: which queued jobs may be claimed, which are held, and which are queued again.

A job that a limit refuses is **held**: `scheduled` without a time of its own, so no attempt is spent and no worker asks for it
again. Those that a limit holds wait in order: the most urgent priority first; of one priority, owners take turns; of one owner, the
job that was queued first. Whoever makes room, or finds some, gives it to them in this order: a claim, the end of a job, and the
clock. A held job that was queued again has a slot `promised` for some seconds; it is charged to a rate only when it is claimed.

All decisions are made one after the other, under a lock (`lock`), so the limits hold across workers. `lifecycle` applies what is
decided here. The types that no limit concerns never come here.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Connection, Select, String, bindparam, cast, func, literal, select, text
from sqlalchemy.orm import Session

from monolith.config import settings
from monolith.db import rates
from monolith.db.engine import now, read_connection, read_now
from monolith.db.models import HELD, Job
from monolith.db.rates import RateUse
from monolith.job_types import registry
from monolith.job_types.registry import PRIORITIES, JobType
from monolith.rate import Rate
from monolith.runner.ledger import pauses

LOCK = 0x6C696D6974  # of PostgreSQL's advisory locks; it ends with the transaction, so it works behind PgBouncer
PROMISED_S = 5.0  # for how long a slot is kept for a job that was queued again; then a worker that is there gets it
SPARE = 20  # held jobs of more owners are read than there is room for: another limit may refuse some of them
BATCH = 1000
TURN = "turn:"  # and an owner's id: the key in `rates` of when the owner was last given a slot
PER_USER = "user"  # the kind of the limit MAX_RUNNING_PER_USER; all other kinds are fields of JobType
RUNNING = (PER_USER, "max_running_per_user", "max_running")
RATES = ("rate_per_user", "rate")

Owned = tuple[str, int]  # a job's type and owner: all that decides which limits concern it


class Limit(NamedTuple):
    """One limit: how many jobs may run at once, or the rate at which they start."""

    key: str
    most: int
    rate: Rate | None
    reason: str  # for the person whose job waits


class Held(NamedTuple):
    """A queued job that must wait, and for which limit."""

    job_id: str
    limit: Limit


@dataclass
class Allotment:
    """What is to be done: claim these, hold those, queue held ones again."""

    admitted: list[str] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    again_in: float | None = None  # seconds until a rate has room for a job that it holds


# ---- which limits there are


def limited_types() -> list[str]:
    """The job types whose claims must be decided here: those with a limit; all but internal ones when users have one."""
    return [one.name for one in registry.discover().values() if any(_limit(kind, one, 0) for kind in (*RUNNING, *RATES))]


def _limits_of(owned: Owned) -> list[Limit]:
    """The limits that concern the jobs of this type and owner."""
    job_type = registry.discover().get(owned[0])
    return [limit for kind in (*RUNNING, *RATES) if job_type and (limit := _limit(kind, job_type, owned[1]))]


def _limit(kind: str, job_type: JobType, owner_id: int) -> Limit | None:
    """The limit of this kind; None where there is none."""
    is_own = kind.endswith(PER_USER)
    if kind == PER_USER:
        most = 0 if job_type.is_internal else settings().max_running_per_user
        return Limit(f"{kind}::{owner_id}", most, None, f"{_jobs(most, ' of your')} running, which is the limit.") if most else None
    key = f"{kind}:{job_type.name}:{owner_id}" if is_own else f"{kind}:{job_type.name}"
    if kind in RUNNING:
        most = getattr(job_type, kind)
        return (
            Limit(key, most, None, f"{_jobs(most, ' of your' if is_own else '', ' of this type')} running, which is the limit.")
            if most
            else None
        )
    rate: Rate | None = getattr(job_type, kind)
    return Limit(key, 0, rate, f"This job type starts at most {_rate_words(rate, is_own)}.") if rate else None


def _jobs(number: int, whose: str, which: str = "") -> str:
    one = number == 1
    return f"{number:,}{whose} {'job' if one and not whose else 'jobs'}{which} {'is' if one else 'are'}"


def _rate_words(rate: Rate, is_own: bool) -> str:
    amount, _, unit = str(rate).partition(" ")
    return f"{amount} {'of your ' if is_own else ''}{'job' if amount == '1' and not is_own else 'jobs'} {unit}"


def _limit_of_key(key: str) -> Limit | None:
    """The limit that holds a job, as it is now; None when it was removed since."""
    kind, name, owner_id = (*key.split(":"), "")[:3]
    if kind == PER_USER:  # of all types: any of them that is not internal will do
        types = [one for one in registry.discover().values() if not one.is_internal]
        return _limit(kind, types[0], int(owner_id)) if types else None
    job_type = registry.discover().get(name)
    return _limit(kind, job_type, int(owner_id or 0)) if job_type else None


def concern(jobs: Iterable[Owned]) -> bool:
    """Whether any limit concerns jobs of these types and owners."""
    return any(_limits_of(owned) for owned in set(jobs))


# ---- the decision

_IDS: BindParameter[Any] = bindparam("job_ids", expanding=True)
_STARTED, _QUEUED, _SCHEDULED = (text(f"jobs.status = '{one}'") for one in ("started", "queued", "scheduled"))  # for partial indexes
_CONTENDER = (Job.id, Job.type, Job.owner_id, Job.priority, Job.status, Job.held_by, Job.held_since, Job.queued_at)
_may_run = ~pauses.holds_back(Job.queue, Job.type)
_CANDIDATES = select(*_CONTENDER).where(Job.id.in_(_IDS), _QUEUED, _may_run).with_for_update(skip_locked=True, key_share=True)
_RUNNING = select(Job.type, Job.owner_id, func.count()).where(_STARTED).group_by(Job.type, Job.owner_id)
_PROMISED = (
    select(Job.type, Job.owner_id, func.count())
    .where(HELD, _QUEUED, Job.queued_at.between(now() - PROMISED_S, now()), Job.id.not_in(_IDS))
    .group_by(Job.type, Job.owner_id)
)
_KEYS = select(Job.held_by).where(HELD, _SCHEDULED).distinct()
_HELD = (HELD, _SCHEDULED, Job.held_by == bindparam("key"), Job.priority == bindparam("priority"), _may_run)
_OLDEST = (
    select(*_CONTENDER)
    .where(*_HELD, Job.owner_id == bindparam("owner_id"))
    .order_by(Job.held_since)
    .limit(bindparam("number"))
    .with_for_update(skip_locked=True, key_share=True)
)


def _owners() -> Select[tuple[int]]:
    """The owners whose jobs a limit holds, who was served last being last. It reads one row for each, however many jobs they have."""
    owners = select(func.min(Job.owner_id).label("id")).where(*_HELD).cte("owners", recursive=True)
    following = select(func.min(Job.owner_id)).where(*_HELD, Job.owner_id > owners.c.id).scalar_subquery()
    owners = owners.union_all(select(following).where(owners.c.id.is_not(None)))
    served = select(RateUse.next_at).where(RateUse.key == TURN + cast(owners.c.id, String)).scalar_subquery()
    return select(owners.c.id).where(owners.c.id.is_not(None)).order_by(func.coalesce(served, 0.0), owners.c.id).limit(bindparam("number"))


_OWNERS = _owners()


def are_held() -> bool:
    """Whether any limit holds a job."""
    with read_connection() as connection:
        return connection.scalar(select(literal(1)).where(HELD, _SCHEDULED).select_from(Job).limit(1)) is not None


def lock(connection: Connection) -> None:
    """Wait until nobody else decides, and keep others from it until the end of the transaction.

    On SQLite, a write transaction is alone anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))


def decide(connection: Connection, job_ids: Collection[str] = (), ended: Collection[Owned] | None = ()) -> Allotment:
    """Decide about these queued jobs, and about the held jobs for which there may be room.

    These are the ones that wait for the same limits as the queued jobs or as `ended` jobs; with `ended` None, all. What is used of
    rates is stored. The connection is in a transaction that has the `lock`.
    """
    ids = list(job_ids)
    candidates: Sequence[Any] = connection.execute(_CANDIDATES, {"job_ids": ids}).all() if ids else []
    if ended is None:
        keys = {str(key) for key in connection.scalars(_KEYS)}
    else:
        keys = {limit.key for owned in {*ended, *(_owned(one) for one in candidates)} for limit in _limits_of(owned)}
    room = _Room(connection, ids, {*keys, *(limit.key for one in candidates for limit in _limits_of(_owned(one)))})
    waiting = {one.id: one for key in keys for one in _oldest(connection, key, room.of_key(key))}
    allotment = Allotment()
    turns = _Turns(connection, [*candidates, *waiting.values()], room.moment)
    for one in turns:
        if _decide(one, room, allotment) and not _had_its_turn(one):
            turns.served(one.owner_id)
    room.store(connection)
    turns.store(connection)
    allotment.again_in = room.again_in(keys)
    return allotment


def _owned(row: Any) -> Owned:
    return row.type, row.owner_id


def _oldest(connection: Connection, key: str, number: float) -> list[Any]:
    """Those that wait first for this limit: of the owners whose turn is next, each as many as there is room for."""
    found: list[Any] = []
    number = min(number, BATCH)
    for priority in PRIORITIES:
        if number > 0 and len(found) < number + SPARE:
            asked = {"key": key, "priority": priority}
            for owner_id in connection.scalars(_OWNERS, {**asked, "number": number + SPARE}).all():
                found += connection.execute(_OLDEST, {**asked, "owner_id": owner_id, "number": number})
    return found


def _decide(one: Any, room: _Room, allotment: Allotment) -> bool:
    """Returns whether it may start."""
    limits = _limits_of(_owned(one))
    refusing = next((limit for limit in limits if room.of(limit) < 1), None)
    if refusing:
        if refusing.key != one.held_by or one.status == "queued":
            allotment.held.append(Held(one.id, refusing))
        return False
    room.take(limits, is_start=one.status == "queued")
    (allotment.admitted if one.status == "queued" else allotment.released).append(one.id)
    return True


class _Turns:
    """These jobs in the order in which they are served: by priority, then the owner who was served the longest ago, then by age."""

    def __init__(self, connection: Connection, jobs: Iterable[Any], moment: float) -> None:
        self._lines: dict[int, deque[Any]] = {}
        for one in sorted(jobs, key=_place):
            self._lines.setdefault(one.owner_id, deque()).append(one)
        self._served_at = rates.read(connection, [_turn(owner_id) for owner_id in self._lines])
        self._last_at = max([moment, *self._served_at.values()])
        self._changed: set[str] = set()

    def __iter__(self) -> Iterator[Any]:
        heads = [self._head(owner_id) for owner_id in self._lines]
        heapq.heapify(heads)
        while heads:
            owner_id = heapq.heappop(heads)[-1]
            yield self._lines[owner_id].popleft()
            if self._lines[owner_id]:
                heapq.heappush(heads, self._head(owner_id))

    def _head(self, owner_id: int) -> tuple[int, float, float, str, int]:
        first = self._lines[owner_id][0]
        priority, since, job_id = _place(first)
        return priority, 0.0 if _had_its_turn(first) else self._served_at.get(_turn(owner_id), 0.0), since, job_id, owner_id

    def served(self, owner_id: int) -> None:
        """The turn of this owner is over."""
        self._last_at += rates.ROUNDING
        self._served_at[_turn(owner_id)] = self._last_at
        self._changed.add(_turn(owner_id))

    def store(self, connection: Connection) -> None:
        rates.write(connection, {key: self._served_at[key] for key in self._changed})


def _place(row: Any) -> tuple[int, float, str]:
    """The place in the line of one owner."""
    return PRIORITIES.index(row.priority), row.held_since or row.queued_at or 0.0, row.id


def _had_its_turn(row: Any) -> bool:
    """Whether it was held, and was released since: a slot is promised to it."""
    return row.status == "queued" and row.held_by is not None


def _turn(owner_id: int) -> str:
    return f"{TURN}{owner_id}"


class _Room:
    """The room that limits have: read at once, then counted down."""

    def __init__(self, connection: Connection, candidates: list[str], keys: set[str]) -> None:
        self.moment = read_now(connection)
        self._promised = _by_key(connection.execute(_PROMISED, {"job_ids": candidates}))
        self._running = _by_key(connection.execute(_RUNNING))
        self._next_at = {
            key: rates.cut(next_at, limit.rate, self.moment)
            for key, next_at in rates.read(connection, [key for key in keys if is_rate(key)]).items()
            if (limit := _limit_of_key(key)) and limit.rate
        }
        self._changed: set[str] = set()

    def of(self, limit: Limit) -> int:
        """How many more jobs may start now."""
        promised = self._promised[limit.key]
        if limit.rate:
            return rates.room(self._next_at.get(limit.key, 0.0), limit.rate, self.moment) - promised
        return limit.most - self._running[limit.key] - promised

    def of_key(self, key: str) -> float:
        limit = _limit_of_key(key)
        if limit:
            return self.of(limit)
        kind, name, *_ = key.split(":")
        is_known = kind == PER_USER or name in registry.discover()
        return math.inf if is_known else 1  # of a type that only other versions know: workers that have it hold what exceeds its limit

    def take(self, limits: list[Limit], *, is_start: bool) -> None:
        """Take a slot of each limit: for a start, or to promise it."""
        for limit in limits:
            if not is_start:
                self._promised[limit.key] += 1
            elif limit.rate:
                self._next_at[limit.key] = rates.used(self._next_at.get(limit.key, 0.0), limit.rate, self.moment, 1)
                self._changed.add(limit.key)
            else:
                self._running[limit.key] += 1

    def store(self, connection: Connection) -> None:
        rates.write(connection, {key: self._next_at[key] for key in self._changed})

    def again_in(self, keys: Iterable[str]) -> float | None:
        """The seconds until the first of these rates has room."""
        limits = [limit for key in keys if (limit := _limit_of_key(key)) and limit.rate]
        return min((wait_s for limit in limits if (wait_s := self._wait_s(limit)) > 0), default=None)  # not above 0: all are paused

    def _wait_s(self, limit: Limit) -> float:
        assert limit.rate  # noqa: S101 - for mypy
        free_at = rates.free_at(self._next_at.get(limit.key, 0.0), limit.rate, self.moment)
        return free_at + self._promised[limit.key] * rates.interval_s(limit.rate) - self.moment


def _by_key(rows: Iterable[Any]) -> Counter[str]:
    """The number of jobs by the key of each limit that concerns them."""
    found: Counter[str] = Counter()
    for type_name, owner_id, number in rows:
        for limit in _limits_of((type_name, owner_id)):
            found[limit.key] += number
    return found


# ---- for people


def is_rate(key: str) -> bool:
    """Whether what holds a job is a rate, not a limit on running jobs."""
    return key.partition(":")[0] in RATES


def starts_at(session: Session, job: Any) -> float | None:
    """About when a job that a rate holds starts, if those before it start; in seconds since 1970."""
    limit = _limit_of_key(job.held_by)
    if limit is None or limit.rate is None:
        return None
    connection, moment = session.connection(), read_now(session)
    more_urgent = PRIORITIES[: PRIORITIES.index(job.priority)]
    is_before = Job.priority.in_(more_urgent) | (Job.owner_id != job.owner_id) | (Job.held_since < job.held_since)
    waits = (HELD, _SCHEDULED, Job.held_by == limit.key, Job.priority.in_([*more_urgent, job.priority]), is_before)
    lines = select(Job.priority, Job.owner_id, func.count().label("number")).where(*waits).group_by(Job.priority, Job.owner_id)
    numbers: dict[tuple[str, int], int] = {(row.priority, row.owner_id): row.number for row in session.execute(lines)}
    own = numbers.get((job.priority, job.owner_id), 0)  # of each other owner, as many start before it
    ahead: int = sum(number if priority != job.priority else min(number, own) for (priority, _), number in numbers.items())
    next_at = rates.read(connection, [limit.key]).get(limit.key, 0.0)
    return max(moment, rates.free_at(next_at, limit.rate, moment)) + ahead * rates.interval_s(limit.rate)
