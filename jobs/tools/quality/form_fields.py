"""Finds the entries of a form ("Applicant: Example Ltd", or a table row), and the dates and amounts in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise

MAX_LABEL = 60
_LINE_MARKS = re.compile(r"^[\s>#]*(?:[-*+•–▪◦]\s+|\(?\d{1,2}[.)]\s+)?|[*`]+|(?<!\w)_{1,2}|_{1,2}(?!\w)")
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_MONTH = rf"(?:{'|'.join(_MONTH_NAMES)})[a-z]*\.?"
_ORDINAL = "(?:st|nd|rd|th)?"
_DATE = re.compile(
    r"(?<![\d./-])(?:(?P<y1>\d{4})-(?P<m1>\d{1,2})-(?P<d1>\d{1,2})|(?P<d2>\d{1,2})(?P<mark>[./])(?P<m2>\d{1,2})(?P=mark)(?P<y2>\d{4})"
    rf"|(?P<d3>\d{{1,2}}){_ORDINAL} (?P<m3>{_MONTH}) (?P<y3>\d{{4}})|(?P<m4>{_MONTH}) (?P<d4>\d{{1,2}}){_ORDINAL},? (?P<y4>\d{{4}}))(?!\d)",
    re.IGNORECASE,
)
_CURRENCY = r"EUR|USD|GBP|CHF|[€$£]"
_NUMBER = r"-?(?<!\d)(?:\d{1,3}(?:[ ,.'’]\d{3}){1,4}|\d{1,15})(?:[.,]\d{1,2})?(?!\d)"  # bounded: a hostile text may consist of digits only
_AMOUNT = re.compile(rf"(?:(?P<c1>{_CURRENCY})\s?(?P<n1>{_NUMBER})|(?P<n2>{_NUMBER})\s?(?P<c2>{_CURRENCY}))(?!\w)")
_BARE = re.compile(_NUMBER)
_CURRENCY_SIGNS = {"€": "EUR", "$": "USD", "£": "GBP"}


@dataclass(frozen=True)
class Entry:
    """A label and its value, such as "Applicant: Example Ltd", and the line it is in."""

    label: str
    value: str
    line: int

    @property
    def where(self) -> str:
        return f"line {self.line}, “{self.label}”"


@dataclass(frozen=True)
class DateMention:
    """A date as written, its day (None if there is no such day), and its position in the text."""

    text: str
    day: date | None
    is_ambiguous: bool
    start: int


@dataclass(frozen=True)
class Amount:
    """A sum of money; `currency` is a code such as EUR, None if not given."""

    number: Decimal
    currency: str | None


def entries(text: str) -> list[Entry]:
    """Returns the entries of the text in order. A label without a value takes the next line, unless that is an entry too."""
    found = []
    for number, (line, after) in enumerate(pairwise([*text.split("\n"), ""]), start=1):
        label, value = _parts(line)
        if label:
            found.append(Entry(label, value or ("" if _parts(after)[0] else _bare(after)), number))
    return found


def _parts(line: str) -> tuple[str, str]:
    """The label and value of a line; two empty strings if it is not an entry."""
    bare = _bare(line[:2000])
    cells = [cell.strip() for cell in bare.strip("|").split("|")]
    label, mark, value = (cells[0], "|", cells[1]) if len(cells) > 1 and bare.count("|") > 0 else bare.partition(":")
    label = re.sub(r"(?:(?<!\s)\s+)?\([^()]*\)", "", label).strip(" :")
    is_label = mark and 1 < len(label) <= MAX_LABEL and len(label.split()) <= 7 and label[0].isalpha() and not value.startswith("//")
    return (" ".join(label.split()), value.strip()) if is_label and not re.search(r"[.!?;]\s", label) else ("", "")


def _bare(line: str) -> str:
    return _LINE_MARKS.sub("", line).strip()


def dates(text: str) -> list[DateMention]:
    """Returns the dates in the text: 2026-05-03, 3.5.2026, 03/05/2026 (day first), 3 May 2026 or May 3, 2026."""
    return [_date_mention(match) for match in _DATE.finditer(text)]


def _date_mention(match: re.Match[str]) -> DateMention:
    year, month, day = (next(match[f"{part}{n}"] for n in "1234" if match[f"{part}{n}"]) for part in "ymd")
    month_number = int(month) if month.isdigit() else _MONTHS[month[:3].lower()]
    is_ambiguous = match["mark"] == "/" and int(day) <= 12 and month_number <= 12 and int(day) != month_number
    try:
        return DateMention(match[0], date(int(year), month_number, int(day)), is_ambiguous, match.start())
    except ValueError:
        return DateMention(match[0], None, is_ambiguous, match.start())


def amounts(text: str) -> Iterator[Amount]:
    """Yields the amounts in the text, such as EUR 1,200.00 or 1.200,00 €."""
    for match in _AMOUNT.finditer(text):
        sign = match["c1"] or match["c2"]
        yield Amount(_number(match["n1"] or match["n2"]), _CURRENCY_SIGNS.get(sign, sign))


def amount_of(value: str) -> Amount | None:
    """Returns the amount that a value consists of, with or without a currency; None for anything else."""
    found = list(amounts(value))
    if len(found) == 1:
        return found[0]
    return Amount(_number(value), None) if not found and _BARE.fullmatch(value) else None


def _number(text: str) -> Decimal:
    """A separator before the last one or two digits is the decimal separator; all others group digits."""
    whole, _, cents = re.sub(r"[.,](\d{1,2})$", r"|\1", text).partition("|")
    return Decimal(f"{re.sub(r'[^0-9-]', '', whole) or '0'}.{cents or '0'}")
