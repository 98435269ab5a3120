"""History for charts: what the samples of every minute show of the last hours or days, in at most 120 steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from monolith.db.engine import read_now, whole
from monolith.db.models import Sample

MAX_SERIES = 8
OTHERS = "others"


@dataclass(frozen=True)
class HistoryPeriod:
    """A period that charts can show: its length and its step, in seconds."""

    name: str
    words: str
    seconds: int
    step_s: int

    @property
    def steps(self) -> int:
        return self.seconds // self.step_s


PERIODS = {one.name: one for one in (HistoryPeriod("1h", "1 hour", 3600, 60), HistoryPeriod("24h", "24 hours", 86400, 900))}
PERIODS["7d"] = HistoryPeriod("7d", "7 days", 7 * 86400, 5400)


class HistoryStep(NamedTuple):
    """One step of one queue and job type. `waited_s` is the sum over finished jobs, `oldest_s` the maximum."""

    place: int
    queue: str
    type: str
    finished: int
    failed: int
    waited_s: float | None
    oldest_s: float | None


@dataclass(frozen=True)
class Series:
    """One series of a chart: a value for each step, None where there is no data."""

    name: str
    values: list[float | None]


@dataclass(frozen=True)
class History:
    """The measures of a period. `start` and `end` are in seconds since 1970; all measures have the same series in the same order."""

    period: HistoryPeriod
    start: float
    end: float
    measures: dict[str, list[Series]]


def newest(session: Session) -> float:
    """When the last sample was taken, in seconds since 1970; 0 if there is none."""
    return session.scalar(select(func.max(Sample.at))) or 0.0


def load(session: Session, period: HistoryPeriod, by: str) -> History:
    """The measures `finished`, `failed`, `waited_s` (mean) and `oldest_s`, each by `queue` or by `type`."""
    end = -(-read_now(session) // period.step_s) * period.step_s
    start = end - period.seconds
    steps = [HistoryStep(*row) for row in session.execute(_steps(start, period.step_s))]
    names = _names(steps, by)
    grouped: dict[str, dict[int, list[HistoryStep]]] = defaultdict(lambda: defaultdict(list))
    for step in steps:
        name = getattr(step, by)
        grouped[name if name in names else OTHERS][step.place].append(step)
    places = range(period.steps)
    measures = {
        key: [Series(name, [how(grouped[name][at]) if at in grouped[name] else None for at in places]) for name in names]
        for key, how in MEASURES.items()
    }
    return History(period, start, end, measures)


def _steps(start: float, step_s: int) -> Any:
    """The query. A sample covers the minute before it, so the sample at the end of a step belongs to that step."""
    place = whole((Sample.at - start - 1) / step_s).label("place")
    sums = (func.sum(Sample.finished), func.sum(Sample.failed), func.sum(Sample.mean_wait_s * Sample.finished))
    rows = select(place, Sample.queue, Sample.type, *sums, func.max(Sample.oldest_waiting_s)).where(Sample.at > start)
    return rows.group_by(place, Sample.queue, Sample.type)


def _names(steps: list[HistoryStep], by: str) -> list[str]:
    """The names to show, in alphabetical order; if there are many, the least busy are grouped as "others"."""
    busy = Counter({getattr(step, by): 0 for step in steps})
    for step in steps:
        busy[getattr(step, by)] += step.finished + step.failed + bool(step.oldest_s)
    if len(busy) <= MAX_SERIES:
        return sorted(busy)
    return [*sorted(name for name, _ in busy.most_common(MAX_SERIES - 1)), OTHERS]


def _mean_wait(steps: list[HistoryStep]) -> float | None:
    finished = sum(step.finished for step in steps if step.waited_s is not None)
    return sum(step.waited_s or 0.0 for step in steps) / finished if finished else None


MEASURES: dict[str, Callable[[list[HistoryStep]], float | None]] = {
    "finished": lambda steps: sum(step.finished for step in steps),
    "failed": lambda steps: sum(step.failed for step in steps),
    "waited_s": _mean_wait,
    "oldest_s": lambda steps: max((step.oldest_s for step in steps if step.oldest_s is not None), default=None),
}
