"""How many jobs may wait or run at once, of one user and in all, so that one user or one bad hour takes nobody else down.

Jobs are counted at most once a second in each process, which adds what it lets in meanwhile: a user can be over the limit
by no more than what the other web processes let in within that second.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

from sqlalchemy import Select, event, func, literal, select
from sqlalchemy.orm import Session

from monolith.config import settings
from monolith.database import now, reading
from monolith.errors import Busy, TooManyJobs
from monolith.models import LIVE, Job, User

FRESH_S = 1.0
DRAIN_S = 60  # the rate at which jobs end is taken over this long
SHORTEST_S, LONGEST_S = 5, 300  # the waits that are ever asked for
MOST_COUNTS = 10_000  # users whose counts one process remembers


@dataclass(frozen=True)
class Room:
    """How many jobs a user may have at once, how many more that leaves now, and the seconds until it may be all of them."""

    limit: int
    left: int
    seconds: int

    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers has it."""
        return {"RateLimit-Policy": f'"jobs";q={self.limit}', "RateLimit": f'"jobs";r={self.left};t={self.seconds}'}


def let_in(session: Session, user: User, jobs: int) -> None:
    """Count so many new jobs of the user in, until the session's transaction is rolled back.

    Raises `TooManyJobs` or `Busy` when they are too many. Admins are always let in.
    """
    if user.is_admin or not jobs:
        return
    with _lock:
        mine, all_of_them = _of_user(session, user.id), _in_all(session)
        _check_own(session, mine.number, jobs)
        _check_all(session, all_of_them.number, jobs)
        _add(jobs, mine, all_of_them)
    event.listen(session, "after_rollback", lambda _: _add(-jobs, mine, all_of_them), once=True)


def room(user: User) -> Room | None:
    """What the user may still submit. None for whom no limit holds."""
    limit, most = settings().max_queued_per_user, settings().max_queued
    if user.is_admin or not limit:
        return None
    with reading() as session:
        session.connection()  # before the lock: who has it must not wait for a connection of those who wait for it
        with _lock:
            mine = _of_user(session, user.id).number
            left = min(limit - mine, most - _in_all(session).number) if most else limit - mine
            return Room(limit, max(left, 0), wait(session, mine))


def wait(session: Session, jobs: int) -> int:
    """The seconds in which so many jobs end, at the rate of the last minute; at least SHORTEST_S, at most LONGEST_S."""
    ended = _ended(session).number
    seconds = jobs * DRAIN_S / ended if ended else LONGEST_S
    return min(max(math.ceil(seconds), SHORTEST_S), LONGEST_S)


def _check_own(session: Session, live: int, jobs: int) -> None:
    limit = settings().max_queued_per_user
    if limit and live + jobs > limit:
        asked = "one more" if jobs == 1 else f"{jobs} more"
        detail = f"{live:,} of your jobs wait or run, and with {asked} it would be over {limit:,}."
        raise TooManyJobs(f"{detail} Nothing was accepted. Wait until some are done.", retry_after=wait(session, live + jobs - limit))


def _check_all(session: Session, live: int, jobs: int) -> None:
    limit = settings().max_queued
    if limit and live + jobs > limit:
        detail = "So many jobs wait here that no more are taken just now. Nothing was accepted. Try again later."
        raise Busy(detail, retry_after=wait(session, live + jobs - limit))


# ---- counting


@dataclass
class Count:
    number: int = 0
    counted_at: float = -math.inf


_lock = threading.RLock()
_counts: dict[tuple[str, str], Count] = {}


def _of_user(session: Session, user_id: int) -> Count:
    return _fresh(session, f"user {user_id}", _live_of(user_id))


def _live_of(user_id: int) -> Select[int]:
    return select(func.count()).where(Job.owner_id == user_id, LIVE)


def _in_all(session: Session) -> Count:
    """Counted up to the limit only: what is above it makes no difference."""
    some = select(literal(1)).select_from(Job).where(LIVE).limit(settings().max_queued + 1).subquery()
    return _fresh(session, "all", select(func.count()).select_from(some))


def _ended(session: Session) -> Count:
    return _fresh(session, "ended", select(func.count()).where(Job.ended_at > now() - DRAIN_S))


def _add(jobs: int, *counts: Count) -> None:
    with _lock:
        for count in counts:
            count.number = max(count.number + jobs, 0)


def _fresh(session: Session, name: str, query: Select[int]) -> Count:
    """The count of this name, at most FRESH_S old."""
    with _lock:
        if len(_counts) > MOST_COUNTS:
            _counts.clear()
        known = _counts.setdefault((settings().database_url, name), Count())
        if time.monotonic() - known.counted_at > FRESH_S:
            known.number, known.counted_at = session.scalar(query) or 0, time.monotonic()
        return known
