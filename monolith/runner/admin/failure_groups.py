"""Failed jobs grouped by error: those with the same fingerprint form an error group."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, func, select, union_all
from sqlalchemy.orm import Session, joinedload, undefer

from monolith.db.engine import read_now, whole
from monolith.db.models import Job
from monolith.errors import NotFound
from monolith.runner.ledger import error_fingerprint
from monolith.runner.ledger.error_fingerprint import Fingerprint

SHOWN = 50  # error groups on the page, the largest
FAILED = (Job.error_group.is_not(None), Job.trash_id.is_(None), Job.status == "failed")
# The status as an expression, so that planners read all of the small index of error groups, instead of the row of each failed job.
COUNTED = (*FAILED[:2], Job.status.concat("") == "failed")
BARS, BAR_S = 42, 4 * 3600.0  # of the sparkline: seven days


@dataclass
class ErrorGroup:
    """The failed jobs with one fingerprint. `bars` counts them by when they failed, BAR_S seconds each, the newest last."""

    key: str
    count: int = 0
    first_at: float = float("inf")
    last_at: float = 0.0
    last_type: str = ""  # of the job that failed last
    types: Counter[str] = field(default_factory=Counter)
    bars: list[int] = field(default_factory=lambda: [0] * BARS)
    example: Job | None = None

    @property
    def fingerprint(self) -> Fingerprint:
        one = self.example
        return error_fingerprint.fingerprint_of(one.error_type, one.error_message, one.error_trace) if one else Fingerprint("", "", "")

    @property
    def title(self) -> str:
        """Error type and message in one line."""
        return ": ".join(filter(None, (self.fingerprint.type, self.fingerprint.message)))

    def add(self, type_name: str, count: int, first_at: float, last_at: float) -> None:
        self.count += count
        self.types[type_name] += count
        self.first_at = min(self.first_at, first_at)
        if last_at >= self.last_at:
            self.last_at, self.last_type = last_at, type_name


def list_groups(session: Session) -> list[ErrorGroup]:
    """All error groups, the largest first; the first SHOWN with an example. Reads one index, and a row for each example."""
    found: dict[str, ErrorGroup] = {}
    numbers: Any = (func.count(), func.min(Job.ended_at), func.max(Job.ended_at))
    rows: Any = session.execute(select(Job.error_group, Job.type, *numbers).where(*COUNTED).group_by(Job.error_group, Job.type))
    for key, *values in rows:
        found.setdefault(key, ErrorGroup(key)).add(*values)
    groups = sorted(found.values(), key=lambda one: (-one.count, -one.last_at))
    _add_bars(session, found)
    _add_examples(session, groups[:SHOWN])
    return groups


def find(session: Session, key: str) -> ErrorGroup:
    """The error group of this key, with its example. Raises `NotFound` when it has no failed jobs."""
    group = next((group for group in list_groups(session) if group.key == key), None)
    if group is None:
        raise NotFound(
            f"Error group {key[:40]!r} has no failed jobs. See the Failures page or GET /api/v1/queues/failures for a current list."
        )
    if not group.example:
        _add_examples(session, [group])
    return group


def _add_bars(session: Session, groups: dict[str, ErrorGroup]) -> None:
    since = read_now(session) - BARS * BAR_S
    bar = whole((Job.ended_at - since) / BAR_S).label("bar")
    for key, place, count in session.execute(
        select(Job.error_group, bar, func.count()).where(*COUNTED, Job.ended_at >= since).group_by(Job.error_group, bar)
    ):
        if key in groups:
            groups[key].bars[min(place, BARS - 1)] += count


def _add_examples(session: Session, groups: list[ErrorGroup]) -> None:
    """Set the newest job of each group as its example, with its traceback.

    One of them, where many failed in the same moment: their index has it first, whereas all would be read with their tracebacks.
    """
    if not groups:
        return
    newest = union_all(*(_newest(group) for group in groups)).subquery()
    query = select(Job).where(Job.id.in_(select(newest.c.id)))
    rows = session.scalars(query.options(undefer(Job.error_trace), joinedload(Job.document))).all()
    of = {row.error_group: row for row in rows}
    for group in groups:
        group.example = of.get(group.key)


def _newest(group: ErrorGroup) -> Select[Any]:
    """The id of one newest job of the group, as one part of a union."""
    at = (Job.error_group == group.key, Job.type == group.last_type, Job.ended_at == group.last_at)
    return select(select(Job.id).where(*FAILED, *at).limit(1).subquery())
