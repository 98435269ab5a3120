"""Draws charts into a box of a PDF page: stacked bars, lines over time, and ranges from median to 95th percentile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fpdf.enums import Align

from .pdf import LINE, MUTED, TEXT, ReportPdf

Box = tuple[float, float, float, float]  # left, top, width, height in millimetres
Colour = tuple[int, int, int]
AXIS_WIDTH = 13.0  # millimetres left of a chart, for the numbers
LABEL_HEIGHT = 6.0  # millimetres below a chart
LABEL_WIDTH = 17.0
BLUE, GREEN, RED, GREY = (45, 91, 215), (46, 139, 87), (193, 52, 43), (160, 158, 150)
SECOND_MARKS = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86400.0, 7 * 86400.0)  # of a logarithmic axis of seconds


@dataclass(frozen=True)
class ChartSeries:
    """A named series of values over time; None where nothing was measured."""

    name: str
    colour: Colour
    values: Sequence[float | None]


def seconds(value: float | None) -> str:
    """Formats seconds with one unit: `3 min`, `2.5 s`, `14 ms`; a dash for None."""
    if value is None:
        return "–"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if value >= size:
            return f"{value / size:.1f}".removesuffix(".0") + f" {unit}"
    if value >= 1 or value == 0:
        return f"{value:.1f}".removesuffix(".0") + " s"
    if value >= 0.1:
        return f"{value:.2f}".rstrip("0") + " s"
    return f"{value * 1000:.0f} ms" if value >= 0.001 else "< 1 ms"


def bars(page: ReportPdf, box: Box, labels: Sequence[str], series: Sequence[ChartSeries]) -> None:
    """Draws a stacked bar for each label."""
    sums = [sum(one.values[place] or 0 for one in series) for place in range(len(labels))]
    left, top, width, height = _frame(page, box, labels, series, ticks := _ticks(max(sums, default=0)))
    step = width / len(labels)
    thick = min(step * 0.72, 14.0)
    for place in range(len(labels)):
        foot = top + height
        for one in series:
            tall = (one.values[place] or 0) / ticks[-1] * height
            page.set_fill_color(*one.colour)
            if tall:
                page.rect(left + place * step + (step - thick) / 2, foot - tall, thick, tall, style="F")
            foot -= tall


def lines(page: ReportPdf, box: Box, labels: Sequence[str], series: Sequence[ChartSeries]) -> None:
    """Draws a line for each series of seconds, interrupted where a value is None."""
    most = max((value for one in series for value in one.values if value is not None), default=0)
    left, top, width, height = _frame(page, box, labels, series, ticks := _ticks(most, whole=False), in_seconds=True)
    step = width / len(labels)
    for one in series:
        page.set_draw_color(*one.colour)
        page.set_fill_color(*one.colour)
        page.set_line_width(0.5)
        before: tuple[float, float] | None = None
        for place, value in enumerate(one.values):
            here = None if value is None else (left + (place + 0.5) * step, top + height - value / ticks[-1] * height)
            if here and before:
                page.line(*before, *here)
            if here:
                page.circle(*here, radius=0.7, style="F")
            before = here
    page.set_line_width(0.2)


def ranges(page: ReportPdf, box: Box, rows: Sequence[tuple[str, float, float]]) -> None:
    """Draws a range for each row (name, median, 95th percentile) on a logarithmic axis of seconds."""
    left, top, width, height = box
    names = min(58.0, width / 3)
    start, room, tall = left + names, width - names - 30, (height - LABEL_HEIGHT) / len(rows)
    marks = _axis_marks(min(row[1] for row in rows), max(row[2] for row in rows))

    def place(value: float) -> float:
        return start + math.log(min(max(value, marks[0]), marks[-1]) / marks[0]) / math.log(marks[-1] / marks[0]) * room

    page.set_draw_color(*LINE)
    page.write_in(MUTED, 7)
    for mark in marks:
        page.line(place(mark), top, place(mark), top + height - LABEL_HEIGHT)
        page.text_at(place(mark) - 10, top + height - LABEL_HEIGHT + 1, 20, seconds(mark), align=Align.C)
    for number, (name, half, most) in enumerate(rows):
        _range(page, (left, top + number * tall, width, tall), name, (place(half), place(most)), f"{seconds(half)} – {seconds(most)}")


def _range(page: ReportPdf, box: Box, name: str, ends: tuple[float, float], words: str) -> None:
    left, top, width, height = box
    middle = top + height / 2
    page.write_in(TEXT, 8)
    page.text_at(left, middle - 2, min(58.0, width / 3) - 3, name)
    page.set_draw_color(*BLUE)
    page.set_fill_color(*BLUE)
    page.set_line_width(1.2)
    page.line(ends[0], middle, ends[1], middle)
    page.set_line_width(0.2)
    page.circle(ends[0], middle, radius=1.3, style="F")
    page.set_fill_color(255, 255, 255)
    page.circle(ends[1], middle, radius=1.1, style="FD")
    page.write_in(MUTED, 7.5)
    page.text_at(left + width - 28, middle - 2, 28, words, align=Align.R)


def _axis_marks(least: float, most: float) -> list[float]:
    """The SECOND_MARKS that enclose `least` and `most`; at least two."""
    first = max((place for place, mark in enumerate(SECOND_MARKS) if mark <= least), default=0)
    last = next((place for place, mark in enumerate(SECOND_MARKS) if mark >= most), len(SECOND_MARKS) - 1)
    first = min(first, len(SECOND_MARKS) - 2)
    return list(SECOND_MARKS[first : max(last, first + 1) + 1])


def _frame(
    page: ReportPdf, box: Box, labels: Sequence[str], series: Sequence[ChartSeries], ticks: Sequence[float], *, in_seconds: bool = False
) -> Box:
    """Draws the legend and the axes; returns the box that is left for the chart."""
    _legend(page, box, series)
    left, top, width, height = box[0] + AXIS_WIDTH, box[1] + 8, box[2] - AXIS_WIDTH, box[3] - 8 - LABEL_HEIGHT
    page.set_draw_color(*LINE)
    page.set_line_width(0.2)
    page.write_in(MUTED, 7)
    for tick in ticks:
        y = top + height - tick / ticks[-1] * height
        page.line(left, y, left + width, y)
        page.text_at(box[0], y - 2, AXIS_WIDTH - 2, seconds(tick) if in_seconds else f"{tick:,.0f}", align=Align.R)
    step = width / len(labels)
    every = math.ceil(LABEL_WIDTH / step)
    for place in range(0, len(labels), every):
        middle = left + (place + 0.5) * step
        if middle + LABEL_WIDTH / 2 <= box[0] + box[2] + 2:
            page.text_at(middle - LABEL_WIDTH / 2, top + height + 1, LABEL_WIDTH, labels[place], align=Align.C)
    return left, top, width, height


def _legend(page: ReportPdf, box: Box, series: Sequence[ChartSeries]) -> None:
    x = box[0] + AXIS_WIDTH
    for one in series:
        page.set_fill_color(*one.colour)
        page.rect(x, box[1] + 1.5, 2.6, 2.6, style="F")
        page.write_in(MUTED, 8)
        wide = page.get_string_width(one.name) + 2
        page.text_at(x + 3.6, box[1] + 0.8, wide, one.name)
        x += wide + 8


def _ticks(most: float, *, whole: bool = True) -> list[float]:
    """Four to six round numbers from 0 to at least `most`."""
    rough = most / 4 or 0.25
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough)
    step = max(math.ceil(step), 1) if whole else step
    return [step * place for place in range(max(math.ceil(round(most / step, 6)), 1) + 1)]
