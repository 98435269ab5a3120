"""Rates such as `60/m`, as settings and job types declare them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

UNITS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "month": 30 * 86400, "year": 360 * 86400}
LETTERS = {name[0]: name for name in ("second", "minute", "hour", "day")}
MAX_DIGITS = 9
_RATE = re.compile(rf"\s*(\d+)\s*(?:/|per)\s*([1-9]\d*)?\s*(?:({'|'.join(UNITS_S)})s?|([{''.join(LETTERS)}]))\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Rate:
    """At most `amount` times within `seconds`."""

    amount: int
    seconds: int

    def __str__(self) -> str:
        number, unit = next((self.seconds // s, unit) for unit, s in reversed(UNITS_S.items()) if self.seconds % s == 0)
        return f"{self.amount:,} {'an' if unit == 'hour' else 'a'} {unit}" if number == 1 else f"{self.amount:,} in {number} {unit}s"


@cache
def parse(text: str) -> Rate:
    """A rate such as `60/m`, `10/hour`, `1200 per minute` or `5 per 10 minutes`. Raises ValueError for any other text."""
    found = _RATE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a rate")
    if len(found[1]) > MAX_DIGITS or len(found[2] or "") > MAX_DIGITS:
        raise ValueError(f"{text[:40]!r} has a number of more than {MAX_DIGITS} digits")
    unit = found[3] or LETTERS[found[4].lower()]
    return Rate(int(found[1]), int(found[2] or 1) * UNITS_S[unit.lower()])


def parse_optional(text: str) -> Rate | None:
    """As `parse`; None for an empty text or 0, which is no limit."""
    if text.strip() in ("", "0"):
        return None
    rate = parse(text)
    if rate.amount < 1:
        raise ValueError(f"{text!r} would never let anything start")
    return rate
