"""Several contenders measured in turns, and the table of their medians beside the first of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

Figures = dict[str, float]  # by the heading of their column


def in_turns(passes: int, measurements: dict[str, Callable[[], Figures]]) -> dict[str, Figures]:
    """The medians of each. One pass measures everybody once, so that a slow minute of the machine meets all alike."""
    seen: dict[str, list[Figures]] = {name: [] for name in measurements}
    for _ in range(passes):
        for name, measurement in measurements.items():
            seen[name].append(measurement())
    return {name: _medians(figures) for name, figures in seen.items()}


def _medians(passes: list[Figures]) -> Figures:
    return {heading: statistics.median(figures[heading] for figures in passes) for heading in passes[0]}


def lines(title: str, rows: dict[str, Figures]) -> Iterator[str]:
    """A table for people, in Markdown: each figure, and how many times the first row's it is."""
    first = next(iter(rows.values()))
    yield from ("", f"**{title}**", "")
    yield _line(["", *first])
    yield _line(["---"] * (len(first) + 1))
    for name, figures in rows.items():
        yield _line([name, *(_cell(figures[heading], first[heading]) for heading in first)])


def _cell(figure: float, stock: float) -> str:
    return f"{_short(figure)} ({_short(figure / stock)}x)" if stock else _short(figure)


def _short(number: float) -> str:
    if abs(number) < 1:
        return f"{number:.2g}"
    return f"{number:,.{0 if abs(number) >= 100 else 1}f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
