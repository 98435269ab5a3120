"""What a form says: its entries, such as "Applicant: Example Ltd" or a row of a table, and the dates and amounts in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise

MAX_LABEL = 60
_MARKS = re.compile(r"^[\s>#]*(?:[-*+•–▪◦]\s+|\(?\d{1,2}[.)]\s+)?|[*`]+|(?<!\w)_{1,2}|_{1,2}(?!\w)")
_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_NAMES, start=1)}
_MONTH = rf"(?:{'|'.join(_NAMES)})[a-z]*\.?"
_TH = "(?:st|nd|rd|th)?"
_DATE = re.compile(
    r"(?<![\d./-])(?:(?P<y1>\d{4})-(?P<m1>\d{1,2})-(?P<d1>\d{1,2})|(?P<d2>\d{1,2})(?P<mark>[./])(?P<m2>\d{1,2})(?P=mark)(?P<y2>\d{4})"
    rf"|(?P<d3>\d{{1,2}}){_TH} (?P<m3>{_MONTH}) (?P<y3>\d{{4}})|(?P<m4>{_MONTH}) (?P<d4>\d{{1,2}}){_TH},? (?P<y4>\d{{4}}))(?!\d)",
    re.IGNORECASE,
)
_CURRENCY = r"EUR|USD|GBP|CHF|[€$£]"
_NUMBER = r"-?(?<!\d)(?:\d{1,3}(?:[ ,.'’]\d{3}){1,4}|\d{1,15})(?:[.,]\d{1,2})?(?!\d)"  # bounded: a text may be nothing but digits
_AMOUNT = re.compile(rf"(?:(?P<c1>{_CURRENCY})\s?(?P<n1>{_NUMBER})|(?P<n2>{_NUMBER})\s?(?P<c2>{_CURRENCY}))(?!\w)")
_BARE = re.compile(_NUMBER)
_SIGNS = {"€": "EUR", "$": "USD", "£": "GBP"}


@dataclass(frozen=True)
class Entry:
    """One line that says something of something: "Applicant: Example Ltd" of line 3."""

    label: str
    value: str
    line: int

    @property
    def where(self) -> str:
        return f"line {self.line}, “{self.label}”"


@dataclass(frozen=True)
class Dated:
    """A date as it is written, and the day that it is; None for one that no calendar has."""

    text: str
    day: date | None
    is_ambiguous: bool
    start: int


@dataclass(frozen=True)
class Amount:
    number: Decimal
    currency: str | None


def entries(text: str) -> list[Entry]:
    """Every entry of the text, in order. A label with nothing behind it takes the next line, unless that is an entry too."""
    lines = text.split("\n")
    return [found for number, (line, after) in enumerate(pairwise([*lines, ""]), start=1) if (found := _entry(line, after, number))]


def _entry(line: str, after: str, number: int) -> Entry | None:
    label, value = _parts(line)
    if not label:
        return None
    return Entry(label, value or ("" if _parts(after)[0] else _bare(after)), number)


def _parts(line: str) -> tuple[str, str]:
    """The label and the value of a line; two empty words when it is no entry."""
    bare = _bare(line[:2000])
    cells = [cell.strip() for cell in bare.strip("|").split("|")]
    label, mark, value = (cells[0], "|", cells[1]) if len(cells) > 1 and bare.count("|") > 0 else bare.partition(":")
    label = re.sub(r"(?:(?<!\s)\s+)?\([^()]*\)", "", label).strip(" :")
    is_label = mark and 1 < len(label) <= MAX_LABEL and len(label.split()) <= 7 and label[0].isalpha() and not value.startswith("//")
    return (" ".join(label.split()), value.strip()) if is_label and not re.search(r"[.!?;]\s", label) else ("", "")


def _bare(line: str) -> str:
    return _MARKS.sub("", line).strip()


def dates(text: str) -> list[Dated]:
    """Every date in the text: 2026-05-03, 3.5.2026, 03/05/2026 (the day first), 3 May 2026, May 3, 2026."""
    return [_dated(match) for match in _DATE.finditer(text)]


def _dated(match: re.Match[str]) -> Dated:
    year, month, day = (next(match[f"{part}{n}"] for n in "1234" if match[f"{part}{n}"]) for part in "ymd")
    month_number = int(month) if month.isdigit() else _MONTHS[month[:3].lower()]
    could_be_either = match["mark"] == "/" and int(day) <= 12 and month_number <= 12 and int(day) != month_number
    try:
        return Dated(match[0], date(int(year), month_number, int(day)), could_be_either, match.start())
    except ValueError:
        return Dated(match[0], None, could_be_either, match.start())


def amounts(text: str) -> Iterator[Amount]:
    """Every sum of money in the text: EUR 1,200.00 or 1.200,00 €."""
    for match in _AMOUNT.finditer(text):
        sign = match["c1"] or match["c2"]
        yield Amount(_number(match["n1"] or match["n2"]), _SIGNS.get(sign, sign))


def amount_of(value: str) -> Amount | None:
    """The sum that a value is, with or without a currency; None when it is anything more."""
    found = list(amounts(value))
    if len(found) == 1:
        return found[0]
    return Amount(_number(value), None) if not found and _BARE.fullmatch(value) else None


def _number(text: str) -> Decimal:
    """The last mark before one or two digits is the decimal one; all others are for the eye."""
    whole, _, cents = re.sub(r"[.,](\d{1,2})$", r"|\1", text).partition("|")
    return Decimal(f"{re.sub(r'[^0-9-]', '', whole) or '0'}.{cents or '0'}")
