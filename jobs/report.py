"""Report what ran in a period: figures, charts and tables as PDF, every job as CSV."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from monolith.job_types import registry
from monolith.job_types.registry import Job, Ledger, Permanent, fixed, job_type

from .tools.report import figures
from .tools.report.figures import ReportPeriod

MAX_DAYS = 366
USUAL_DAYS = 30
MAX_TYPES = 50


class Day(fields.String):
    """A date, kept as it is written."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError:
            raise ValidationError(f"{text[:40]!r} is no date. Give one such as 2026-11-24.") from None


def _known(name: str) -> None:
    known = registry.discover()
    if name not in known:
        listed = ", ".join(one.name for one in known.values() if not one.is_internal)
        raise ValidationError(f"There is no job type {name[:60]!r}. Choose from: {listed}.")


def _day(description: str) -> Day:
    return Day(load_default=None, allow_none=True, metadata={"description": description})


class Params(Schema):
    class Meta:
        include = {  # "from" cannot be the name of an attribute
            "from": _day("The first day (UTC), such as 2026-11-01"),
            "to": _day("The last day (UTC); today when only the first is given"),
        }
        fields = ("from", "to", "days", "types", "owner")

    days = fields.Integer(
        load_default=None,
        allow_none=True,
        validate=validate.Range(1, MAX_DAYS),
        metadata={"description": f"The last so many days with today, instead of dates; {USUAL_DAYS} when neither is given"},
    )
    types = fields.List(
        fields.String(validate=_known),
        load_default=list,
        validate=validate.Length(max=MAX_TYPES),
        metadata={"description": "Only jobs of these types"},
    )
    owner = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(1, 200),
        metadata={"description": "Only the jobs of this user, by e-mail; for admins", "x-for-admins": True},
    )

    @validates_schema
    def check(self, data: dict[str, Any], **_: Any) -> None:
        """The period is said in one way, and is not too long."""
        first, last = data["from"], data["to"]
        if data["days"] and (first or last):
            raise ValidationError("Give either days, or from and to.", "days")
        if last and not first:
            raise ValidationError("Give the first day too, or days instead of dates.", "from")
        if first and last and first > last:
            raise ValidationError("The last day is before the first. Give a later one.", "to")
        if first and last and _length(date.fromisoformat(first), date.fromisoformat(last)) > MAX_DAYS:
            raise ValidationError(f"A report covers at most {MAX_DAYS} days. Give a later first day.", "from")


def _length(first: date, last: date) -> int:
    return (last - first).days + 1


@job_type(queue="default", params=Params, takes="nothing", max_attempts=2, backoff=fixed(10), timeout=300)
def report(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Report what ran in a period.

    Of all jobs that were submitted in it: how many, how they ended, how long they ran and waited, what quality checks decided, what
    the language model cost, by job type and by owner. As a PDF with charts and a CSV of every job. You get your own jobs, admins
    those of everybody. Jobs that are pruned are in no report: it reaches back as far as finished and failed jobs are kept.
    """
    from .tools.report import csv_export, pages

    period = _period(params, datetime.fromtimestamp(job.clock(), UTC))
    ledger = job.ledger(period.start, period.end, params["types"], params["owner"])
    job.progress(5, "counting")
    found = {**_about(period, params, ledger), **figures.gather(ledger, period)}
    job.progress(30, "writing the table")
    table = csv_export.write(ledger.rows(), lambda done: job.progress(30 + 50 * min(done / max(found["jobs"], 1), 1), "writing the table"))
    job.attach("report.csv", table.content, "text/csv")
    job.progress(80, "drawing")
    found |= {"csv_rows": table.rows, "csv_is_complete": table.is_complete}
    job.attach("report.pdf", pages.draw(found, ledger.longest(10)), "application/pdf")
    return found


def _period(params: dict[str, Any], moment: datetime) -> ReportPeriod:
    """From the beginning of the first day to the end of the last one. Raises `Permanent` for one that is too long."""
    today = moment.date()
    if params["from"]:
        first = date.fromisoformat(params["from"])
        last = date.fromisoformat(params["to"]) if params["to"] else max(today, first)
    else:
        first, last = today - timedelta(days=(params["days"] or USUAL_DAYS) - 1), today
    if _length(first, last) > MAX_DAYS:
        raise Permanent(f"From {first} to {last} are more than {MAX_DAYS} days. Give a later first day, or an earlier last one.")
    return ReportPeriod(first, last, moment)


def _about(period: ReportPeriod, params: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    return {
        "from": period.first.isoformat(),
        "to": period.last.isoformat(),
        "days": period.days,
        "made_at": period.made_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "owner": ledger.whose,
        "types": params["types"],
    }
