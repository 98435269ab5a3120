"""Charts for the template: coordinates of bars and lines, labels of the axes, and a summary in words.

A chart is 10 units wide for each step and 100 high; the page scales it. Labels are HTML beside the SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from monolith.content.formatting import duration, humanise, number
from monolith.runner.monitoring.history import History, Series

STEP, HEIGHT = 10, 100
NICE_SECONDS = (
    2,
    4,
    10,
    20,
    40,
    60,
    120,
    240,
    600,
    1200,
    2400,
    3600,
    7200,
    14400,
    28800,
    43200,
    86400,
)  # half of each is a round duration too
AGO = {
    "1h": ("60 min ago", "45", "30", "15", "now"),
    "24h": ("24 h ago", "18", "12", "6", "now"),
    "7d": ("7 days ago", "6", "5", "4", "3", "2", "1", "now"),
}


@dataclass(frozen=True)
class Bar:
    """A rectangle of a bar chart, in units of the chart."""

    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Drawn:
    """One drawn series: `kind` is the number of its colour; `bars` are for counts, `line` is an SVG path for seconds."""

    name: str
    kind: int
    bars: list[Bar]
    line: str
    summary: str
    maximum: str
    maximum_at: str
    latest: str


@dataclass(frozen=True)
class Chart:
    """A chart of one measure. `hints` are the tooltips of the steps that have data, by position."""

    key: str
    title: str
    explained: str
    width: int
    top: str
    middle: str
    ago: tuple[str, ...]
    series: list[Drawn]
    hints: dict[int, str]
    summary: str

    @property
    def is_empty(self) -> bool:
        """Whether no step has data."""
        return not self.hints


@dataclass(frozen=True)
class ChartStyle:
    """How a measure is shown: counts as stacked bars, seconds as lines."""

    title: str
    explained: str
    is_count: bool
    sum_up: Callable[[list[float]], float]

    def text(self, value: float) -> str:
        """The value as a number or a duration."""
        return number(round(value)) if self.is_count else duration(value)


CHART_STYLES = {
    "finished": ChartStyle("Done", "jobs per {step}", True, sum),
    "failed": ChartStyle("Failed", "jobs per {step}", True, sum),
    "waited_s": ChartStyle("Waiting time", "average per {step}", False, lambda values: sum(values) / len(values)),
    "oldest_s": ChartStyle("Oldest waiting job", "maximum per {step}", False, max),
}


def all_of(history: History) -> list[Chart]:
    """The four charts of a period."""
    return [_chart(key, style, history) for key, style in CHART_STYLES.items()]


def _chart(key: str, style: ChartStyle, history: History) -> Chart:
    series = history.measures[key]
    top = _top(style, series)
    floors = [0.0] * history.period.steps
    drawn = [_drawn(kind, one, style, top, floors, history) for kind, one in enumerate(series) if any(one.values)]
    step = duration(history.period.step_s, 1)
    text = "; ".join(f"{one.name}: {one.summary}, maximum {one.maximum} at {one.maximum_at}" for one in drawn) or "no data"
    return Chart(
        key,
        style.title,
        style.explained.format(step=step),
        history.period.steps * STEP,
        style.text(top) if style.is_count else duration(top, 1),
        style.text(top / 2) if style.is_count else duration(top / 2, 1),
        AGO[history.period.name],
        drawn,
        _hints(series, style, history),
        f"{style.title}, {style.explained.format(step=step)}, over {history.period.words}: {text}.",
    )


def _top(style: ChartStyle, series: list[Series]) -> float:
    """The top of the axis: a round number, not below any value."""
    columns = zip(*(one.values for one in series), strict=True)
    whole = sum if style.is_count else max
    most = max((whole([value or 0.0 for value in column]) for column in columns), default=0.0)
    if not style.is_count:
        return float(next((nice for nice in NICE_SECONDS if nice >= most), math.ceil(most / 86400) * 86400))
    power = 10 ** math.floor(math.log10(max(most, 1)))
    return float(max(2, next(power * nice for nice in (1, 2, 4, 6, 8, 10) if power * nice >= most)))


def _drawn(kind: int, one: Series, style: ChartStyle, top: float, floors: list[float], history: History) -> Drawn:
    values = [value for value in one.values if value is not None]
    most = max(values)
    at = one.values.index(most)
    bars = _bars(one.values, top, floors) if style.is_count else []
    line = "" if style.is_count else _line(one.values, top)
    text = style.text(style.sum_up(values)) + (" in total" if style.sum_up is sum else "")
    return Drawn(humanise(one.name), kind, bars, line, text, style.text(most), _clock(at, history), style.text(one.values[-1] or 0.0))


def _bars(values: list[float | None], top: float, floors: list[float]) -> list[Bar]:
    """Stacked bars. `floors` is the height reached by earlier series at each step, and is updated."""
    bars = []
    for place, value in enumerate(values):
        if value:
            height = value / top * HEIGHT
            floors[place] += height
            bars.append(Bar(place * STEP + 1, round(HEIGHT - floors[place], 2), round(height, 2)))
    return bars


def _line(values: list[float | None], top: float) -> str:
    """An SVG path with gaps where there is no value. A single value becomes a dash, because a point would be invisible."""
    parts: list[str] = []
    for place, value in enumerate(values):
        if value is None:
            continue
        y = round(HEIGHT - value / top * HEIGHT, 2)
        follows = place > 0 and values[place - 1] is not None
        parts.append(f"L{place * STEP + 5} {y}" if follows else f"M{place * STEP + 2} {y}H{place * STEP + 8}")
    return "".join(parts)


def _hints(series: list[Series], style: ChartStyle, history: History) -> dict[int, str]:
    found = {}
    for place in range(history.period.steps):
        text = [f"{humanise(one.name)}: {style.text(value)}" for one in series if (value := one.values[place])]
        if text:
            found[place] = "\n".join([_clock(place, history), *text])
    return found


def _clock(place: int, history: History) -> str:
    """When a step starts, as text."""
    at = datetime.fromtimestamp(history.start + place * history.period.step_s, UTC)
    return at.strftime("%H:%M UTC" if history.period.name == "1h" else "%-d %b, %H:%M UTC")
