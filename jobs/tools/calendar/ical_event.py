"""Builds and changes iCalendar events, records which jobs wrote them, and parses the times of a submission."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, available_timezones

if TYPE_CHECKING:
    from icalendar import Calendar

WRITERS = "X-INTRAY-JOB"  # the property with the ids of the jobs that wrote the event
MAX_WRITERS = 20


class BadTime(ValueError):
    """A time that is invalid, does not exist or is ambiguous. The message says what to do."""


@cache
def zones() -> frozenset[str]:
    """Returns the names of all time zones, read once."""
    return frozenset(available_timezones())


def moment(text: str, timezone: str | None) -> datetime:
    """Parses a time with an offset, or in a time zone. Returns it in that zone, else in UTC. Raises `BadTime`."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        given = None
    if given is None or len(text) <= len("2026-12-01") or not 1970 <= given.year <= 2100:
        raise BadTime(f"{text[:40]!r} is not a date and time. Use a form such as 2026-12-01T10:00 or 2026-12-01T10:00:00+01:00.")
    if given.tzinfo is None and timezone is None:
        raise BadTime("The time zone is missing. Give the time with its offset (2026-12-01T10:00+01:00), or give `timezone`.")
    if timezone is None:
        return given.astimezone(UTC)
    return _in_zone(given, ZoneInfo(timezone))


def _in_zone(given: datetime, zone: ZoneInfo) -> datetime:
    if given.tzinfo is not None:
        shown = given.astimezone(zone)
        if shown.utcoffset() != given.utcoffset():
            raise BadTime(
                f"The offset does not match {zone.key} at this time, which is {shown:%Y-%m-%dT%H:%M%z} there. Give only one of them."
            )
        return given.astimezone(UTC) if shown.fold else shown  # calendars read a repeated hour as the first one
    early, late = given.replace(tzinfo=zone, fold=0), given.replace(tzinfo=zone, fold=1)
    if early.utcoffset() == late.utcoffset():
        return early
    if early.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != given:
        raise BadTime(f"This time does not exist in {zone.key}, where the clocks go forward. Give another time.")
    raise BadTime(f"This time occurs twice in {zone.key}, where the clocks go back. Give it with its offset: {early:%z} or {late:%z}.")


def new(uid: str, method: str | None = None) -> Calendar:
    """Returns a calendar with one empty event. `method`: PUBLISH or CANCEL, for a file that people open."""
    from icalendar import Calendar, Event

    calendar, event = Calendar(), Event()
    calendar.add("prodid", "-//Intray//Intray//EN")
    calendar.add("version", "2.0")
    if method:
        calendar.add("method", method)
    event.add("uid", uid)
    calendar.add_component(event)
    return calendar


def event_of(calendar: Calendar) -> Any:
    """Returns the event; of a recurring one the first."""
    return calendar.walk("VEVENT")[0]


def change(calendar: Calendar, properties: dict[str, Any], status: str, sequence: int, job_id: str) -> None:
    """Sets the given properties (by iCalendar name) and adds the job to the writers; other properties stay."""
    event = event_of(calendar)
    own = {"status": status, "sequence": sequence, "dtstamp": datetime.now(UTC), "last-modified": datetime.now(UTC)}
    for name, value in {**properties, **own}.items():
        event.pop(name, None)
        event.add(name, value)
    if "dtstart" in properties:
        event.pop("duration", None)
    writers = [*writers_of(calendar), job_id][-MAX_WRITERS:]
    event.pop(WRITERS, None)
    for one in writers:
        event.add(WRITERS, one)
    calendar.add_missing_timezones()


def writers_of(calendar: Calendar) -> list[str]:
    """Returns the ids of the last MAX_WRITERS jobs that wrote the event, in order."""
    found = event_of(calendar).get(WRITERS, [])
    return [str(one) for one in (found if isinstance(found, list) else [found])]


def sequence_of(calendar: Calendar) -> int:
    """Returns the revision number of the event."""
    return int(event_of(calendar).get("sequence", 0))


def times_of(calendar: Calendar) -> tuple[datetime | None, datetime | None]:
    """Returns start and end; None for one that is missing or a whole day."""
    event = event_of(calendar)
    start, end = event.get("dtstart"), event.get("dtend")
    begins = start.dt if start is not None else None
    ends = end.dt if end is not None else begins + event["duration"].dt if begins is not None and "duration" in event else None
    return (begins if isinstance(begins, datetime) else None, ends if isinstance(ends, datetime) else None)
