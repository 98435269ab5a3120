"""Reads a job filter and page positions from a query string or a form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monolith.content.formatting import parse_moment
from monolith.db.models import STATUSES
from monolith.errors import Invalid
from monolith.runner.admin.job_filter import JobFilter

WORDS = ("status", "type", "queue", "owner", "error", "text")
TIMES = ("since", "until", "old_before")
WITHIN = {"hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0}  # seconds since submission


def criteria(given: Mapping[str, str], now: float) -> JobFilter:
    """The filter given in a query string or a form. Raises `Invalid` naming the field."""
    asked: dict[str, Any] = {name: given[name].strip() for name in WORDS if given.get(name, "").strip()}
    if asked.get("status", STATUSES[0]) not in STATUSES:
        raise Invalid.field("/status", f"Unknown status {asked['status'][:40]!r}. Choose one of: {', '.join(STATUSES)}.")
    asked |= {name: _moment(name, given[name].strip()) for name in TIMES if given.get(name, "").strip()}
    if given.get("within") in WITHIN and "since" not in asked:
        asked["since"] = now - WITHIN[given["within"]]
    return JobFilter(**asked)


def _moment(name: str, text: str) -> float:
    """Seconds since 1970 from these, or from a time as a form writes it, in UTC."""
    try:
        return parse_moment(text)
    except ValueError:
        raise Invalid.field(f"/{name}", f"{text[:40]!r} is not a valid time. Write it in UTC, such as 2026-11-25T07:30.") from None


def place(text: str | None) -> tuple[float, str] | None:
    """The position after which a page or step begins, from `<seconds>~<id>`. Raises `Invalid`."""
    if not text:
        return None
    at, _, job_id = text.partition("~")
    try:
        return float(at), job_id
    except ValueError:
        raise Invalid.field("/after", f"{text[:40]!r} is not a valid page position. Start from the first page.") from None


def written(after: tuple[float, str] | None) -> str:
    """The position as `<seconds>~<id>`; empty for None."""
    return f"{after[0]!r}~{after[1]}" if after else ""
