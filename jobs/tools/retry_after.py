"""How long another server asks us to wait."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT_S = 3600.0


def seconds_asked(headers: Mapping[str, str], longest: float = LONGEST_WAIT_S) -> float | None:
    """The seconds of a `Retry-After` header, from 1 to `longest`; None when it is missing or says nothing.

    The header is a number of seconds or a date (RFC 9110, 10.2.3).
    """
    given = headers.get("Retry-After", "").strip()
    if not given:
        return None
    try:
        seconds = float(given) if given[0].isdigit() else _until(given)
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 1.0), longest)


def _until(date: str) -> float:
    when = parsedate_to_datetime(date)
    return (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
