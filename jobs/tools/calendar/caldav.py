"""Reads and writes events of the calendar at CALDAV_URL. An ETag ensures that no other change is overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from monolith.config import settings
from monolith.content.fetch import retry_after_s
from monolith.job_types.registry import Permanent, Snooze

if TYPE_CHECKING:
    from icalendar import Calendar
    from requests import Response

TIMEOUT = (5, 15)  # seconds: to connect, to read
MAX_EVENT = 1024 * 1024  # bytes
FIX = "An admin must fix CALDAV_URL."


class CalendarUnavailable(Exception):
    """The calendar could not be read or written this time; another attempt may succeed. The text is shown to the submitter."""


class EditConflict(Exception):
    """Someone else changed the event, or created one with the same UID, since it was read."""


@dataclass(frozen=True)
class StoredEvent:
    """An event on the server with its ETag."""

    calendar: Calendar
    etag: str | None


@dataclass(frozen=True)
class Collection:
    """A calendar. `url` has no user and password and ends with a slash; `login` is (user, password)."""

    url: str
    login: tuple[str, str] | None

    def __repr__(self) -> str:
        return f"Collection({self.url!r})"

    def event_url(self, uid: str) -> str:
        """Returns the URL of the event with this UID."""
        return f"{self.url}{quote(uid, safe='')}.ics"

    def read(self, uid: str) -> StoredEvent | None:
        """Returns the event with this UID; None if there is none. Raises `CalendarUnavailable` if the answer is not an event."""
        with self._answer("GET", uid) as answer:
            if answer.status_code in (404, 410):
                return None
            _check(answer, (200,))
            return StoredEvent(_parsed(answer), answer.headers.get("ETag"))

    def write(self, uid: str, calendar: Calendar, over: StoredEvent | None) -> None:
        """Creates the event, or replaces `over` as it was read. Raises `EditConflict` if it was changed meanwhile."""
        condition = {"If-None-Match": "*"} if over is None else {"If-Match": over.etag or "*"}
        headers = {"Content-Type": "text/calendar; charset=utf-8", **condition}
        with self._answer("PUT", uid, headers=headers, data=calendar.to_ical()) as answer:
            if answer.status_code == 412:
                raise EditConflict
            _check(answer, (200, 201, 204))

    @contextmanager
    def _answer(self, method: str, uid: str, **options: Any) -> Iterator[Response]:
        import requests

        try:
            with requests.request(
                method, self.event_url(uid), auth=self.login, timeout=TIMEOUT, allow_redirects=False, stream=True, **options
            ) as answer:
                yield answer
        except requests.exceptions.SSLError:
            raise Permanent(f"The certificate of the calendar server is not valid. {FIX}") from None
        except requests.Timeout:
            raise CalendarUnavailable("The calendar server did not answer in time.") from None
        except requests.RequestException:
            raise CalendarUnavailable("The calendar server could not be reached, or closed the connection.") from None


def collection() -> Collection | None:
    """Returns the calendar at CALDAV_URL; None if it is not set."""
    url = settings().caldav_url
    if url is None:
        return None
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return Collection(f"{parts.scheme}://{place}{parts.path.rstrip('/')}/", login)


def _check(answer: Response, expected: tuple[int, ...]) -> None:
    status = answer.status_code
    if status in expected:
        return
    wait = retry_after_s(answer.headers) if status in (429, 503) else None
    if wait is not None:
        raise Snooze(wait, f"The calendar server asked us to wait {wait:g} s.")
    if status in (408, 423, 425, 429) or status >= 500 or status < 300:
        why = "is full" if status == 507 else "is temporarily unavailable"
        raise CalendarUnavailable(f"The calendar server {why} (status {status}).")
    if status < 400:
        raise Permanent(f"The calendar server redirects elsewhere (status {status}). {FIX} Use the final URL.")
    fixes = {
        401: f"The calendar server rejected the user and password. {FIX}",
        403: f"The calendar server does not allow this user to write there. {FIX}",
        404: f"There is no calendar at this URL. {FIX}",
        409: f"The calendar server has no calendar at this URL, or has the event elsewhere (status 409). {FIX}",
    }
    raise Permanent(fixes.get(status) or f"The calendar server refused the event (status {status}).")


def _parsed(answer: Response) -> Calendar:
    from icalendar import Calendar

    body = bytearray()
    for piece in answer.iter_content(64 * 1024):
        body += piece
        if len(body) > MAX_EVENT:
            raise Permanent(f"The event on the calendar server is larger than {MAX_EVENT // 1024 // 1024} MB.")
    try:
        found = Calendar.from_ical(bytes(body))
    except (ValueError, KeyError, IndexError, TypeError):
        found = None
    if not isinstance(found, Calendar) or not found.walk("VEVENT"):
        raise CalendarUnavailable("The calendar server returned something that is not an event.")
    return found
