"""The rules of `quality_rules.toml`, loaded and checked: what a document of each kind must have."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("quality_rules.toml")
SEVERITIES = ("blocking", "major", "minor")
TYPES = ("text", "email", "date", "identifier")


class Phrases:
    """Ways to say one thing; one that begins with = is never a part of something longer."""

    def __init__(self, phrases: list[str]) -> None:
        parts = "|".join(re.escape(one.lower()) for one in phrases if not one.startswith("=")) or "(?!)"
        self._all = {one.removeprefix("=").lower() for one in phrases}
        self._head = re.compile(rf"(?:{parts})(?: of| for| no\.?| number| name)\b")
        self._tail = re.compile(rf".* (?:{parts})\Z")
        self._within = re.compile(rf"\b(?:{parts})\b")

    def rank(self, label: str) -> int:
        """How well a label says it: 3 exactly, 2 "address of the farm", 1 "farm address", 0 not at all."""
        words = label.lower()
        return 3 if words in self._all else 2 if self._head.match(words) else 1 if self._tail.match(words) else 0

    def within(self, heading: str) -> bool:
        """Whether a heading says it, alone or among other words."""
        words = heading.lower()
        return words in self._all or self._within.search(words) is not None


@dataclass(frozen=True)
class FieldRule:
    name: str
    labels: Phrases
    severity: str
    mend: str
    type: str
    or_text: re.Pattern[str] | None
    once: bool
    past: bool


@dataclass(frozen=True)
class SectionRule:
    name: str
    headings: Phrases
    severity: str
    mend: str
    min_words: int
    or_text: re.Pattern[str] | None


@dataclass(frozen=True)
class DatePeriod:
    first: Phrases
    last: Phrases


@dataclass(frozen=True)
class Rules:
    """What one kind of document must have."""

    min_words: int
    fields: list[FieldRule]
    sections: list[SectionRule]
    periods: list[DatePeriod]


@dataclass(frozen=True)
class Points:
    """What a finding of each severity takes from 100, and from where on a document is approved, below where rejected."""

    blocking: int
    major: int
    minor: int
    approve: int
    reject: int


def rules_for(kind: str) -> Rules:
    """The rules of this kind of document, or those of all that have none of their own."""
    kinds = _read()
    return kinds.get(kind, kinds["default"])


@cache
def points() -> Points:
    return Points(**tomllib.loads(FILE.read_text())["points"])


@cache
def _read() -> dict[str, Rules]:
    found = tomllib.loads(FILE.read_text())
    return {kind: _rules(one) for kind, one in found.items() if kind != "points"}


def _rules(said: dict[str, Any]) -> Rules:
    return Rules(
        said["min_words"],
        [_field(**one) for one in said.get("fields", [])],
        [_section(**one) for one in said.get("sections", [])],
        [DatePeriod(Phrases(one["first"]), Phrases(one["last"])) for one in said.get("periods", [])],
    )


def _field(
    *, name: str, labels: list[str], severity: str, mend: str, type: str = "text", or_text: str = "", once: bool = False, past: bool = False
) -> FieldRule:
    _check(name, severity, type)
    return FieldRule(name, Phrases(labels), severity, mend, type, _pattern(or_text), once, past)


def _section(*, name: str, headings: list[str], severity: str, mend: str, min_words: int, or_text: str = "") -> SectionRule:
    _check(name, severity)
    return SectionRule(name, Phrases(headings), severity, mend, min_words, _pattern(or_text))


def _check(name: str, severity: str, type: str = "text") -> None:
    if severity not in SEVERITIES or type not in TYPES:
        raise ValueError(f"{FILE.name}, {name}: severity is one of {', '.join(SEVERITIES)}, and type one of {', '.join(TYPES)}.")


def _pattern(text: str) -> re.Pattern[str] | None:
    return re.compile(text) if text else None


# ---- findings, score and decision


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
