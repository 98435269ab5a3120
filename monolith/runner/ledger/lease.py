"""TODO monolith.job_types.interface.lease."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from monolith.db.engine import now, write_session
from monolith.db.models import Lease

LEASE_S = 10.0
LOST_AFTER_S = 30.0


def lead(holder: str) -> bool:
    """Take or keep the lease. False when another clock holds it."""
    free = or_(Lease.holder == holder, Lease.expires_at <= now())
    with write_session() as session:
        mine = update(Lease).where(Lease.name == "clock", free).values(holder=holder, expires_at=now() + LEASE_S)
        return session.scalar(mine.returning(Lease.name)) is not None


def resign(holder: str) -> None:
    """Let another clock lead at once. Where the database is away, the lease runs out by itself."""
    with suppress(SQLAlchemyError), write_session() as session:
        session.execute(update(Lease).where(Lease.name == "clock", Lease.holder == holder).values(expires_at=now()))


def is_ticking(session: Session) -> bool:
    """Whether some clock leads now."""
    return bool(session.scalar(select(func.count()).where(Lease.name == "clock", Lease.expires_at > now())))
