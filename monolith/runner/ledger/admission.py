"""How many jobs may wait or run at once, of one user and in all, so that one user or one bad hour takes nobody else down.

Jobs are counted at most once a second in each process, which adds what it lets in meanwhile: a user can be over the limit
by no more than what the other web processes let in within that second.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Select, func, literal, select

from monolith.config import settings
from monolith.db.engine import now, read_connection
from monolith.db.models import LIVE, OVER, Job, User
from monolith.errors import Busy, TooManyJobs
from monolith.job_types import registry

FRESH_S = 1.0
DRAIN_S = 60  # the rate at which jobs end is taken over this long
SHORTEST_S, LONGEST_S = 5, 300  # the waits that are ever asked for
MOST_COUNTS = 10_000  # users whose counts one process remembers


@dataclass(frozen=True)
class Headroom:
    """How many jobs a user may have at once, how many more that leaves now, and the seconds until it may be all of them."""

    limit: int
    left: int
    seconds: int

    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers has it."""
        return {"RateLimit-Policy": f'"jobs";q={self.limit}', "RateLimit": f'"jobs";r={self.left};t={self.seconds}'}


@contextmanager
def admit(connection: Connection, user: User, jobs: int) -> Iterator[None]:
    """Count so many new jobs of the user in, and out again when the block raises.

    Raises `TooManyJobs` or `Busy` when they are too many. Admins are always let in.
    """
    if user.is_admin or not jobs:
        yield
        return
    with _lock:
        mine, all_of_them = _of_user(connection, user.id), _in_all(connection)
        _check_own(connection, mine.number, jobs)
        _check_all(connection, all_of_them.number, jobs)
        _add(jobs, mine, all_of_them)
    try:
        yield
    except BaseException:
        _add(-jobs, mine, all_of_them)
        raise


def room(user: User) -> Headroom | None:
    """What the user may still submit. None for whom no limit holds."""
    limit, most = settings().max_queued_per_user, settings().max_queued
    if user.is_admin or not limit:
        return None
    mine, all_of_them, ended = _counts_for(user.id)
    left = min(limit - mine.number, most - all_of_them.number) if most else limit - mine.number
    return Headroom(limit, max(left, 0), _seconds(mine.number, ended.number))


def wait(connection: Connection, jobs: int) -> int:
    """The seconds in which so many jobs end, at the rate of the last minute; at least SHORTEST_S, at most LONGEST_S."""
    return _seconds(jobs, _ended(connection).number)


def _seconds(jobs: int, ended: int) -> int:
    seconds = jobs * DRAIN_S / ended if ended else LONGEST_S
    return min(max(math.ceil(seconds), SHORTEST_S), LONGEST_S)


def _check_own(connection: Connection, live: int, jobs: int) -> None:
    limit = settings().max_queued_per_user
    if limit and live + jobs > limit:
        asked = "one more" if jobs == 1 else f"{jobs:,} more"
        detail = f"You have {live:,} waiting or running {'job' if live == 1 else 'jobs'}; {asked} would exceed your limit of {limit:,}."
        raise TooManyJobs(
            f"{detail} Nothing was submitted. Wait until some jobs are done.", retry_after=wait(connection, live + jobs - limit)
        )


def _check_all(connection: Connection, live: int, jobs: int) -> None:
    limit = settings().max_queued
    if limit and live + jobs > limit:
        detail = "The queue is full. Nothing was submitted. Try again later."
        raise Busy(detail, retry_after=wait(connection, live + jobs - limit))


# ---- counting


@dataclass
class CachedCount:
    number: int = 0
    counted_at: float = -math.inf

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.counted_at <= FRESH_S


_lock = threading.RLock()
_counts: dict[tuple[str, str], CachedCount] = {}


def _counts_for(user_id: int) -> tuple[CachedCount, CachedCount, CachedCount]:
    """Of the user, in all, and of what ended: without asking the database right after a submission, which has."""
    known = _known(_name(user_id)), _known("all"), _known("ended")
    if all(count.is_fresh for count in known):
        return known
    with read_connection() as connection, _lock:  # in this order: who has the lock must not wait for a connection of those who wait for it
        return _of_user(connection, user_id), _in_all(connection), _ended(connection)


def _name(user_id: int) -> str:
    return f"user {user_id}"


def _of_user(connection: Connection, user_id: int) -> CachedCount:
    return _fresh(connection, _name(user_id), lambda: _live_of(user_id))


def _live_of(user_id: int) -> Select[int]:
    return select(func.count()).where(Job.owner_id == user_id, LIVE)


def _in_all(connection: Connection) -> CachedCount:
    return _fresh(connection, "all", _live)


def _live() -> Select[int]:
    """Counted up to the limit only: what is above it makes no difference."""
    some = select(literal(1)).select_from(Job).where(LIVE).limit(settings().max_queued + 1).subquery()
    return select(func.count()).select_from(some)


def _ended(connection: Connection) -> CachedCount:
    return _fresh(connection, "ended", _lately_ended)


def _lately_ended() -> Select[int]:
    """Statuses and types are named, and the moment read once, because the index is by these: else all that ever ended is looked through."""
    since = select(now() - DRAIN_S).scalar_subquery()
    return select(func.count()).where(Job.status.in_(OVER), Job.type.in_(registry.discover()), Job.ended_at > since)


def _add(jobs: int, *counts: CachedCount) -> None:
    with _lock:
        for count in counts:
            count.number = max(count.number + jobs, 0)


def _fresh(connection: Connection, name: str, query: Callable[[], Select[int]]) -> CachedCount:
    """The count of this name, at most FRESH_S old."""
    with _lock:
        known = _known(name)
        if not known.is_fresh:
            known.number, known.counted_at = connection.scalar(query()) or 0, time.monotonic()
        return known


def _known(name: str) -> CachedCount:
    """The count of this name as it is known, fresh or not."""
    with _lock:
        if len(_counts) > MOST_COUNTS:
            _counts.clear()
        return _counts.setdefault((settings().database_url, name), CachedCount())
