"""Computes the figures of a report from the ledger."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from monolith.job_types.registry import Ledger

MAX_OWNERS = 50
MAX_ERRORS = 20
MAX_DAILY = 62  # days; longer periods are shown by week
OUTCOMES = {"finished": "finished", "failed": "failed", "stopped": "stopped", "canceled": "stopped"}  # all other statuses are open
CHECK = "quality_check"


@dataclass(frozen=True)
class ReportPeriod:
    """A period of whole days in UTC, including the last one, and when the report was created."""

    first: date
    last: date
    made_at: datetime

    @property
    def start(self) -> float:
        return datetime(self.first.year, self.first.month, self.first.day, tzinfo=UTC).timestamp()

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    @property
    def end(self) -> float:
        return self.start + self.days * 86400.0

    @property
    def step(self) -> int:
        """Days per bar in the charts."""
        return 1 if self.days <= MAX_DAILY else 7

    def steps(self) -> list[str]:
        """The first day of each step."""
        return [(self.first + timedelta(days=day)).isoformat() for day in range(0, self.days, self.step)]


def gather(ledger: Ledger, period: ReportPeriod) -> dict[str, Any]:
    """Returns all figures of the report as the fields of the result."""
    types = _types(ledger)
    return {
        "jobs": sum(one["jobs"] for one in types),
        **{name: sum(one[name] for one in types) for name in ("finished", "failed", "stopped", "open")},
        "failure_rate": _rate(sum(one["failed"] for one in types), sum(one["finished"] for one in types)),
        "ran": _percentiles(ledger, "ran"),
        "waited": _percentiles(ledger, "waited"),
        "cost": {name: round(sum(one[name] for one in types), 6) for name in ("input_tokens", "output_tokens", "usd")},
        "by_type": types,
        "by_owner": _owners(ledger),
        "by_time": _times(ledger, period),
        "step_days": period.step,
        "failures": _failures(ledger),
        "quality_checks": _checks(ledger),
    }


def _rate(failed: int, finished: int) -> float | None:
    """The failure rate among jobs that finished or failed; None if there are none."""
    return round(failed / (failed + finished), 4) if failed + finished else None


def _percentiles(ledger: Ledger, what: str) -> dict[str, float] | None:
    return next(({"p50_s": round(one.p50, 3), "p95_s": round(one.p95, 3)} for one in ledger.spread(what)), None)


def _grouped(ledger: Ledger, name: str) -> dict[str, dict[str, Any]]:
    """Jobs by outcome, tokens and cost for each value of this column."""
    found: dict[str, dict[str, Any]] = {}
    for (value, status), jobs, input_tokens, output_tokens, usd in ledger.count(name, "status"):
        empty = {"jobs": 0, "finished": 0, "failed": 0, "stopped": 0, "open": 0, "input_tokens": 0, "output_tokens": 0, "usd": 0.0}
        one = found.setdefault(value, {name: value, **empty})
        for key, more in (
            ("jobs", jobs),
            (OUTCOMES.get(status, "open"), jobs),
            ("input_tokens", input_tokens),
            ("output_tokens", output_tokens),
        ):
            one[key] += more
        one["usd"] = round(one["usd"] + usd, 6)
    for one in found.values():
        one["failure_rate"] = _rate(one["failed"], one["finished"])
    return found


def _types(ledger: Ledger) -> list[dict[str, Any]]:
    """Each job type, the most frequent first."""
    found = _grouped(ledger, "type")
    for what in ("ran", "waited"):
        for one in found.values():
            one[what] = None
        for spread in ledger.spread(what, "type"):
            if spread.by in found:  # a job may have been added between two queries
                found[spread.by][what] = {"p50_s": round(spread.p50, 3), "p95_s": round(spread.p95, 3)}
    return sorted(found.values(), key=lambda one: (-one["jobs"], one["type"]))


def _owners(ledger: Ledger) -> list[dict[str, Any]]:
    """The owners who spent the most, then those with the most jobs."""
    found = sorted(_grouped(ledger, "owner").values(), key=lambda one: (-one["usd"], -one["jobs"], one["owner"]))
    return found[:MAX_OWNERS]


def _times(ledger: Ledger, period: ReportPeriod) -> list[dict[str, Any]]:
    """Jobs by outcome and wait times for each step of the period."""
    steps = [{"from": day, "finished": 0, "failed": 0, "stopped": 0, "open": 0, "waited": None} for day in period.steps()]
    for (step, status), jobs, *_ in ledger.count("day", "status", every=period.step):
        steps[step][OUTCOMES.get(status, "open")] += jobs
    for one in ledger.spread("waited", "day", every=period.step):
        steps[one.by]["waited"] = {"p50_s": round(one.p50, 3), "p95_s": round(one.p95, 3)}
    return steps


def _failures(ledger: Ledger) -> list[dict[str, Any]]:
    """The most frequent errors by job type."""
    counted = [(by, jobs) for by, jobs, *_ in ledger.count("type", "error_type", "status") if by[2] == "failed"]
    return [{"type": by[0], "error": by[1] or "", "jobs": jobs} for by, jobs in counted[:MAX_ERRORS]]


def _checks(ledger: Ledger) -> dict[str, int]:
    """Decisions and routes of quality checks. A failed check counts as `defaulted`: it was routed to the safe default."""
    found: dict[str, int] = defaultdict(int, dict.fromkeys(("checked", "approve", "review", "reject", "online", "onsite", "defaulted"), 0))
    for decision, route, jobs in ledger.results(CHECK, "decision", "route"):
        found["checked"] += jobs
        for value in (decision, route):
            if str(value).lower() in found:
                found[str(value).lower()] += jobs
    found["defaulted"] = sum(jobs for by, jobs, *_ in ledger.count("type", "status") if by == (CHECK, "failed"))
    found["checked"] += found["defaulted"]
    return dict(found)
