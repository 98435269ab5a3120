"""The balance of the ledger: the jobs ever accepted equal the rows that exist and the jobs that were pruned.

The transactions that insert and delete jobs count them in `tallies` as well, so a row that is lost in any other way shows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.orm import Session

from monolith.db.engine import read_session, unlocked, write_session
from monolith.db.models import STATUSES, Job, Tally
from monolith.runner.ledger import counts
from monolith.runner.ledger.counts import Kind

FOLDED_AT_ONCE = 5000
GONE = {"finished": "gone finished", "failed": "gone failed"}  # tallies of jobs that ended so, and were then deleted or requeued
NAMES = ("accepted", "pruned", *GONE.values())
log = structlog.get_logger()


@dataclass(frozen=True)
class Balance:
    """Both sides at one moment; `counts` is the number of rows by queue, type and status.

    `gone`: by status, how many jobs ended so and are no longer among the rows with this status.
    """

    accepted: int
    pruned: int
    counts: dict[Kind, int]
    gone: dict[str, int]

    @property
    def statuses(self) -> dict[str, int]:
        return counts.by_status(self.counts)

    @property
    def imbalance(self) -> int:
        """Above 0: accepted jobs that are lost. Below 0: rows that were never accepted."""
        return self.accepted - self.pruned - sum(self.counts.values())

    def ever(self, status: str) -> int:
        """How many jobs ever ended as `finished` or `failed`. Never decreases."""
        return self.statuses[status] + self.gone[status]

    def json(self) -> str:
        return json.dumps({"accepted": self.accepted, **self.statuses, "pruned": self.pruned, "imbalance": self.imbalance})

    def __str__(self) -> str:
        right = {**self.statuses, "pruned": self.pruned}
        width = len(f"{max(self.accepted, *right.values()):,}")
        lines = [f"  accepted   {self.accepted:>{width},}"]
        lines += [f"{'=' if name == STATUSES[0] else '+'} {name:<10} {count:>{width},}" for name, count in right.items()]
        return "\n".join([*lines, f"  imbalance  {self.imbalance:>{width},}"])


def balance() -> Balance:
    """The balance now, read in one snapshot, so that concurrent changes do not look like an imbalance."""
    with snapshot() as session:
        return balance_in(session)


def balance_in(session: Session) -> Balance:
    """The balance as this session sees it; the session must be a `snapshot()`."""
    totals = _totals(session)
    by_status = Counter(counts.counts(session))
    by_status.update(counts.counts(session, in_trash=True))
    gone = {status: totals[name] for status, name in GONE.items()}
    return Balance(totals["accepted"], totals["pruned"], dict(by_status), gone)


def _totals(session: Session) -> Counter[str]:
    sums = select(Tally.name, func.sum(Tally.amount)).group_by(Tally.name)
    return Counter({name: int(total) for name, total in session.execute(sums)})


@contextmanager
def snapshot() -> Iterator[Session]:
    """A read session whose queries all see the same moment."""
    with read_session() as session:
        if session.get_bind().dialect.name == "postgresql":  # on SQLite every transaction is a snapshot
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        yield session


def record_pruned(session: Session, statuses: Collection[str]) -> None:
    """Count the jobs that this transaction deletes, by the status of each."""
    if statuses:
        session.execute(insert(Tally).values(name="pruned", amount=len(statuses)))
    for status, amount in Counter(statuses).items():
        record_gone(session, status, amount)


def record_gone(session: Session | Connection, status: str, amount: int) -> None:
    """Count jobs that ended with this status and leave it in this transaction."""
    if amount and status in GONE:
        session.execute(insert(Tally).values(name=GONE[status], amount=amount))


def imbalance() -> int:
    """The imbalance, which is logged unless it is 0. Rows are counted by status only where there is one."""
    with snapshot() as session:
        rows = session.scalar(select(func.count()).select_from(Job)) or 0
        totals = _totals(session)
        expected = totals["accepted"] - totals["pruned"]
    if rows != expected:
        found = balance()
        log.error("ledger_imbalance", imbalance=found.imbalance, accepted=found.accepted, pruned=found.pruned, **found.statuses)
        return found.imbalance
    return 0


def fold() -> Iterator[None]:
    """Replace tallies by their sums, so that adding them up stays fast.

    Only rows that are deleted are summed: a submission that commits in between keeps its row for the next time.
    """
    folded = FOLDED_AT_ONCE
    while folded == FOLDED_AT_ONCE:
        with write_session() as session:
            folded = _fold(session)
        yield


def _fold(session: Session) -> int:
    if len(session.scalars(select(Tally.id).limit(len(NAMES) + 1)).all()) <= len(NAMES):  # one row of each name is the minimum
        return 0
    oldest = select(Tally.id).order_by(Tally.id).limit(FOLDED_AT_ONCE)
    rows = session.execute(delete(Tally).where(Tally.id.in_(unlocked(oldest))).returning(Tally.name, Tally.amount)).all()
    totals: Counter[str] = Counter()
    for name, amount in rows:
        totals[name] += amount
    if rows:  # none when another clock was faster
        session.execute(insert(Tally), [{"name": name, "amount": total} for name, total in totals.items()])
    return len(rows)
