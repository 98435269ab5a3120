"""The LLM cost of each user and day (UTC, by the database's clock), and the daily budgets from the settings.

A budget is checked before a call and charged after it, so calls in progress can exceed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import BigInteger, case, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from monolith.config import settings
from monolith.db.engine import read_now, read_session, upsert
from monolith.db.models import Base
from monolith.errors import Snooze

DAY_S = 24 * 3600.0
PLACES = 9  # decimal places of a dollar: the price of a single token is then exact


class Spending(Base):
    """The LLM cost of one user on one day. Not part of the jobs: deleting jobs does not give the budget back."""

    __tablename__ = "spendings"

    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # days since 1970
    owner_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    nano_usd: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True)
class Cost:
    """The tokens and the cost of one LLM call."""

    input_tokens: int
    output_tokens: int
    usd: Decimal


def record(session: Session, owner_id: int, cost: Cost) -> None:
    """Add a cost to the spending of this user today (UTC)."""
    day = int(read_now(session) // DAY_S)
    spent = {"input_tokens": cost.input_tokens, "output_tokens": cost.output_tokens, "nano_usd": round(cost.usd.scaleb(PLACES))}
    row = upsert(session, Spending).values(day=day, owner_id=owner_id, **spent)
    sums = {name: getattr(Spending, name) + row.excluded[name] for name in spent}
    session.execute(row.on_conflict_do_update(index_elements=["day", "owner_id"], set_=sums))


def over_budget(owner_id: int) -> Snooze | None:
    """None while the user may spend more today; else a `Snooze` until midnight UTC, with the reason."""
    own_limit, limit = settings().llm_budget_per_user_usd, settings().llm_budget_usd
    if not own_limit and not limit:
        return None
    with read_session() as session:
        moment = read_now(session)
        mine = func.sum(case((Spending.owner_id == owner_id, Spending.nano_usd), else_=0))
        sums = session.execute(select(mine, func.sum(Spending.nano_usd)).where(Spending.day == int(moment // DAY_S))).one()
    own, everybody = usd(sums[0]), usd(sums[1])
    until_midnight = DAY_S - moment % DAY_S
    if own_limit and own >= own_limit:
        return Snooze(until_midnight, f"Your daily language model budget of {own_limit:f} USD is used up until midnight UTC.")
    if limit and everybody >= limit:
        return Snooze(until_midnight, f"The total daily language model budget of {limit:f} USD is used up until midnight UTC.")
    return None


def usd(nano: int | Decimal | None) -> Decimal:
    """Converts a sum of `nano_usd`, which is None without any rows, to dollars."""
    return Decimal(int(nano or 0)).scaleb(-PLACES)
