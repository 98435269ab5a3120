"""Events on a real CalDAV server (Radicale), and on one that answers what a test tells it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import requests
from icalendar import Calendar

from jobs.tools.calendar import caldav, ical_event
from monolith.config import settings
from monolith.errors import BadSetting, Invalid
from monolith.job_types import registry
from monolith.runner.ledger import lifecycle
from monolith.runner.worker.context import RunningJob
from tests.support.caldav_server import LOGIN, radicale, with_login
from tests.support.callers import Caller
from tests.support.jobs import run_due, submit_job

__all__ = ["radicale"]
PARAMS = {"title": "Inspection; ONSITE", "start": "2026-12-01T10:00", "timezone": "Europe/Berlin", "location": "Hall 3\nDoor 2"}
Write = Callable[..., Any]


@pytest.fixture
def write(admin: Caller, radicale: str, intray_settings: Callable[..., None]) -> Write:
    """Submit a calendar job and run it once; gives its row."""
    intray_settings(CALDAV_URL=with_login(radicale))

    def one(**params: Any) -> Any:
        return run_due(submit_job(admin, "calendar", params=params)["id"])

    return one


def stored(row: Any) -> Any:
    """The event as the server has it."""
    answer = requests.get(row.result["url"], auth=LOGIN, timeout=20)
    assert answer.status_code == 200, answer.text
    return Calendar.from_ical(answer.content).walk("VEVENT")[0]


def test_an_event_is_created_moved_and_cancelled(write: Write) -> None:
    created = write(**PARAMS)
    assert (created.status, created.result["sequence"]) == ("finished", 0), created.error_message
    event = stored(created)
    assert (event["uid"], event["summary"], event["location"]) == (f"{created.id}@intray", "Inspection; ONSITE", "Hall 3\nDoor 2")
    assert event["dtstart"].to_ical() == b"20261201T100000" and event["dtstart"].params["TZID"] == "Europe/Berlin"
    moved = write(action="update", uid=created.result["uid"], start="2026-12-02T16:30", timezone="Europe/Berlin")
    assert (moved.result["start"], moved.result["end"]) == ("2026-12-02T16:30:00+01:00", "2026-12-02T17:30:00+01:00")
    assert (moved.result["sequence"], stored(moved)["summary"]) == (1, "Inspection; ONSITE")
    cancelled = write(action="cancel", uid=created.result["uid"])
    assert (stored(cancelled)["status"], stored(cancelled)["sequence"]) == ("CANCELLED", 2)
    assert ical_event.writers_of(_calendar(stored(cancelled))) == [created.id, moved.id, cancelled.id]


def _calendar(event: Any) -> Calendar:
    calendar = Calendar()
    calendar.add_component(event)
    return calendar


@pytest.mark.parametrize("action", ["create", "update", "cancel"])
def test_a_job_that_runs_again_changes_nothing_even_when_others_wrote_meanwhile(write: Write, admin: Caller, action: str) -> None:
    params = PARAMS if action == "create" else {"action": action, "uid": write(**PARAMS).result["uid"]}
    params = {**params, "title": "First"} if action != "cancel" else params
    job_id = submit_job(admin, "calendar", params=params)["id"]
    claim = lifecycle.claim(job_id, worker="one that dies")
    assert claim
    done = registry.find("calendar").function(RunningJob(claim), claim.job.params)  # and its outcome is not recorded
    lifecycle.interrupt(job_id, claim.number, "its worker died")
    other = write(action="update", uid=done["uid"], title="Second")
    row = run_due(job_id)
    assert (row.status, row.result["sequence"]) == ("finished", other.result["sequence"])
    assert "nothing was changed" in row.result["note"]
    assert stored(row)["summary"] == "Second"


def test_somebody_who_is_faster_is_not_overwritten_blindly(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    created = write(**PARAMS)
    read, others = caldav.Collection.read, iter(["by another"])

    def read_late(self: caldav.Collection, uid: str) -> caldav.StoredEvent | None:
        found = read(self, uid)
        if title := next(others, None):
            theirs = read(self, uid)
            assert theirs
            ical_event.change(
                theirs.calendar, {"description": title}, "CONFIRMED", ical_event.sequence_of(theirs.calendar) + 1, "another job"
            )
            self.write(uid, theirs.calendar, over=theirs)
        return found

    monkeypatch.setattr(caldav.Collection, "read", read_late)
    row = write(action="update", uid=created.result["uid"], title="Mine")
    assert (row.status, row.result["sequence"]) == ("finished", 2)
    assert (stored(row)["summary"], stored(row)["description"]) == ("Mine", "by another")


def test_what_is_not_there_is_not_updated_what_is_is_not_created_and_nothing_is_cancelled_twice(write: Write) -> None:
    uid = write(**PARAMS).result["uid"]
    assert (write(**PARAMS, uid=uid).error_type, write(action="update", uid="nope", title="x").error_type) == ("permanent", "permanent")
    assert write(action="cancel", uid="nope").result["written"] is False


@pytest.mark.parametrize("login", ["intray:hunter2", "nobody:pa%3Ass%40word"])
def test_a_wrong_password_fails_at_once_and_is_shown_nowhere(
    write: Write, radicale: str, intray_settings: Callable[..., None], login: str, capfd: pytest.CaptureFixture[str]
) -> None:
    intray_settings(CALDAV_URL=with_login(radicale, login))
    row = write(**PARAMS)
    assert (row.status, row.error_type) == ("failed", "permanent")
    assert "CALDAV_URL" in row.error_message
    told = "".join([*capfd.readouterr(), row.error_message, str(row.error_trace)])
    assert "hunter2" not in told and "pa:ss" not in told and "pa%3Ass" not in told


def test_a_calendar_that_is_not_there_is_said(write: Write, radicale: str, intray_settings: Callable[..., None]) -> None:
    intray_settings(CALDAV_URL=with_login(radicale.replace("events", "nothing")))
    row = write(**PARAMS)
    assert (row.error_type, "CALDAV_URL" in row.error_message) == ("permanent", True)


def test_a_server_that_is_away_is_tried_again(write: Write, intray_settings: Callable[..., None], radicale: str) -> None:
    intray_settings(CALDAV_URL="http://u:p@127.0.0.1:9/c/")
    row = write(**PARAMS)
    assert (row.status, row.error_type) == ("scheduled", "CalendarUnavailable")
    intray_settings(CALDAV_URL=with_login(radicale))
    assert run_due(row.id).status == "finished"


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (500, {}, b"", ("scheduled", "CalendarUnavailable")),
        (507, {}, b"", ("scheduled", "CalendarUnavailable")),
        (503, {"Retry-After": "600"}, b"", ("scheduled", None)),
        (302, {"Location": "http://169.254.169.254/"}, b"", ("failed", "permanent")),
        (403, {}, b"", ("failed", "permanent")),
        (200, {}, b"<html>Sign in</html>", ("scheduled", "CalendarUnavailable")),
        (200, {}, b"BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", ("scheduled", "CalendarUnavailable")),
        (200, {}, b"\xff\xfe\x00 no calendar", ("scheduled", "CalendarUnavailable")),
        (200, {}, b"x" * 1_100_000, ("failed", "permanent")),
    ],
)
def test_a_server_that_misbehaves(
    write: Write, intray_settings: Callable[..., None], status: int, headers: dict[str, str], body: bytes, outcome: tuple[str, str | None]
) -> None:
    with _answering(status, headers, body) as url:
        intray_settings(CALDAV_URL=url)
        row = write(action="update", uid="some", title="x")
    assert (row.status, row.error_type) == outcome


class _answering:
    """A server that gives one answer to everything."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except ConnectionError:
                    return  # it read enough

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = HTTPServer(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/c/"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.mark.parametrize("action", ["create", "update", "cancel"])
def test_without_a_calendar_the_event_is_kept_as_a_file(admin: Caller, action: str) -> None:
    row = run_due(submit_job(admin, "calendar", params={**(PARAMS if action != "cancel" else {}), "action": action, "uid": "some"})["id"])
    assert (row.status, row.result["written"], [file.name for file in row.artefacts]) == ("finished", False, ["event.ics"])
    file = admin.get(f"/api/v1/jobs/{row.id}/artifacts/event.ics").data
    assert (b"METHOD:CANCEL" if action == "cancel" else b"BEGIN:VTIMEZONE") in file
    assert "CALDAV_URL" in row.result["note"]


@pytest.mark.parametrize("url", ["ftp://h/c", "http:///c", "https://u:hunter2@h:no/c", "https://u:hunter2@h/c?x=1"])
def test_a_wrong_address_is_said_without_the_password(intray_settings: Callable[..., None], url: str) -> None:
    intray_settings(CALDAV_URL=url)
    with pytest.raises(BadSetting, match="CALDAV_URL cannot be used") as raised:
        settings()
    assert "hunter2" not in str(raised.value)


# ---- times, and other params


@pytest.mark.parametrize(
    ("params", "field", "words"),
    [
        ({"start": "2026-12-01T10:00", "timezone": None}, "start", "time zone is missing"),
        ({"start": "2026-12-01"}, "start", "not a date and time"),
        ({"start": "tomorrow"}, "start", "not a date and time"),
        ({"start": "0001-01-01T00:00+14:00", "timezone": None}, "start", "not a date and time"),
        ({"start": "2026-03-29T02:30"}, "start", "does not exist"),
        ({"start": "2026-10-25T02:30"}, "start", "twice"),
        ({"start": "2026-12-01T10:00+05:00"}, "start", "offset"),
        ({"end": "2026-12-01T09:00"}, "end", "before"),
        ({"timezone": "Berlin"}, "timezone", "Europe/Berlin"),
        ({"timezone": "../../etc/passwd"}, "timezone", "Unknown time zone"),
        ({"title": None}, "title", "Required"),
        ({"action": "update"}, "uid", "Required"),
        ({"uid": "../x"}, "uid", "letters"),
        ({"uid": "x\n"}, "uid", "letters"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(params: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(Invalid) as raised:
        registry.find("calendar").load_params({**PARAMS, **params}, has_document=False)
    assert [error.pointer for error in raised.value.errors] == [f"/params/{field}"]
    assert words in raised.value.errors[0].detail


def test_an_hour_that_comes_twice_is_told_apart_by_its_offset() -> None:
    first, second = (ical_event.moment(f"2026-10-25T02:30+0{hours}:00", "Europe/Berlin") for hours in (2, 1))
    assert second.timestamp() - first.timestamp() == 3600
    calendar = ical_event.new("x")
    ical_event.change(calendar, {"dtstart": second}, "CONFIRMED", 0, "job")
    assert ical_event.event_of(Calendar.from_ical(calendar.to_ical()))["dtstart"].dt == second


def test_ordinary_users_do_not_write_calendars(alice: Caller) -> None:
    assert alice.get("/api/v1/job-types/calendar").status_code == 404
    assert alice.post("/api/v1/jobs", json={"type": "calendar", "params": PARAMS}).status_code == 422
