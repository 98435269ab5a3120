"""Limits how often a user or an address does something, such as signing in, and slows down wrong passwords.

Counted in SQL, so that the limits hold over all web processes and restarts. Each count is one statement that counts and decides at
once, so concurrent attempts cannot slip through.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from sqlalchemy import case, delete, or_, select

from monolith import rate
from monolith.accounts.models import LoginAttempts
from monolith.db.engine import now, unlocked, upsert, write_session
from monolith.errors import TooManyRequests

FREE_ATTEMPTS = 5  # wrong passwords of one account before there is a wait
MAX_WAIT_S = 900.0
WAITS_S = {FREE_ATTEMPTS + step: min(2.0**step, MAX_WAIT_S) for step in range(11)}  # by number of attempts: 1 s, 2 s, 4 s ...
FORGOTTEN_S = 24 * 3600.0


def limit(at_most: str, what: str, who: str) -> None:
    """Count that `who` does `what`. Raises `TooManyRequests` when that is more often than `at_most`, such as `10 per minute`."""
    allowed = rate.parse(at_most)
    window_s = float(allowed.seconds)
    # A time in the future was set before the database's clock was set back.
    is_over = or_(LoginAttempts.began_at <= now() - window_s, LoginAttempts.began_at > now())
    again = {"count": case((is_over, 1), else_=LoginAttempts.count + 1), "began_at": case((is_over, now()), else_=LoginAttempts.began_at)}
    new = {"name": _name(what, who), "count": 1, "began_at": now(), "retry_at": now()}
    with write_session() as session:
        adding = upsert(session, LoginAttempts).values(new).on_conflict_do_update(index_elements=["name"], set_=again)
        count, left_s = session.execute(adding.returning(LoginAttempts.count, LoginAttempts.began_at + window_s - now())).one()
    if count > allowed.amount:
        raise _too_many(left_s)


def begin(what: str, who: str) -> None:
    """Count an attempt before its outcome is known. Raises `TooManyRequests` when it comes too early after FREE_ATTEMPTS failures.

    The wait doubles with each attempt, up to MAX_WAIT_S; `succeeded` resets it. Somebody else's attempts may keep the owner of an
    account waiting, but never for longer than that.
    """
    name = _name(what, who)
    waits = case(WAITS_S, value=LoginAttempts.count + 1, else_=case((LoginAttempts.count < FREE_ATTEMPTS, 0.0), else_=MAX_WAIT_S))
    again: dict[str, Any] = {"count": LoginAttempts.count + 1, "began_at": now(), "retry_at": now() + waits}
    new = {"name": name, "count": 1, "began_at": now(), "retry_at": now()}
    with write_session() as session:
        adding = upsert(session, LoginAttempts).values(new)
        may_try = or_(LoginAttempts.retry_at <= now(), LoginAttempts.retry_at > now() + MAX_WAIT_S)
        counted = adding.on_conflict_do_update(index_elements=["name"], set_=again, where=may_try)
        if session.scalar(counted.returning(LoginAttempts.name)) is None:
            left_s = session.scalar(select(LoginAttempts.retry_at - now()).where(LoginAttempts.name == name))
            raise _too_many(left_s or 0.0)


def succeeded(what: str, who: str) -> None:
    """Forget the attempts of `who`, and all attempts older than FORGOTTEN_S."""
    with write_session() as session:
        session.execute(delete(LoginAttempts).where(LoginAttempts.name == _name(what, who)))
        old = unlocked(select(LoginAttempts.name).where(LoginAttempts.retry_at < now() - FORGOTTEN_S))
        session.execute(delete(LoginAttempts).where(LoginAttempts.name.in_(old)))


def _too_many(left_s: float) -> TooManyRequests:
    wait_s = max(1, math.ceil(left_s))
    return TooManyRequests(f"Too many attempts. Try again in {wait_s} {'second' if wait_s == 1 else 'seconds'}.", retry_after=wait_s)


def _name(what: str, who: str) -> str:
    return hashlib.sha256(f"{what}\0{who}".encode()).hexdigest()
