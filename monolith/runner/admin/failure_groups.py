"""Failed jobs by what they have in common."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session, joinedload, undefer

from monolith.db.engine import read_now, whole
from monolith.db.models import Job
from monolith.runner.ledger import error_fingerprint
from monolith.runner.ledger.error_fingerprint import Fingerprint

SHOWN = 50  # causes, the most frequent
FAILED = (Job.error_group.is_not(None), Job.trash_id.is_(None), Job.status == "failed")
BARS, BAR_S = 42, 4 * 3600.0  # of the sparkline: seven days


@dataclass
class Group:
    """The failed jobs of one cause. `bars` counts them by when they failed, BAR_S each, the newest last; what is older is left out."""

    key: str
    count: int = 0
    first_at: float = float("inf")
    last_at: float = 0.0
    types: Counter[str] = field(default_factory=Counter)
    bars: list[int] = field(default_factory=lambda: [0] * BARS)
    example: Job | None = None

    @property
    def cause(self) -> Fingerprint:
        one = self.example
        return error_fingerprint.fingerprint_of(one.error_type, one.error_message, one.error_trace) if one else Fingerprint("", "", "")

    @property
    def title(self) -> str:
        """The cause in one line."""
        return ": ".join(filter(None, (self.cause.type, self.cause.message)))

    def add(self, type_name: str, count: int, first_at: float, last_at: float) -> None:
        self.count += count
        self.types[type_name] += count
        self.first_at, self.last_at = min(self.first_at, first_at), max(self.last_at, last_at)


def by_cause(session: Session) -> list[Group]:
    """All causes, the most frequent first; the first SHOWN with an example. Reads one index, and a row for each example."""
    found: dict[str, Group] = {}
    numbers: Any = (func.count(), func.min(Job.ended_at), func.max(Job.ended_at))
    rows: Any = session.execute(select(Job.error_group, Job.type, *numbers).where(*FAILED).group_by(Job.error_group, Job.type))
    for key, *said in rows:
        found.setdefault(key, Group(key)).add(*said)
    groups = sorted(found.values(), key=lambda one: (-one.count, -one.last_at))
    _add_bars(session, found)
    _add_examples(session, groups[:SHOWN])
    return groups


def one(session: Session, key: str) -> Group | None:
    """One cause, with its example."""
    group = next((group for group in by_cause(session) if group.key == key), None)
    if group and not group.example:
        _add_examples(session, [group])
    return group


def _add_bars(session: Session, groups: dict[str, Group]) -> None:
    since = read_now(session) - BARS * BAR_S
    bar = whole((Job.ended_at - since) / BAR_S).label("bar")
    for key, place, count in session.execute(
        select(Job.error_group, bar, func.count()).where(*FAILED, Job.ended_at >= since).group_by(Job.error_group, bar)
    ):
        if key in groups:
            groups[key].bars[min(place, BARS - 1)] += count


def _add_examples(session: Session, groups: list[Group]) -> None:
    """The newest of each, with its trace."""
    newest = tuple_(Job.error_group, Job.ended_at).in_([(group.key, group.last_at) for group in groups])
    query = select(Job).where(newest, *FAILED)
    rows = session.scalars(query.options(undefer(Job.error_trace), joinedload(Job.document))).all()
    of = {row.error_group: row for row in rows}
    for group in groups:
        group.example = of.get(group.key)
