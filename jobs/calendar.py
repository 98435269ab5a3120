"""The job type `calendar`: creates, updates or cancels an event; running the same job again changes nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from monolith.job_types.registry import Job, Permanent, fixed, job_type

from .tools.calendar import caldav, ical_event

HOUR_S = 3600.0
MAX_CONFLICTS = 3  # edit conflicts before the attempt fails
TEXTS = {"title": "summary", "location": "location", "description": "description"}
TIMES = {"start": "dtstart", "end": "dtend"}
SAVED_AS_FILE = "No calendar is set up (CALDAV_URL), so the event was saved as a file instead."


def _zone(name: str) -> None:
    if name not in ical_event.zones():
        raise ValidationError(f"Unknown time zone {name[:40]!r}. Use a name such as Europe/Berlin, or UTC.")


def _time(description: str) -> fields.String:
    return fields.String(load_default=None, allow_none=True, validate=validate.Length(max=40), metadata={"description": description})


def _text(longest: int, description: str) -> fields.String:
    return fields.String(load_default=None, allow_none=True, validate=validate.Length(max=longest), metadata={"description": description})


class Params(Schema):
    action = fields.String(
        load_default="create", validate=validate.OneOf(("create", "update", "cancel")), metadata={"description": "What to do"}
    )
    uid = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Regexp(r"[A-Za-z0-9@._+-]{1,200}\Z", error="1 to 200 letters, digits and @ . _ + -"),
        metadata={"description": "The event's id; derived from the job's id if left out when creating"},
    )
    title = _text(300, "Required to create an event")
    start = _time("Such as `2026-12-01T10:00` with `timezone`, or with a UTC offset; required to create an event")
    end = _time("Defaults to one hour after the start, or keeps the previous duration")
    timezone = fields.String(
        load_default=None,
        allow_none=True,
        validate=_zone,
        metadata={"description": "A name such as `Europe/Berlin`; stored with the event"},
    )
    location = _text(500, "Where the event takes place")
    description = _text(20_000, "Description of the event")

    @validates_schema
    def check(self, data: dict[str, Any], **_: Any) -> None:
        """Checks that the parameters of the action are given and the times are valid."""
        needed = ("title", "start") if data["action"] == "create" else ("uid",)
        missing = {name: [f"Required to {data['action']} an event."] for name in needed if not data[name]}
        if missing:
            raise ValidationError(missing)
        start, end = (_parsed_time(name, data) for name in TIMES)
        if start and end and end <= start:
            raise ValidationError("The end is before the start. Give a later time.", "end")


def _parsed_time(name: str, data: dict[str, Any]) -> datetime | None:
    try:
        return ical_event.moment(data[name], data["timezone"]) if data[name] else None
    except ical_event.BadTime as error:
        raise ValidationError(str(error), name) from None


@job_type(
    queue="default",
    params=Params,
    takes="nothing",
    max_attempts=3,
    backoff=fixed(5),
    timeout=60,
    io_bound=True,
    submittable_by="admin",
)
def calendar(job: Job, params: dict[str, Any]) -> dict[str, Any]:
    """Create, update or cancel a calendar event.

    Writes to the CalDAV server at `CALDAV_URL`. Events are identified by their `uid`; running the same job twice changes nothing
    the second time. An update changes only the given fields; cancelling keeps the event and marks it as cancelled. Without
    `CALDAV_URL`, the event is saved as a file.
    """
    collection = caldav.collection()
    uid = params["uid"] or _own_uid(job)
    if collection is None:
        return _save_as_file(job, uid, params)
    job.progress(None, {"create": "creating", "update": "updating", "cancel": "cancelling"}[params["action"]])
    for _ in range(MAX_CONFLICTS):
        try:
            return _apply(job, collection, uid, params)
        except caldav.EditConflict:  # read again: the other writer may be an earlier attempt of this job
            continue
    raise caldav.CalendarUnavailable("Someone else changed the event at each attempt to write it.")


def _apply(job: Job, collection: caldav.Collection, uid: str, params: dict[str, Any]) -> dict[str, Any]:
    """Applies the action unless an earlier attempt did. The event records its writers, so a crash leaves no doubt."""
    found = collection.read(uid)
    # The writers in the event tell; a server that drops that property still has the UID that only this job creates.
    if found and (job.id in ical_event.writers_of(found.calendar) or uid == _own_uid(job)):
        return _result(collection, uid, params, found.calendar, "An earlier attempt had already done it; nothing was changed.")
    if found is None and params["action"] == "cancel":
        return {"written": False, "uid": uid, "action": "cancel", "note": "No event has this UID, so there was nothing to cancel."}
    if found and params["action"] == "create":
        raise Permanent(f"An event with the UID {uid} already exists. Use the action update, or another UID.")
    if found is None and params["action"] == "update":
        raise Permanent(f"No event has the UID {uid}. Use the action create, or correct the UID.")
    calendar_data = found.calendar if found else ical_event.new(uid)
    _change(calendar_data, params, ical_event.sequence_of(calendar_data) + 1 if found else 0, job.id)
    collection.write(uid, calendar_data, over=found)
    return _result(collection, uid, params, calendar_data, "The calendar was updated.")


def _own_uid(job: Job) -> str:
    return f"{job.id}@intray"


def _change(calendar_data: Any, params: dict[str, Any], sequence: int, job_id: str) -> None:
    if params["action"] == "cancel":
        ical_event.change(calendar_data, {}, "CANCELLED", sequence, job_id)
        return
    properties: dict[str, Any] = {TEXTS[name]: params[name] for name in TEXTS if params[name] is not None}
    ical_event.change(calendar_data, {**properties, **_times(calendar_data, params)}, "CONFIRMED", sequence, job_id)


def _times(calendar_data: Any, params: dict[str, Any]) -> dict[str, datetime]:
    """The given times. If only the start is given, the event keeps its duration."""
    start, end = (_parsed_time(name, params) for name in TIMES)
    old_start, old_end = ical_event.times_of(calendar_data)
    if start and not end:
        length = old_end.timestamp() - old_start.timestamp() if old_start and old_end else HOUR_S
        end = datetime.fromtimestamp(start.timestamp() + length, start.tzinfo)
    if end and not start and old_start and end <= old_start:
        raise Permanent(f"The event would end before its start at {old_start.isoformat()}. Give `start` too.")
    return {TIMES[name]: value for name, value in (("start", start), ("end", end)) if value}


def _result(collection: caldav.Collection, uid: str, params: dict[str, Any], written: Any, note: str) -> dict[str, Any]:
    start, end = ical_event.times_of(written)
    event = ical_event.event_of(written)
    return {
        "written": True,
        "note": note,
        "uid": uid,
        "action": params["action"],
        "title": str(event.get("summary", "")),
        "status": str(event.get("status", "CONFIRMED")),
        "sequence": ical_event.sequence_of(written),
        "start": start.isoformat() if start else None,
        "end": end.isoformat() if end else None,
        "url": collection.event_url(uid),
    }


def _save_as_file(job: Job, uid: str, params: dict[str, Any]) -> dict[str, Any]:
    """Attaches the event as a file that calendar programs open to add or cancel it."""
    file = ical_event.new(uid, "CANCEL" if params["action"] == "cancel" else "PUBLISH")
    _change(file, params, 0 if params["action"] == "create" else 1, job.id)
    job.attach("event.ics", file.to_ical(), "text/calendar")
    return {"written": False, "uid": uid, "action": params["action"], "note": SAVED_AS_FILE}
