"""How often something may be tried: counted in SQL, so that the limits hold over all web processes and restarts.

Each count is one statement that counts and decides at once: tries that come at the same moment do not slip through.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from limits import parse
from sqlalchemy import case, delete, select
from sqlalchemy.orm import Session

from monolith.accounts.models import LoginAttempts
from monolith.db.engine import now, upsert, write_session
from monolith.errors import TooManyRequests

FREE = 5  # wrong passwords of one account before there is a wait
LONGEST_S = 900.0
WAITS_S = {FREE + step: min(2.0**step, LONGEST_S) for step in range(11)}  # after so many: 1 s, 2 s, 4 s ...
FORGOTTEN_S = 24 * 3600.0


def limit(rate: str, what: str, who: str) -> None:
    """Count that `who` does `what`. Raises `TooManyRequests` when that is more often than `rate`, such as `10 per minute`."""
    item = parse(rate)
    is_over = LoginAttempts.began_at <= now() - float(item.get_expiry())
    again = {"count": case((is_over, 1), else_=LoginAttempts.count + 1), "began_at": case((is_over, now()), else_=LoginAttempts.began_at)}
    new = {"name": _name(what, who), "count": 1, "began_at": now(), "retry_at": now()}
    with write_session() as session:
        adding = upsert(session, LoginAttempts).values(new).on_conflict_do_update(index_elements=["name"], set_=again)
        count, left_s = session.execute(
            adding.returning(LoginAttempts.count, LoginAttempts.began_at + float(item.get_expiry()) - now())
        ).one()
    if count > item.amount:
        raise _too_often(left_s)


def begin(what: str, who: str) -> None:
    """Count a try that is expected to succeed. Raises `TooManyRequests` when it comes too early after FREE that did not.

    The wait doubles with each, up to LONGEST_S; `succeeded` forgets them. The owner of the account may be kept waiting by
    somebody else's tries, but never for longer than that.
    """
    name = _name(what, who)
    waits = case(WAITS_S, value=LoginAttempts.count + 1, else_=case((LoginAttempts.count < FREE, 0.0), else_=LONGEST_S))
    again: dict[str, Any] = {"count": LoginAttempts.count + 1, "began_at": now(), "retry_at": now() + waits}
    new = {"name": name, "count": 1, "began_at": now(), "retry_at": now()}
    with write_session() as session:
        adding = upsert(session, LoginAttempts).values(new)
        counted = adding.on_conflict_do_update(index_elements=["name"], set_=again, where=LoginAttempts.retry_at <= now())
        if session.scalar(counted.returning(LoginAttempts.name)) is None:
            raise _too_often(_left(session, name))


def succeeded(what: str, who: str) -> None:
    """Forget what was tried before, and what was tried long ago by anybody."""
    with write_session() as session:
        session.execute(delete(LoginAttempts).where(LoginAttempts.name == _name(what, who)))
        session.execute(delete(LoginAttempts).where(LoginAttempts.retry_at < now() - FORGOTTEN_S))


def _left(session: Session, name: str) -> float:
    return session.scalar(select(LoginAttempts.retry_at - now()).where(LoginAttempts.name == name)) or 0.0


def _too_often(left_s: float) -> TooManyRequests:
    wait_s = max(1, math.ceil(left_s))
    return TooManyRequests(f"Too many attempts. Try again in {wait_s} {'second' if wait_s == 1 else 'seconds'}.", retry_after=wait_s)


def _name(what: str, who: str) -> str:
    return hashlib.sha256(f"{what}\0{who}".encode()).hexdigest()
