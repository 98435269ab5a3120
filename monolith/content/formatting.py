"""Formats values for people: statuses, events, times and sizes as template filters (FILTERS); times as text, and text for CSV."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from typing import Any

from markupsafe import Markup

from monolith.db.models import MARK, Job, JobEvent

UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
WORDS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
STATUS_WORDS = {
    "queued": "Waiting",
    "scheduled": "Scheduled",
    "started": "Running",
    "finished": "Done",
    "failed": "Failed",
    "stopped": "Stopped",
    "canceled": "Cancelled",
}
EVENT_WORDS = {
    "submitted": "Submitted",
    "queued": "Queued",
    "started": "Started",
    "returned": "Returned to the queue before it began",
    "progress": "Step",
    "finished": "Done",
    "failed": "Failed",
    "on_failure_failed": "What follows a failure could not be done",
    "retrying": "Attempt {attempt} failed",
    "parked": "Snoozed",
    "held": "Held",
    "unknown_type": "Waits for a worker that has its job type",
    "interrupted": "Interrupted, queued again",
    "recovered": "Its outcome was found",
    "stopped": "Stopped",
    "canceled": "Cancelled",
    "requeued": "Retried",
}
MOMENTS = {"time": "%H:%M:%S UTC", "clock": "%H:%M UTC", "datetime": "%-d %b %Y, %H:%M UTC"}
BROWSERS = (("Edg", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"), ("curl/", "curl"))
SYSTEMS = (("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"), ("Mac OS X", "Mac"), ("Linux", "Linux"))
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")  # what spreadsheets take for the start of a formula
MATURITY = ((0.25, "Early"), (0.5, "Developing"), (0.75, "Established"), (1.01, "Mature"))


def subject(job: Job) -> str:
    """Returns the title of a job: its document's title, else the `title` param, else the job type."""
    if job.document:
        return job.document.title
    title = job.params.get("title")
    return title if isinstance(title, str) and title.strip() else humanise(job.type)


def status_words(job: Job) -> str:
    """Returns the status of a job in words."""
    if job.status == "scheduled" and job.snooze_reason:
        return "Held" if job.held_by else "Snoozed"
    if job.status == "scheduled" and job.error_message:
        return "Will retry"
    return STATUS_WORDS.get(job.status, job.status)


def status_kind(job: Job) -> str:
    """Returns the name of the badge's colour and icon: the status, but `retrying` for a job that waits for a retry."""
    return "retrying" if job.status == "scheduled" and job.error_message and not job.snooze_reason else job.status


def event_words(event: JobEvent) -> str:
    """Returns what happened, in words."""
    if event.name == "started" and event.attempt > 1:
        return f"Attempt {event.attempt} started"
    return EVENT_WORDS.get(event.name, humanise(event.name.removeprefix(MARK))).format(attempt=event.attempt)


def humanise(name: str) -> str:
    """Returns a name such as `use_cases` as `Use cases`."""
    words = name.replace("_", " ").replace(".", " ").strip()
    return words[:1].upper() + words[1:]


def moment(seconds: float | None, style: str = "datetime") -> Markup:
    """A time in UTC, which app.js rewrites in the reader's own zone. `style`: datetime, time (with seconds) or clock (without)."""
    if seconds is None:
        return Markup("")
    at = datetime.fromtimestamp(seconds, UTC)
    text = at.strftime(MOMENTS[style])
    return Markup('<time datetime="{}" data-style="{}">{}</time>').format(at.isoformat(timespec="seconds"), style, text)


def ago(seconds: float | None, now: float) -> Markup:
    """Returns how long ago it was, with the exact time as a tooltip."""
    if seconds is None:
        return Markup("")
    at = datetime.fromtimestamp(seconds, UTC)
    passed = max(now - seconds, 0)
    text = "just now" if passed < 5 else f"{in_words(passed)} ago"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.isoformat(timespec="seconds"), at.strftime("%-d %b %Y, %H:%M UTC"), text
    )


def in_words(seconds: float) -> str:
    """A duration in its largest whole unit: `1 day`, `3 hours`, `20 seconds`."""
    size, unit = next(((size, unit) for size, unit in WORDS if seconds >= size), WORDS[-1])
    count = round(seconds) // size
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def duration(seconds: float | None, parts: int = 2) -> str:
    """Seconds as `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`; at most so many parts."""
    if seconds is None:
        return ""
    if seconds < 10 and parts > 1:
        return f"{seconds:.1f} s" if seconds >= 0.1 else "under 0.1 s"
    rest, words = round(seconds), []
    for size, unit in UNITS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {unit}")
    if rest or not words:
        words.append(f"{rest} s")
    return " ".join(words[:parts])


def size(count: int | None) -> str:
    """Bytes as `812 B`, `14 kB`, `2.4 MB`."""
    if count is None:
        return ""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.0f} kB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.1f} MB"


def number(value: Any) -> str:
    """Formats a number: 12,345 or 0.734; a bool as Yes or No."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}".rstrip("0").rstrip(".")


def money(usd: float) -> str:
    """Formats USD with 2 to 6 decimals: a call of a language model may cost a fraction of a cent."""
    return f"{usd:.2f} USD" if usd >= 1 else f"{usd:.4f} USD" if usd >= 0.01 else f"{usd:.6f} USD"


def maturity_words(score: float) -> str:
    """Returns a maturity score from 0 to 1 as one word."""
    return next(word for limit, word in MATURITY if score < limit)


def browser_words(user_agent: str) -> str:
    """Returns a user agent as `Firefox on Linux`, or its own name if the browser is not known."""
    browser = next((name for mark, name in BROWSERS if mark in user_agent), user_agent[:60] or "Unknown program")
    system = next((name for mark, name in SYSTEMS if mark in user_agent), "")
    return f"{browser} on {system}" if system else browser


def prose(markdown: str) -> Markup:
    """Renders the Markdown of a job or a language model as sanitised HTML."""
    from monolith.content import markdown_html  # slow to import, and only needed for results

    return Markup(markdown_html.html_of(str(markdown)))  # noqa: S704 - sanitised by html_of


def csv_text(text: str) -> str:
    """Text for a CSV cell that no spreadsheet takes for a formula: a `'` goes before =, +, -, @, tab and line breaks."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def rfc3339(seconds: float | None, timespec: str = "milliseconds") -> str | None:
    """Seconds since 1970 as an RFC 3339 time in UTC, such as `2026-11-25T07:30:00.000Z`; None stays None. For the API, webhooks and CSV."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def parse_moment(text: str, zone: tzinfo = UTC) -> float:
    """Seconds since 1970 from a date or time in ISO 8601, such as `2026-11-25` or `2026-11-25T07:30`, or from such seconds as text.

    A time that names no zone is in `zone`. Raises ValueError for any other text.
    """
    text = text.strip()
    for read in (lambda: datetime.fromisoformat(text), lambda: datetime.fromtimestamp(float(text), UTC)):
        with suppress(ValueError, OverflowError, OSError):
            at = read()
            return at.replace(tzinfo=at.tzinfo or zone).timestamp()
        if not text.replace(".", "", 1).isdigit():
            break
    raise ValueError(f"{text[:40]!r} is not a date or time")


FILTERS = (
    *(subject, status_words, status_kind, event_words, humanise, moment, ago, duration, size, number, money, maturity_words),
    *(browser_words, prose),
)
