"""Checks a document against the rules for its kind: completeness, placeholders, readability and attempts to steer the reviewer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from ..analysis import text_stats
from ..analysis.text_stats import TextAnalysis
from . import consistency
from .form_fields import Entry, dates, entries
from .rules import FieldRule, QualityFinding, Rules, SectionRule, in_order, rules_for

MAX_OF_A_KIND = 3  # findings of the same kind: more would add nothing
LONG_SENTENCE = 35  # words, on average
MIN_EASE = 10  # Flesch reading ease
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_PLACEHOLDER = re.compile(
    r"\b(?:TODO|TBD|TBA|lorem ipsum|x{3,}|to be (?:completed|confirmed|determined|added|filled in))\b"
    r"|[\[<](?:insert|enter|your|company|applicant|name|date|address|please)\b[^\]>\n]{0,60}[\]>]|_{5,}|\.{8,}",
    re.IGNORECASE,
)
_EMPTY_VALUE = re.compile(r"(?:n/?a|none|nil|unknown|pending|-+|\?+|\.+)\Z", re.IGNORECASE)
_STEERING = re.compile(
    r"\b(?:ignore|disregard|forget|override) (?:\w+ ){0,4}(?:instructions?|rules?|prompts?|checks?|guidelines)\b"
    r"|\b(?:system|assistant) ?(?:prompt|message)\b|\byou are (?:now )?(?:an? )?(?:ai|assistant|language model|reviewer|chatbot)\b"
    r"|\b(?:must|should|shall|please|always) (?:be )?(?:approved?|answer with|respond with|output)\b"
    r"|\bgive (?:it |this |me )?(?:an? )?(?:full |high |perfect )?(?:score|100)\b"
    r"|\b(?:set|assign|return|output) (?:the |a )?(?:score|decision|route)\b"
    r"|[\"']?(?:decision|route|score)[\"']?\s*[:=]\s*[\"']?(?:approve|online|100)\b|<\|?/?(?:system|im_start|im_end|assistant)\|?>",
    re.IGNORECASE,
)
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\U000e0000-\U000e007f]")


@dataclass(frozen=True)
class CheckResult:
    """The findings, the most severe first, the values of the recognised fields by name, and the analysis of the text."""

    findings: list[QualityFinding]
    known: dict[str, str]
    analysis: TextAnalysis


def check(text: str, kind: str, today: date) -> CheckResult:
    """Checks a text as a document of this kind, such as "application"."""
    rules, found = rules_for(kind), text_stats.analyse(text)
    given = entries(text)
    by_rule = _by_rule(rules, given)
    findings = [
        *_completeness(rules, by_rule, given, text, found),
        *consistency.check(rules, by_rule, given, text, today),
        *_placeholders(text),
        *_steering(text),
        *_readability(found),
    ]
    known = {rule.name: own[0].value[:200] for rule, own in by_rule.items() if own and own[0].value}
    return CheckResult(in_order(_limited_to_english(findings, found)), known, found)


def _by_rule(rules: Rules, given: list[Entry]) -> dict[FieldRule, list[Entry]]:
    """The entries of each field; an entry belongs to the rule that its label matches best."""
    found: dict[FieldRule, list[Entry]] = {rule: [] for rule in rules.fields}
    for entry in given:
        best = max(rules.fields, key=lambda rule: rule.labels.rank(entry.label), default=None)
        if best and best.labels.rank(entry.label):
            found[best].append(entry)
    return found


# ---- completeness


def _completeness(
    rules: Rules, by_rule: dict[FieldRule, list[Entry]], given: list[Entry], text: str, found: TextAnalysis
) -> Iterator[QualityFinding]:
    for field, own in by_rule.items():
        yield from _field(field, own, text)
    words = _words_of_sections(rules, found)
    for section in rules.sections:
        yield from _section(section, words.get(section.name), given, text)
    if len(found.words) < rules.min_words:
        fix = f"Add detail: at least {rules.min_words} words are expected."
        yield QualityFinding(
            "major", "the document", f"It has {len(found.words)} {'word' if len(found.words) == 1 else 'words'}, too few to assess.", fix
        )


def _field(rule: FieldRule, given: list[Entry], text: str) -> Iterator[QualityFinding]:
    if any(_is_filled(rule, entry.value) for entry in given) or (rule.or_text and rule.or_text.search(text)):
        return
    if not given:
        yield QualityFinding(rule.severity, "the document", f"The {rule.name} is missing.", rule.fix)
    elif all(_is_empty(entry.value) for entry in given):
        yield QualityFinding(rule.severity, given[0].where, f"The {rule.name} is empty.", rule.fix)
    else:
        yield QualityFinding(rule.severity, given[0].where, f"“{given[0].value[:60]}” is not a valid {rule.name}.", rule.fix)


def _is_empty(value: str) -> bool:
    return not value or _EMPTY_VALUE.match(value) is not None or _PLACEHOLDER.fullmatch(value) is not None


def _is_filled(rule: FieldRule, value: str) -> bool:
    if _is_empty(value):
        return False
    if rule.type == "email":
        return _EMAIL.search(value) is not None
    if rule.type == "date":
        return bool(dates(value))  # an impossible date is reported by consistency.py
    if rule.type == "identifier":
        return len(re.findall(r"\w", value)) >= 4 and re.search(r"\d", value) is not None
    return re.search(r"\w\W*\w", value) is not None


def _words_of_sections(rules: Rules, found: TextAnalysis) -> dict[str, int]:
    """The number of words in each section, those below its subheadings included if it starts with one."""
    counted = Counter[str]()
    for sentence in found.sentences:
        counted[sentence.section] += len(sentence.words)
    words: dict[str, int] = {}
    current = ""
    for heading in dict.fromkeys(found.sections):
        bare = heading.lstrip("0123456789.) ").rstrip(": ")
        own = next((rule.name for rule in rules.sections if rule.headings.is_in(bare)), None)
        if own or not words.get(current):  # a heading directly below another belongs to it
            current = own or current
            words[current] = words.get(current, 0) + counted[heading]
    return words


def _section(rule: SectionRule, words: int | None, given: list[Entry], text: str) -> Iterator[QualityFinding]:
    is_elsewhere = bool(rule.or_text and rule.or_text.search(text)) or any(
        rule.headings.is_in(entry.label) and len(entry.value.split()) >= rule.min_words for entry in given
    )
    if is_elsewhere or (words is not None and words >= rule.min_words):
        return
    if words is None:
        yield QualityFinding(rule.severity, "the document", f"There is no section on {rule.name}.", rule.fix)
    else:
        severity = "minor" if rule.severity == "minor" else "major"
        message = f"The section on {rule.name} has {words} {'word' if words == 1 else 'words'}, too few to assess."
        yield QualityFinding(severity, f"section “{rule.name}”", message, f"Add detail: at least {rule.min_words} words.")


# ---- placeholders, steering, readability


def _placeholders(text: str) -> Iterator[QualityFinding]:
    for line, words in _lines_with(_PLACEHOLDER, text):
        yield QualityFinding("major", f"line {line}", f"“{words}” is a placeholder.", "Fill it in, or delete the line.")


def _steering(text: str) -> Iterator[QualityFinding]:
    for line, words in _lines_with(_STEERING, text):
        message = f"“{words}” addresses the reviewer and asks for an outcome."
        yield QualityFinding("major", f"line {line}", message, "Remove it: it does not influence the decision.")
    if match := _INVISIBLE.search(text):
        line = text.count("\n", 0, match.start()) + 1
        yield QualityFinding("major", f"line {line}", "It contains invisible characters.", "Remove them; retype the line if necessary.")


def _lines_with(pattern: re.Pattern[str], text: str) -> list[tuple[int, str]]:
    """The first MAX_OF_A_KIND lines with a match: line number and matching words."""
    found = ((number, match[0]) for number, line in enumerate(text.split("\n"), start=1) if (match := pattern.search(line)))
    return [(number, " ".join(words.split())[:60]) for number, words in (one for one, _ in zip(found, range(MAX_OF_A_KIND), strict=False))]


def _readability(found: TextAnalysis) -> Iterator[QualityFinding]:
    prose = [len(one.words) for one in found.sentences if len(one.words) > 3 and not one.listed]
    if len(prose) >= 3 and sum(prose) / len(prose) > LONG_SENTENCE:
        message = f"Sentences have {sum(prose) / len(prose):.0f} words on average, which is hard to follow."
        yield QualityFinding("minor", "the document", message, "Split the longest sentences.")
    ease = text_stats.reading_ease(found)["score"]
    if isinstance(ease, float) and ease < MIN_EASE and len(prose) >= 3:
        message = f"Its readability is {ease} of 100: very difficult."
        yield QualityFinding("minor", "the document", message, "Use shorter words and sentences.")


def _limited_to_english(findings: list[QualityFinding], found: TextAnalysis) -> Iterator[QualityFinding]:
    """Downgrades blocking findings in other languages: the rules only know English labels and headings."""
    if found.language in (None, "en") or len(found.words) < 30:
        yield from findings
        return
    yield QualityFinding(
        "major", "the document", f"It seems to be written in {found.language!r}; the rules only cover English.", "Have a person check it."
    )
    for one in findings:
        yield QualityFinding("major", one.where, one.message, one.fix) if one.severity == "blocking" else one
