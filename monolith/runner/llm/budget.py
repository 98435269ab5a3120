"""What the LLM costs, by user and day (UTC, by the database's clock), and the daily budgets of the settings.

A budget is asked before a call and grows after it: it can be overrun by the calls that are under way when it is reached.
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
PLACES = 9  # of a dollar: a token at a price with three decimals is then exact


class Spending(Base):
    """What the jobs of one user cost on one day. Kept apart from the jobs: who deletes these gets nothing back."""

    __tablename__ = "spendings"

    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # since 1970
    owner_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    nano_usd: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True)
class Cost:
    """What a call cost."""

    input_tokens: int
    output_tokens: int
    usd: Decimal


def record(session: Session, owner_id: int, cost: Cost) -> None:
    """Add to what this user has spent today."""
    day = int(read_now(session) // DAY_S)
    spent = {"input_tokens": cost.input_tokens, "output_tokens": cost.output_tokens, "nano_usd": round(cost.usd.scaleb(PLACES))}
    row = upsert(session, Spending).values(day=day, owner_id=owner_id, **spent)
    sums = {name: getattr(Spending, name) + row.excluded[name] for name in spent}
    session.execute(row.on_conflict_do_update(index_elements=["day", "owner_id"], set_=sums))


def over_budget(owner_id: int) -> Snooze | None:
    """Why nothing more may be spent for this user today, as what parks a job until midnight UTC; None while it may."""
    own_limit, limit = settings().llm_budget_per_user_usd, settings().llm_budget_usd
    if not own_limit and not limit:
        return None
    with read_session() as session:
        moment = read_now(session)
        own, everybody = _spent(session, owner_id, int(moment // DAY_S))
    until_midnight = DAY_S - moment % DAY_S
    if own_limit and own >= own_limit:
        return Snooze(until_midnight, f"Your daily language model budget of {own_limit:f} USD is used up until midnight UTC.")
    if limit and everybody >= limit:
        return Snooze(until_midnight, f"The total daily language model budget of {limit:f} USD is used up until midnight UTC.")
    return None


def _spent(session: Session, owner_id: int, day: int) -> tuple[Decimal, Decimal]:
    """By this user, and by all."""
    own = func.sum(case((Spending.owner_id == owner_id, Spending.nano_usd), else_=0))
    sums = session.execute(select(own, func.sum(Spending.nano_usd)).where(Spending.day == day)).one()
    return usd(sums[0]), usd(sums[1])


def usd(nano: int | Decimal | None) -> Decimal:
    """Dollars, from a sum of `nano_usd`, which is None where nothing was spent."""
    return Decimal(int(nano or 0)).scaleb(-PLACES)
