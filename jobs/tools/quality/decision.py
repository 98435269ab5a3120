"""What a check finds, and what follows from it: points, and a decision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...tools.quality.rules import SEVERITIES, points


@dataclass(frozen=True)
class Finding:
    """One thing to mend: how bad it is, where it stands, what is wrong, and what to do."""

    severity: str
    where: str
    message: str
    mend: str


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, as found within one severity; each once."""
    return sorted(dict.fromkeys(findings), key=lambda one: SEVERITIES.index(one.severity))


def score_of(findings: Iterable[Finding]) -> int:
    """100, less what each finding costs; never below 0."""
    cost = {"blocking": points().blocking, "major": points().major, "minor": points().minor}
    return max(0, 100 - sum(cost[one.severity] for one in findings))


def decision_of(score: int, findings: Iterable[Finding]) -> str:
    """`approve` a good document without a blocking or major finding, `reject` a bad one with a blocking one; else `review`."""
    severities = {one.severity for one in findings}
    if score >= points().approve and severities <= {"minor"}:
        return "approve"
    return "reject" if score < points().reject and "blocking" in severities else "review"
