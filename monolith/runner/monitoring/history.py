"""The last hours and days, from the samples of every minute, in at most 120 steps: for charts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from monolith.db.engine import read_now, whole
from monolith.db.models import Sample

MOST_SERIES = 8
OTHERS = "others"


@dataclass(frozen=True)
class HistoryPeriod:
    """How far back to look, and in what steps, in seconds."""

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
    """What one step saw of one queue and type. `waited_s` is summed over the finished, `oldest_s` the longest that was seen."""

    place: int
    queue: str
    type: str
    finished: int
    failed: int
    waited_s: float | None
    oldest_s: float | None


@dataclass(frozen=True)
class Series:
    """One line of a chart: a value for each step, None where there is none."""

    name: str
    values: list[float | None]


@dataclass(frozen=True)
class History:
    """What happened in a period. `start` and `end` in seconds since 1970; each measure has the same names in the same order."""

    period: HistoryPeriod
    start: float
    end: float
    measures: dict[str, list[Series]]


def newest(session: Session) -> float:
    """The minute that was sampled last."""
    return session.scalar(select(func.max(Sample.at))) or 0.0


def of(session: Session, period: HistoryPeriod, by: str) -> History:
    """The measures `finished`, `failed`, `waited_s` (mean) and `oldest_s`, each by `queue` or by `type`."""
    end = -(-read_now(session) // period.step_s) * period.step_s
    start = end - period.seconds
    steps = [HistoryStep(*row) for row in session.execute(_steps(start, period.step_s))]
    names = _names(steps, by)
    grouped: dict[str, dict[int, list[HistoryStep]]] = defaultdict(lambda: defaultdict(list))
    for step in steps:
        name = getattr(step, by)
        grouped[name if name in names else OTHERS][step.place].append(step)
    measures = {key: [Series(name, _values(grouped[name], period.steps, how)) for name in names] for key, how in MEASURES.items()}
    return History(period, start, end, measures)


def _steps(start: float, step_s: int) -> Any:
    """A sample tells of the minute before it, so the one at the end of a step still belongs to it."""
    place = whole((Sample.at - start - 1) / step_s).label("place")
    sums = (func.sum(Sample.finished), func.sum(Sample.failed), func.sum(Sample.mean_wait_s * Sample.finished))
    rows = select(place, Sample.queue, Sample.type, *sums, func.max(Sample.oldest_waiting_s)).where(Sample.at > start)
    return rows.group_by(place, Sample.queue, Sample.type)


def _names(steps: list[HistoryStep], by: str) -> list[str]:
    """The names that are shown, in the order of the alphabet; the least busy of many together as others."""
    busy = Counter({getattr(step, by): 0 for step in steps})
    for step in steps:
        busy[getattr(step, by)] += step.finished + step.failed + bool(step.oldest_s)
    if len(busy) <= MOST_SERIES:
        return sorted(busy)
    return [*sorted(name for name, _ in busy.most_common(MOST_SERIES - 1)), OTHERS]


def _values(steps: dict[int, list[HistoryStep]], count: int, how: Callable[[list[HistoryStep]], float | None]) -> list[float | None]:
    return [how(steps[place]) if place in steps else None for place in range(count)]


def _mean_wait(steps: list[HistoryStep]) -> float | None:
    finished = sum(step.finished for step in steps if step.waited_s is not None)
    return sum(step.waited_s or 0.0 for step in steps) / finished if finished else None


MEASURES: dict[str, Callable[[list[HistoryStep]], float | None]] = {
    "finished": lambda steps: sum(step.finished for step in steps),
    "failed": lambda steps: sum(step.failed for step in steps),
    "waited_s": _mean_wait,
    "oldest_s": lambda steps: max((step.oldest_s for step in steps if step.oldest_s is not None), default=None),
}
