"""The figures of a report, from what the ledger counts and measures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from monolith.job_types.registry import Ledger

MOST_OWNERS = 50
MOST_CAUSES = 20
DAILY_UP_TO = 62  # days that are shown one by one; longer periods by the week
OUTCOMES = {"finished": "finished", "failed": "failed", "stopped": "stopped", "canceled": "stopped"}  # of all others it is not known yet
CHECK = "quality_check"


@dataclass(frozen=True)
class ReportPeriod:
    """Whole days in UTC, the last one included."""

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
        """How many days go together in the charts."""
        return 1 if self.days <= DAILY_UP_TO else 7

    def steps(self) -> list[str]:
        """The first day of each step."""
        return [(self.first + timedelta(days=day)).isoformat() for day in range(0, self.days, self.step)]


def gather(ledger: Ledger, period: ReportPeriod) -> dict[str, Any]:
    """Everything but the rows."""
    types = _types(ledger)
    return {
        "jobs": sum(one["jobs"] for one in types),
        **{name: sum(one[name] for one in types) for name in ("finished", "failed", "stopped", "open")},
        "failure_rate": _rate(sum(one["failed"] for one in types), sum(one["finished"] for one in types)),
        "ran": _all(ledger, "ran"),
        "waited": _all(ledger, "waited"),
        "cost": {name: round(sum(one[name] for one in types), 6) for name in ("input_tokens", "output_tokens", "usd")},
        "by_type": types,
        "by_owner": _owners(ledger),
        "by_time": _times(ledger, period),
        "step_days": period.step,
        "failures": _failures(ledger),
        "quality_checks": _checks(ledger),
    }


def _rate(failed: int, finished: int) -> float | None:
    """The share of those that are over by themselves."""
    return round(failed / (failed + finished), 4) if failed + finished else None


def _all(ledger: Ledger, what: str) -> dict[str, float] | None:
    return next(({"p50_s": round(one.p50, 3), "p95_s": round(one.p95, 3)} for one in ledger.spread(what)), None)


def _grouped(ledger: Ledger, name: str) -> dict[str, dict[str, Any]]:
    """Jobs by outcome and what they spent, of each value of this name."""
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
            if spread.by in found:  # a job may have come in between two questions
                found[spread.by][what] = {"p50_s": round(spread.p50, 3), "p95_s": round(spread.p95, 3)}
    return sorted(found.values(), key=lambda one: (-one["jobs"], one["type"]))


def _owners(ledger: Ledger) -> list[dict[str, Any]]:
    """The owners who spent the most, then those with the most jobs."""
    found = sorted(_grouped(ledger, "owner").values(), key=lambda one: (-one["usd"], -one["jobs"], one["owner"]))
    return found[:MOST_OWNERS]


def _times(ledger: Ledger, period: ReportPeriod) -> list[dict[str, Any]]:
    """Step by step: jobs by outcome, and how long they waited."""
    steps = [{"from": day, "finished": 0, "failed": 0, "stopped": 0, "open": 0, "waited": None} for day in period.steps()]
    for (step, status), jobs, *_ in ledger.count("day", "status", every=period.step):
        steps[step][OUTCOMES.get(status, "open")] += jobs
    for one in ledger.spread("waited", "day", every=period.step):
        steps[one.by]["waited"] = {"p50_s": round(one.p50, 3), "p95_s": round(one.p95, 3)}
    return steps


def _failures(ledger: Ledger) -> list[dict[str, Any]]:
    """What failed, by type of job and kind of error."""
    counted = [(by, jobs) for by, jobs, *_ in ledger.count("type", "error_type", "status") if by[2] == "failed"]
    return [{"type": by[0], "error": by[1] or "", "jobs": jobs} for by, jobs in counted[:MOST_CAUSES]]


def _checks(ledger: Ledger) -> dict[str, int]:
    """What quality checks decided, where they sent people, and how often the safe default had to do: for each that failed."""
    found: dict[str, int] = defaultdict(int, dict.fromkeys(("checked", "approve", "review", "reject", "online", "onsite", "defaulted"), 0))
    for decision, route, jobs in ledger.results(CHECK, "decision", "route"):
        found["checked"] += jobs
        for value in (decision, route):
            if str(value).lower() in found:
                found[str(value).lower()] += jobs
    found["defaulted"] = sum(jobs for by, jobs, *_ in ledger.count("type", "status") if by == (CHECK, "failed"))
    found["checked"] += found["defaulted"]
    return dict(found)
