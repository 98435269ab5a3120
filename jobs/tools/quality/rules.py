"""Loads the rules of `quality_rules.toml`, and derives the score and the decision from findings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("quality_rules.toml")
SEVERITIES = ("blocking", "major", "minor")
TYPES = ("text", "email", "date", "identifier")


class Phrases:
    """Alternative labels or headings. One that begins with `=` must match exactly."""

    def __init__(self, phrases: list[str]) -> None:
        parts = "|".join(re.escape(one.lower()) for one in phrases if not one.startswith("=")) or "(?!)"
        self._all = {one.removeprefix("=").lower() for one in phrases}
        self._head = re.compile(rf"(?:{parts})(?: of| for| no\.?| number| name)\b")
        self._tail = re.compile(rf".* (?:{parts})\Z")
        self._within = re.compile(rf"\b(?:{parts})\b")

    def rank(self, label: str) -> int:
        """Returns how well a label matches: 3 exactly, 2 at the start ("address of the farm"), 1 at the end ("farm address"), 0 not."""
        words = label.lower()
        return 3 if words in self._all else 2 if self._head.match(words) else 1 if self._tail.match(words) else 0

    def is_in(self, heading: str) -> bool:
        """Whether a heading is or contains one of the phrases."""
        words = heading.lower()
        return words in self._all or self._within.search(words) is not None


@dataclass(frozen=True)
class FieldRule:
    """A required field. `or_text`, found anywhere in the text, satisfies it too; `once` and `past` are checks of its value."""

    name: str
    labels: Phrases
    severity: str
    fix: str
    type: str
    or_text: re.Pattern[str] | None
    once: bool
    past: bool


@dataclass(frozen=True)
class SectionRule:
    """A required section with at least `min_words` words. `or_text`, found anywhere in the text, satisfies it too."""

    name: str
    headings: Phrases
    severity: str
    fix: str
    min_words: int
    or_text: re.Pattern[str] | None


@dataclass(frozen=True)
class DatePeriod:
    """Two date fields of which the second must not be before the first."""

    first: Phrases
    last: Phrases


@dataclass(frozen=True)
class Rules:
    """The rules for one kind of document."""

    min_words: int
    fields: list[FieldRule]
    sections: list[SectionRule]
    periods: list[DatePeriod]


@dataclass(frozen=True)
class Scoring:
    """The points that a finding of each severity costs, the least score to approve, and the score below which to reject."""

    blocking: int
    major: int
    minor: int
    approve: int
    reject: int


def rules_for(kind: str) -> Rules:
    """Returns the rules for this kind of document, or the default rules."""
    kinds = _all_rules()
    return kinds.get(kind, kinds["default"])


@cache
def scoring() -> Scoring:
    """Returns the table `points` of the rules file, read once."""
    return Scoring(**tomllib.loads(FILE.read_text())["points"])


@cache
def _all_rules() -> dict[str, Rules]:
    found = tomllib.loads(FILE.read_text())
    return {kind: _rules(one) for kind, one in found.items() if kind != "points"}


def _rules(table: dict[str, Any]) -> Rules:
    return Rules(
        table["min_words"],
        [_field(**one) for one in table.get("fields", [])],
        [_section(**one) for one in table.get("sections", [])],
        [DatePeriod(Phrases(one["first"]), Phrases(one["last"])) for one in table.get("periods", [])],
    )


def _field(
    *, name: str, labels: list[str], severity: str, fix: str, type: str = "text", or_text: str = "", once: bool = False, past: bool = False
) -> FieldRule:
    _check(name, severity, type)
    return FieldRule(name, Phrases(labels), severity, fix, type, _pattern(or_text), once, past)


def _section(*, name: str, headings: list[str], severity: str, fix: str, min_words: int, or_text: str = "") -> SectionRule:
    _check(name, severity)
    return SectionRule(name, Phrases(headings), severity, fix, min_words, _pattern(or_text))


def _check(name: str, severity: str, type: str = "text") -> None:
    if severity not in SEVERITIES or type not in TYPES:
        raise ValueError(f"{FILE.name}, {name}: severity is one of {', '.join(SEVERITIES)}, and type one of {', '.join(TYPES)}.")


def _pattern(text: str) -> re.Pattern[str] | None:
    return re.compile(text) if text else None


# ---- findings, score and decision


@dataclass(frozen=True)
class QualityFinding:
    """One problem: its severity, where it is, what is wrong, and how to fix it."""

    severity: str
    where: str
    message: str
    fix: str


def in_order(findings: Iterable[QualityFinding]) -> list[QualityFinding]:
    """Returns the findings without duplicates, the most severe first."""
    return sorted(dict.fromkeys(findings), key=lambda one: SEVERITIES.index(one.severity))


def score_of(findings: Iterable[QualityFinding]) -> int:
    """Returns 100 less the points of each finding, at least 0."""
    points: dict[str, int] = asdict(scoring())
    return max(0, 100 - sum(points[one.severity] for one in findings))


def decision_of(score: int, findings: Iterable[QualityFinding]) -> str:
    """Returns `approve` for a good score with minor findings only, `reject` for a bad score with a blocking one, else `review`."""
    severities = {one.severity for one in findings}
    if score >= scoring().approve and severities <= {"minor"}:
        return "approve"
    return "reject" if score < scoring().reject and "blocking" in severities else "review"
