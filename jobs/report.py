"""The job type `report`: figures on the jobs of a period, with charts and tables as PDF and every job as CSV."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from monolith.content.formatting import rfc3339
from monolith.job_types import registry
from monolith.job_types.registry import Job, Ledger, Permanent, fixed, job_type

from .tools.report import figures
from .tools.report.figures import ReportPeriod

MAX_DAYS = 366
DEFAULT_DAYS = 30
MAX_TYPES = 50


class Day(fields.String):
    """A date as a string in ISO 8601."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError:
            raise ValidationError(f"{text[:40]!r} is not a date. Use a date such as 2026-11-24.") from None


def _check_type(name: str) -> None:
    known = registry.discover()
    if name not in known:
        listed = ", ".join(one.name for one in known.values() if not one.is_internal)
        raise ValidationError(f"Unknown job type {name[:60]!r}. Use one of: {listed}.")


def _day(description: str) -> Day:
    return Day(load_default=None, allow_none=True, metadata={"description": description})


class Params(Schema):
    class Meta:
        include = {  # "from" is a keyword
            "from": _day("The first day (UTC), such as 2026-11-01"),
            "to": _day("The last day (UTC); defaults to today if only the first is given"),
        }
        fields = ("from", "to", "days", "types", "owner")

    days = fields.Integer(
        load_default=None,
        allow_none=True,
        validate=validate.Range(1, MAX_DAYS),
        metadata={"description": f"Number of days up to today, instead of dates; defaults to {DEFAULT_DAYS}"},
    )
    types = fields.List(
        fields.String(validate=_check_type),
        load_default=list,
        validate=validate.Length(max=MAX_TYPES),
        metadata={"description": "Only jobs of these types"},
    )
    owner = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(1, 200),
        metadata={"description": "Only jobs of the user with this e-mail address; admins only", "x-for-admins": True},
    )

    @validates_schema
    def check(self, data: dict[str, Any], **_: Any) -> None:
        """Checks that the period is given in one way and is not too long."""
        first, last = data["from"], data["to"]
        if data["days"] and (first or last):
            raise ValidationError("Give either days, or from and to.", "days")
        if last and not first:
            raise ValidationError("Also give the first day, or use days instead of dates.", "from")
        if first and last and first > last:
            raise ValidationError("The last day is before the first. Give a later one.", "to")
        if first and last and _length(date.fromisoformat(first), date.fromisoformat(last)) > MAX_DAYS:
            raise ValidationError(f"A report covers at most {MAX_DAYS} days. Give a later first day.", "from")


def _length(first: date, last: date) -> int:
    return (last - first).days + 1


@job_type(queue="default", params=Params, takes="nothing", max_attempts=2, backoff=fixed(10), timeout=300)
def report(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Create a report on the jobs in a period.

    Covers all jobs submitted in the period: their number and outcomes, run and wait times, the decisions of quality checks, and the
    cost of the language model, by job type and by owner. You get a PDF with charts and a CSV of every job. It covers your own jobs;
    admins get all users' jobs. Pruned jobs are not included: a report reaches back as far as finished and failed jobs are kept.
    """
    from .tools.report import csv_export, pages

    period = _period(params, datetime.fromtimestamp(job.clock(), UTC))
    ledger = job.ledger(period.start, period.end, params["types"], params["owner"])
    job.progress(5, "counting the jobs")
    found = {**_request_fields(period, params, ledger), **figures.gather(ledger, period)}
    job.progress(30, "writing the table")
    table = csv_export.write(ledger.rows(), lambda done: job.progress(30 + 50 * min(done / max(found["jobs"], 1), 1), "writing the table"))
    job.attach("report.csv", table.content, "text/csv")
    job.progress(80, "drawing the charts")
    found |= {"csv_rows": table.rows, "csv_is_complete": table.is_complete}
    job.attach("report.pdf", pages.draw(found, ledger.longest(10)), "application/pdf")
    return found


def _period(params: dict[str, Any], moment: datetime) -> ReportPeriod:
    """The period, with both days included. Raises `Permanent` if it is too long."""
    today = moment.date()
    if params["from"]:
        first = date.fromisoformat(params["from"])
        last = date.fromisoformat(params["to"]) if params["to"] else max(today, first)
    else:
        first, last = today - timedelta(days=(params["days"] or DEFAULT_DAYS) - 1), today
    if _length(first, last) > MAX_DAYS:
        raise Permanent(f"{first} to {last} is more than {MAX_DAYS} days. Give a later first day, or an earlier last one.")
    return ReportPeriod(first, last, moment)


def _request_fields(period: ReportPeriod, params: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    return {
        "from": period.first.isoformat(),
        "to": period.last.isoformat(),
        "days": period.days,
        "made_at": rfc3339(period.made_at.timestamp(), "seconds"),
        "owner": ledger.whose,
        "types": params["types"],
    }
