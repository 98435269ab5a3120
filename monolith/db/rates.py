"""Rates held in SQL, so that they are true across processes: for each, the time until which what has started has used it.

Each start moves `next_at` on by one interval. What comes up to a slack earlier than that may start, so that a start that was late
by less than the slack costs nothing. In any window as long as the rate's own, that makes at most SLACK more than the rate.

`next_at` of a rate must be read and written under a lock; the callers have one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from sqlalchemy import Connection, String, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from monolith.db.models import Base
from monolith.rate import Rate

SLACK = 0.04  # of the rate's window
ROUNDING = 1e-6  # a time in seconds since 1970 has no more digits


class RateUse(Base):
    """What was used of a rate."""

    __tablename__ = "rates"

    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    next_at: Mapped[float] = mapped_column(index=True)


_USES = RateUse.__table__


def interval_s(rate: Rate, cost: float = 1) -> float:
    """For how long a start of this cost uses the rate."""
    return cost * rate.seconds / rate.amount


def slack_s(rate: Rate, cost: float = 1) -> float:
    return max(0.0, SLACK * rate.seconds - interval_s(rate, cost))


def free_at(next_at: float, rate: Rate, moment: float, cost: float = 1) -> float:
    """When the next start of this cost may be; not in the future when it may be at once."""
    return max(next_at, moment) - slack_s(rate, cost)


def room(next_at: float, rate: Rate, moment: float) -> int:
    """How many may start now."""
    early_s = moment - free_at(next_at, rate, moment)
    return max(0, math.floor((early_s + ROUNDING) / interval_s(rate)) + 1)


def cut(next_at: float, rate: Rate, moment: float) -> float:
    """`next_at` without what a slower rate has left in it that was set before."""
    return min(next_at, moment + slack_s(rate) + interval_s(rate))


def used(next_at: float, rate: Rate, moment: float, cost: float) -> float:
    """`next_at` after starts of this cost."""
    return max(next_at, moment) + interval_s(rate, cost)


def read(connection: Connection, keys: Collection[str]) -> dict[str, float]:
    """`next_at` of these rates; what was never used is missing."""
    if not keys:
        return {}
    found = select(_USES.c.key, _USES.c.next_at).where(_USES.c.key.in_(bindparam("keys", expanding=True)))
    return {row.key: row.next_at for row in connection.execute(found, {"keys": list(keys)})}


def write(connection: Connection, uses: Mapping[str, float]) -> None:
    """Store `next_at` of these rates."""
    if uses:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        row = dialect.insert(_USES)
        rows = [{"key": key, "next_at": next_at} for key, next_at in sorted(uses.items())]
        connection.execute(row.on_conflict_do_update(index_elements=["key"], set_={"next_at": row.excluded.next_at}), rows)
