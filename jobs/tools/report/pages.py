"""Lays out the report as a PDF with charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from monolith.job_types.registry import LedgerRow

from .charts import BLUE, GREEN, GREY, RED, ChartSeries, bars, lines, ranges, seconds
from .pdf import Column, ReportPdf

MAX_RANGES = 20
OUTCOMES = (
    ("finished", "Finished", GREEN),
    ("failed", "Failed", RED),
    ("stopped", "Stopped or cancelled", GREY),
    ("open", "Unfinished", BLUE),
)


def draw(found: dict[str, Any], longest: Sequence[LedgerRow]) -> bytes:
    """Returns the report as a PDF."""
    page = ReportPdf(f"Intray report, {found['from']} to {found['to']}")
    page.title_line("Job report", _subtitle(found))
    if not found["jobs"]:
        page.heading("No jobs in this period")
        page.paragraph("No matching jobs were submitted in this period. Pruned jobs are not included.")
        return bytes(page.output())
    page.tiles(_tiles(found))
    _over_time(page, found)
    _types(page, found)
    _times(page, found)
    _checks(page, found["quality_checks"])
    _cost(page, found)
    _failures(page, found["failures"])
    _longest(page, longest)
    return bytes(page.output())


def _subtitle(found: dict[str, Any]) -> list[str]:
    days = "1 day" if found["days"] == 1 else f"{found['days']} days"
    whose = f"Jobs of {found['owner']}" if found["owner"] else "Jobs of all users"
    of_types = f". Job types: {', '.join(found['types'])}" if found["types"] else ""
    made = found["made_at"].replace("T", " ").replace("Z", " UTC")
    return [
        f"{_day(found['from'])} to {_day(found['to'])} ({days}, UTC). {whose}{of_types}.",
        f"Each job counts on the day it was submitted. Created on {made}.",
        *(
            []
            if found["csv_is_complete"]
            else [f"The CSV holds the first {found['csv_rows']:,} of {found['jobs']:,} jobs: choose a shorter period."]
        ),
    ]


def _day(text: str) -> str:
    return f"{date.fromisoformat(text):%-d %b %Y}"


def _tiles(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    over, cost = found["failed"] + found["finished"], found["cost"]
    return [
        ("Jobs", f"{found['jobs']:,}", f"{found['open']:,} unfinished"),
        ("Failure rate", percent(found["failure_rate"]), f"{found['failed']:,} of {over:,}"),
        *(_time_tile(words, found[name]) for words, name in (("Median run time", "ran"), ("Median wait time", "waited"))),
        ("Language model", f"{cost['usd']:,.2f} USD", f"{cost['input_tokens'] + cost['output_tokens']:,} tokens"),
    ]


def _time_tile(words: str, spread: dict[str, float] | None) -> tuple[str, str, str]:
    return (words, seconds(spread["p50_s"]), f"95th percentile: {seconds(spread['p95_s'])}") if spread else (words, "–", "")


def percent(share: float | None) -> str:
    """Formats a share as a percentage; a dash for None."""
    return "–" if share is None else f"{share * 100:.1f} %"


def _pair(spread: dict[str, float] | None) -> str:
    return f"{seconds(spread['p50_s'])}, {seconds(spread['p95_s'])}" if spread else "–"


def _labels(found: dict[str, Any]) -> list[str]:
    return [f"{date.fromisoformat(one['from']):%-d %b}" for one in found["by_time"]]


def _over_time(page: ReportPdf, found: dict[str, Any]) -> None:
    page.heading("Jobs per day" if found["step_days"] == 1 else "Jobs per week", room=70)
    series = [ChartSeries(words, colour, [one[name] for one in found["by_time"]]) for name, words, colour in OUTCOMES]
    with page.box(62) as box:
        bars(page, box, _labels(found), [one for one in series if any(one.values)])


def _types(page: ReportPdf, found: dict[str, Any]) -> None:
    page.heading("By job type")
    page.paragraph("Run and wait times are those of the last attempt: median, 95th percentile.")
    names = (("Jobs", 10), ("Finished", 11), ("Failed", 10), ("Failure rate", 14), ("Run time", 18), ("Wait time", 17))
    columns = [Column("Job type", 27, is_number=False), *(Column(name, share) for name, share in names)]
    rows = [
        [one["type"], *(f"{one[name]:,}" for name in ("jobs", "finished", "failed")), percent(one["failure_rate"])]
        + [_pair(one["ran"]), _pair(one["waited"])]
        for one in found["by_type"]
    ]
    page.rows(columns, rows)


def _times(page: ReportPdf, found: dict[str, Any]) -> None:
    ran = [(one["type"], one["ran"]["p50_s"], one["ran"]["p95_s"]) for one in found["by_type"] if one["ran"]][:MAX_RANGES]
    if ran:
        page.heading("Run times", room=22 + 6 * len(ran))
        page.paragraph("Filled dot: median. Empty dot: 95th percentile. The axis is logarithmic.")
        page.ln(2)
        with page.box(8 + 6 * len(ran)) as box:
            ranges(page, box, ran)
    waited = [one["waited"] for one in found["by_time"]]
    if any(waited):
        page.heading("Wait times", room=62)
        series = [
            ChartSeries(words, colour, [one[key] if one else None for one in waited])
            for key, words, colour in (("p50_s", "Median", BLUE), ("p95_s", "95th percentile", GREY))
        ]
        with page.box(54) as box:
            lines(page, box, _labels(found), series)


def _checks(page: ReportPdf, checks: dict[str, int]) -> None:
    if not checks["checked"]:
        return
    page.heading("Quality checks", room=58)
    columns = [Column("", 40, is_number=False), Column("Documents", 20), Column("Share", 20)]
    names = (("approve", "Approved"), ("review", "Needs review"), ("reject", "Rejected")) + (
        *(("online", "Online inspection"), ("onsite", "On-site inspection")),
        *(("defaulted", "On-site by default: the check failed"),),
    )
    page.rows(columns, [[words, f"{checks[name]:,}", percent(checks[name] / checks["checked"])] for name, words in names])


def _cost(page: ReportPdf, found: dict[str, Any]) -> None:
    spent = [one for one in found["by_type"] if one["input_tokens"] or one["output_tokens"] or one["usd"]]
    page.heading("Cost of the language model")
    if not spent:
        page.paragraph("None of these jobs used a language model.")
    for title, name, rows in (("Job type", "type", spent), ("Owner", "owner", found["by_owner"])):
        if spent:
            columns = [Column(title, 44, is_number=False), *(Column(one, 16) for one in ("Jobs", "Input tokens", "Output tokens", "USD"))]
            page.rows(
                columns,
                [
                    [one[name], *(f"{one[key]:,}" for key in ("jobs", "input_tokens", "output_tokens")), f"{one['usd']:,.4f}"]
                    for one in rows
                ],
            )
            page.ln(4)


def _failures(page: ReportPdf, failures: list[dict[str, Any]]) -> None:
    if not failures:
        return
    page.heading("Failures")
    columns = [Column("Job type", 35, is_number=False), Column("Error", 45, is_number=False), Column("Jobs", 14)]
    page.rows(columns, [[one["type"], one["error"], f"{one['jobs']:,}"] for one in failures])


def _longest(page: ReportPdf, rows: Sequence[LedgerRow]) -> None:
    if not rows:
        return
    page.heading("Longest jobs")
    columns = [Column("Document", 52, is_number=False), Column("Job type", 24, is_number=False), Column("Owner", 34, is_number=False)]
    page.rows([*columns, Column("Run time", 14)], [[one.document or "–", one.type, one.owner, seconds(one.ran_s)] for one in rows])
