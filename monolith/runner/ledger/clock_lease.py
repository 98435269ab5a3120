"""The lease of the clock: any number of clocks run, and one of them leads. It renews its lease; another takes over when it expires."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from monolith.db.engine import now, write_session
from monolith.db.models import Lease

LEASE_S = 10.0
LOST_AFTER_S = 30.0  # a worker that has not reported for so long is lost


def lead(holder: str) -> bool:
    """Take or renew the lease for this clock. False when another clock holds it."""
    is_free = or_(Lease.holder == holder, Lease.expires_at <= now())
    with write_session() as session:
        mine = update(Lease).where(Lease.name == "clock", is_free).values(holder=holder, expires_at=now() + LEASE_S)
        return session.scalar(mine.returning(Lease.name)) is not None


def resign(holder: str) -> None:
    """Give up the lease, so that another clock can lead at once. Where the database is away, the lease expires."""
    with suppress(SQLAlchemyError), write_session() as session:
        session.execute(update(Lease).where(Lease.name == "clock", Lease.holder == holder).values(expires_at=now()))


def is_ticking(session: Session) -> bool:
    """Whether a clock leads now."""
    return bool(session.scalar(select(func.count()).where(Lease.name == "clock", Lease.expires_at > now())))
