"""Failed jobs by what they have in common."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import case, func, select, tuple_
from sqlalchemy.orm import Session, joinedload, undefer

from monolith.database import now, whole
from monolith.models import Job
from monolith.runner import causes
from monolith.runner.causes import Cause

SHOWN = 50  # causes, the most frequent
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
    def cause(self) -> Cause:
        one = self.example
        return causes.of(one.error_type, one.error_message, one.error_trace) if one else Cause("", "", "")

    @property
    def title(self) -> str:
        """The cause in one line."""
        return ": ".join(filter(None, (self.cause.type, self.cause.message)))

    def add(self, type_name: str, bar: int, count: int, first_at: float, last_at: float) -> None:
        self.count += count
        self.types[type_name] += count
        self.first_at, self.last_at = min(self.first_at, first_at), max(self.last_at, last_at)
        if 0 <= bar < BARS:
            self.bars[bar] += count


def by_cause(session: Session) -> list[Group]:
    """All causes, the most frequent first; those of the first SHOWN with an example. Reads one index, and a row for each example."""
    moment = session.scalar(select(now())) or 0.0
    found: dict[str, Group] = {}
    for key, *numbers in session.execute(_counts(moment - BARS * BAR_S)):
        found.setdefault(key, Group(key)).add(*numbers)
    groups = sorted(found.values(), key=lambda one: (-one.count, -one.last_at))
    _add_examples(session, groups[:SHOWN])
    return groups


def one(session: Session, key: str) -> Group | None:
    """One cause, with its example."""
    group = next((group for group in by_cause(session) if group.key == key), None)
    if group and not group.example:
        _add_examples(session, [group])
    return group


def _counts(since: float) -> Any:
    bar = case((Job.ended_at >= since, whole((Job.ended_at - since) / BAR_S)), else_=-1).label("bar")
    failed = (Job.cause.is_not(None), Job.cleaning_id.is_(None), Job.status == "failed")
    numbers = (func.count(), func.min(Job.ended_at), func.max(Job.ended_at))
    return select(Job.cause, Job.type, bar, *numbers).where(*failed).group_by(Job.cause, Job.type, bar)


def _add_examples(session: Session, groups: list[Group]) -> None:
    """The newest of each, with its trace."""
    newest = tuple_(Job.cause, Job.ended_at).in_([(group.key, group.last_at) for group in groups])
    query = select(Job).where(newest, Job.status == "failed", Job.cleaning_id.is_(None))
    rows = session.scalars(query.options(undefer(Job.error_trace), joinedload(Job.document))).all()
    of = {row.cause: row for row in rows}
    for group in groups:
        group.example = of.get(group.key)
