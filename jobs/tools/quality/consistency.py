"""Checks that the dates, amounts and identifiers of a document are valid and consistent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from itertools import islice

from .form_fields import DateMention, Entry, amount_of, amounts, dates
from .rules import DatePeriod, FieldRule, QualityFinding, Rules

MAX_OF_A_KIND = 3
MAX_AGE = timedelta(days=365)
MAX_GAP = 2  # lines between entries of one list
_SPAN = re.compile(r"\s*(?:to|until|till|through|and|-|–|—)\s*", re.IGNORECASE)
_TOTAL = re.compile(r"(?:grand |overall )?(?:total|sum)\b(?!.*sub)", re.IGNORECASE)
_SUBTOTAL = re.compile(r"sub-?\s?total", re.IGNORECASE)
_IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")


def check(rules: Rules, by_rule: dict[FieldRule, list[Entry]], given: list[Entry], text: str, today: date) -> Iterator[QualityFinding]:
    """Yields a finding for each invalid or inconsistent date, value, amount and identifier."""
    yield from _impossible_dates(text)
    yield from _ambiguous_dates(text)
    yield from _spans(text)
    for period in rules.periods:
        yield from _period(period, given)
    for rule, own in by_rule.items():
        yield from _contradictions(rule, own)
        if rule.past:
            yield from _past(rule, own, today)
    yield from _totals(given)
    yield from _currencies(text)
    yield from _ibans(given)


# ---- dates


def _impossible_dates(text: str) -> Iterator[QualityFinding]:
    wrong = (one.text for one in dates(text) if one.day is None)
    for words in islice(dict.fromkeys(wrong), MAX_OF_A_KIND):
        yield QualityFinding("major", _line_of(words, text), f"{words} is not a calendar date.", "Correct the date.")


def _ambiguous_dates(text: str) -> Iterator[QualityFinding]:
    unclear = next((one.text for one in dates(text) if one.is_ambiguous), None)
    if unclear:
        fix = "Write dates as 2026-05-03 or 3 May 2026."
        yield QualityFinding("minor", _line_of(unclear, text), f"{unclear} can be read as two different days.", fix)


def _spans(text: str) -> Iterator[QualityFinding]:
    """Finds date ranges: two dates with only "to" or a dash between them."""
    for number, line in enumerate(text.split("\n"), start=1):
        found = dates(line)
        for first, last in zip(found, found[1:], strict=False):
            if _SPAN.fullmatch(line[first.start + len(first.text) : last.start]):
                yield from _backwards(first, last, f"line {number}")


def _period(period: DatePeriod, given: list[Entry]) -> Iterator[QualityFinding]:
    first, last = ([entry for entry in given if phrases.rank(entry.label)] for phrases in (period.first, period.last))
    begins, ends = ([day for entry in one for day in dates(entry.value)[:1]] for one in (first, last))
    if begins and ends:
        yield from _backwards(begins[0], ends[0], f"{first[0].where} and {last[0].where}")


def _backwards(first: DateMention, last: DateMention, where: str) -> Iterator[QualityFinding]:
    if first.day and last.day and last.day < first.day:
        yield QualityFinding(
            "major", where, f"The end date {last.text} is before the start date {first.text}.", "Correct one of the two dates."
        )


def _past(rule: FieldRule, own: list[Entry], today: date) -> Iterator[QualityFinding]:
    for entry in own:
        day = next((one.day for one in dates(entry.value)), None)
        if day and day > today + timedelta(days=1):  # it may already be tomorrow in the writer's time zone
            yield QualityFinding("major", entry.where, f"The {rule.name}, {entry.value[:40]}, is in the future.", "Correct the date.")
        elif day and day < today - MAX_AGE:
            yield QualityFinding(
                "minor", entry.where, f"The {rule.name}, {entry.value[:40]}, is more than a year ago.", "Correct or renew it."
            )


# ---- contradicting values


def _contradictions(rule: FieldRule, own: list[Entry]) -> Iterator[QualityFinding]:
    values = {_canonical(entry.value): entry for entry in reversed(own) if entry.value}
    if rule.once and len(values) > 1:
        one, other, *_ = sorted(values.values(), key=lambda entry: entry.line)
        message = f"Two different values are given for {rule.name}: “{one.value[:60]}” and “{other.value[:60]}”."
        yield QualityFinding("major", f"{one.where} and {other.where}", message, "Use the same value in both places, or remove one.")


def _canonical(value: str) -> str:
    day = next((one.day for one in dates(value)), None)
    return day.isoformat() if day else "".join(re.findall(r"\w", value.lower()))


# ---- amounts


def _totals(given: list[Entry]) -> Iterator[QualityFinding]:
    """Checks that a total below a list of amounts is their sum. A subtotal starts a new list."""
    listed: list[Decimal] = []
    before, currency = 0, None
    for entry in given:
        amount = amount_of(entry.value)
        if amount is None:
            continue
        if entry.line - before > MAX_GAP or amount.currency != currency or _SUBTOTAL.match(entry.label):
            listed = []
        before, currency = entry.line, amount.currency
        if _TOTAL.match(entry.label):
            if len(listed) > 1 and abs(sum(listed) - amount.number) > Decimal("0.01"):
                message = f"The total is given as {entry.value[:40]}, but the amounts above it add up to {sum(listed):,}."
                yield QualityFinding("major", entry.where, message, "Correct the total, or the amounts above it.")
            listed = []
        else:
            listed.append(amount.number)


def _currencies(text: str) -> Iterator[QualityFinding]:
    names = sorted({one.currency for one in amounts(text) if one.currency})
    if len(names) > 1:
        message = f"Amounts are given in {' and '.join(names)}."
        yield QualityFinding("minor", "the document", message, "Give all amounts in one currency, or state the exchange rate.")


# ---- identifiers


def _ibans(given: list[Entry]) -> Iterator[QualityFinding]:
    for entry in given:
        number = re.sub(r"[\s-]", "", entry.value.upper())
        if re.search(r"\biban\b", entry.label, re.IGNORECASE) and not _is_iban(number):
            yield QualityFinding(
                "major",
                entry.where,
                f"“{entry.value[:50]}” is not a valid IBAN: its check digits are wrong.",
                "Copy it from the account details.",
            )


def _is_iban(number: str) -> bool:
    """ISO 13616: with the first four characters at the end and letters as 10 to 35, the number modulo 97 is 1."""
    return _IBAN.fullmatch(number) is not None and int("".join(str(int(one, 36)) for one in number[4:] + number[:4])) % 97 == 1


def _line_of(words: str, text: str) -> str:
    return f"line {text.count(chr(10), 0, text.find(words)) + 1}"
