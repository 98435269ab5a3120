"""The lease of the clock: any number of clocks run, and one of them leads. It renews its lease; another takes over when it expires."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from monolith.db.engine import now, read_connection, write_session
from monolith.db.models import Lease

LEASE_S = 10.0


# One that lasts longer than a lease can was made before the database's clock was set back.
_is_valid = and_(Lease.expires_at > now(), Lease.expires_at <= now() + LEASE_S)


def lead(holder: str) -> bool:
    """Take or renew the lease for this clock. False when another clock holds it."""
    is_free = or_(Lease.holder == holder, ~_is_valid)
    with write_session() as session:
        mine = update(Lease).where(Lease.name == "clock", is_free).values(holder=holder, expires_at=now() + LEASE_S)
        return session.scalar(mine.returning(Lease.name)) is not None


def set_back_s() -> float:
    """By how many seconds at least the database's clock was set back since the lease was made; not above 0 if it was not."""
    with read_connection() as connection:
        return float(connection.scalar(select(Lease.expires_at - now() - LEASE_S).where(Lease.name == "clock")) or 0)


def resign(holder: str) -> None:
    """Give up the lease, so that another clock can lead at once. Where the database is away, the lease expires."""
    with suppress(SQLAlchemyError), write_session() as session:
        session.execute(update(Lease).where(Lease.name == "clock", Lease.holder == holder).values(expires_at=now()))


def is_ticking(session: Session) -> bool:
    """Whether a clock leads now."""
    return bool(session.scalar(select(func.count()).where(Lease.name == "clock", _is_valid)))
