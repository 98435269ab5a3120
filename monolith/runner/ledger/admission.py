"""Limits on the jobs that wait or run at once, of one user and of all, so that one user or one busy hour does not block everybody.

Each process counts the jobs at most once a second and adds what it admits in between. One thread counts, and the others use the
previous count meanwhile. A user can exceed the limit by no more than what the other web processes admit between two counts.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from sqlalchemy import Connection, Select, func, literal, select

from monolith.config import settings
from monolith.db.engine import now, read_connection
from monolith.db.models import LIVE, OVER, Job, User
from monolith.db.postgresql_session import wait_for_locks
from monolith.errors import Busy, TooManyJobs
from monolith.job_types import registry

FRESH_S = 1.0
DRAIN_S = 60  # the rate at which jobs end is measured over this time
SHORTEST_S, LONGEST_S = 5, 300  # bounds of Retry-After
TURN_S = 15.0  # how long a request waits for its turn
MOST_COUNTS = 10_000  # users whose counts one process remembers


@dataclass(frozen=True)
class Headroom:
    """How many live jobs a user may have, how many more that leaves now, and the seconds until it may be all of them."""

    limit: int
    left: int
    seconds: int

    def headers(self) -> dict[str, str]:
        """The headers of draft-ietf-httpapi-ratelimit-headers."""
        return {"RateLimit-Policy": f'"jobs";q={self.limit}', "RateLimit": f'"jobs";r={self.left};t={self.seconds}'}


@dataclass
class CachedCount:
    """A number of jobs: what a query counted, and what this process has admitted since. Counted again when older than FRESH_S.

    `admitted` grows when a submission begins, `inserted` when it ends. `seen` is what `inserted` was before the query: all of that
    is in `counted`, so a job that is inserted during the query is not missed.
    """

    query: Callable[[], Select[int]]
    counted: int = 0
    counted_at: float = -math.inf
    admitted: int = 0
    inserted: int = 0
    seen: int = 0

    @property
    def number(self) -> int:
        return self.counted + self.admitted - self.seen

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.counted_at <= FRESH_S

    @property
    def is_usable(self) -> bool:
        """Whether a thread may use it while another one counts again."""
        return time.monotonic() - self.counted_at <= 3 * FRESH_S

    def refresh(self, connection: Connection) -> None:
        if self.is_fresh:
            return
        inserted = self.inserted
        counted = connection.scalar(self.query()) or 0
        with _lock:
            self.counted, self.seen, self.counted_at = counted, inserted, time.monotonic()


_lock = threading.Lock()  # of all counts
_counting = threading.Lock()  # held by the thread that counts
_counts: dict[tuple[str, int | str], CachedCount] = {}


@contextmanager
def admit(connection: Connection | None, user: User, jobs: int) -> Iterator[None]:
    """Count so many new jobs of the user; when the block raises, count them out again.

    Without a `connection`, one is opened where a count is too old. Raises `TooManyJobs` or `Busy` when they are too many. Admins are
    always admitted.
    """
    if user.is_admin or not jobs:
        yield
        return
    own, everybody, ended = counts = _counts_for(user.id)
    _refresh(counts, connection)
    with _lock:
        _check_limits(own.number, everybody.number, ended.number, jobs)
        for count in (own, everybody):
            count.admitted += jobs
    try:
        yield
    except BaseException:
        with _lock:
            for count in (own, everybody):
                count.admitted -= jobs
        raise
    with _lock:
        for count in (own, everybody):
            count.inserted += jobs


@contextmanager
def admit_again(user: User, connection: Connection, jobs: int) -> Iterator[None]:
    """`admit`, for jobs of the user that are over and shall wait again. Requests for them take turns, whatever process they are in.

    One request may be for a thousand jobs, so two that are admitted by a count of a second ago would double the user's limit.
    """
    if settings().max_queued_per_user and not user.is_admin:
        wait_for_locks(connection, TURN_S)
        connection.execute(select(User.id).where(User.id == user.id).with_for_update(key_share=True))  # submissions do not wait for it
        own, _, _ = _counts_for(user.id)
        with _counting:
            own.counted_at = -math.inf
            own.refresh(connection)
    with admit(connection, user, jobs):
        yield


def room_for(user: User, jobs: int) -> int:
    """How many of so many jobs of the user, which were refused just now, there is room for."""
    own, everybody, _ = _counts_for(user.id)
    limits = (settings().max_queued_per_user, own), (settings().max_queued, everybody)
    return max(0, min([jobs, *(limit - count.number for limit, count in limits if limit)]))


def _check_limits(own: int, everybody: int, ended: int, jobs: int) -> None:
    own_limit, limit = settings().max_queued_per_user, settings().max_queued
    if own_limit and own + jobs > own_limit:
        more = "one more" if jobs == 1 else f"{jobs:,} more"
        raise TooManyJobs(
            f"You have {own:,} waiting or running {'job' if own == 1 else 'jobs'}; {more} would exceed your limit of {own_limit:,}. "
            "Wait until some jobs are done, then try again.",
            retry_after=_seconds(own + jobs - own_limit, ended),
        )
    if limit and everybody + jobs > limit:
        detail = "The queue is full. Try again later."
        raise Busy(detail, retry_after=_seconds(everybody + jobs - limit, ended))


def headroom(user: User) -> Headroom | None:
    """What the user may still submit. None for a user without a limit. Needs no query right after a submission."""
    own_limit, limit = settings().max_queued_per_user, settings().max_queued
    if user.is_admin or not own_limit:
        return None
    own, everybody, ended = counts = _counts_for(user.id)
    _refresh(counts)
    left = min(own_limit - own.number, limit - everybody.number) if limit else own_limit - own.number
    return Headroom(own_limit, max(left, 0), _seconds(own.number, ended.number))


def _seconds(jobs: int, ended: int) -> int:
    """The seconds in which so many jobs end, at the rate of the last minute; from SHORTEST_S to LONGEST_S."""
    seconds = jobs * DRAIN_S / ended if ended else LONGEST_S
    return min(max(math.ceil(seconds), SHORTEST_S), LONGEST_S)


# ---- counting


def _refresh(counts: Sequence[CachedCount], connection: Connection | None = None) -> None:
    """Count again what is not fresh. One thread does, on this connection or another; the others go on with the last number meanwhile."""
    if all(count.is_fresh for count in counts) or not _counting.acquire(blocking=not all(count.is_usable for count in counts)):
        return
    try:
        with nullcontext(connection) if connection else read_connection() as usable:
            for count in counts:
                count.refresh(usable)
    finally:
        _counting.release()


def _counts_for(user_id: int) -> tuple[CachedCount, CachedCount, CachedCount]:
    """The live jobs of the user, the live jobs of everybody, and the jobs that ended within DRAIN_S."""
    return _count(user_id, lambda: _live_of(user_id)), _count("everybody", _live), _count("ended", _ended)


def _count(name: int | str, query: Callable[[], Select[int]]) -> CachedCount:
    key = settings().database_url, name
    if found := _counts.get(key):
        return found
    with _lock:
        if len(_counts) > MOST_COUNTS:
            _counts.clear()
        return _counts.setdefault(key, CachedCount(query))


def _live_of(user_id: int) -> Select[int]:
    return select(func.count()).where(Job.owner_id == user_id, LIVE)


def _live() -> Select[int]:
    """Counts no further than the limit."""
    some = select(literal(1)).select_from(Job).where(LIVE).limit(settings().max_queued + 1).subquery()
    return select(func.count()).select_from(some)


def _ended() -> Select[int]:
    """Names statuses and types, and evaluates the time once, so that the index on these is used."""
    since = select(now() - DRAIN_S).scalar_subquery()
    return select(func.count()).where(Job.status.in_(OVER), Job.type.in_(registry.discover()), Job.ended_at > since)
