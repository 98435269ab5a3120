"""One calendar on a CalDAV server (`CALDAV_URL`): read an event with its ETag, write it only if nobody else has meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from monolith.config import settings
from monolith.content.fetch import seconds_asked
from monolith.errors import BadSetting
from monolith.job_types.registry import Permanent, Snooze

if TYPE_CHECKING:
    from icalendar import Calendar
    from requests import Response

TIMEOUT = (5, 15)  # seconds: to connect, and for the answer
MAX_EVENT = 1024 * 1024  # bytes
MEND = "An admin must fix CALDAV_URL."
EXAMPLE = "Write https://user:password@host/path/to/calendar/, with special characters in the password percent-encoded"


class CalendarUnavailable(Exception):
    """The calendar could not be read or written this time; another attempt may succeed. The message is fit for the submitter."""


class Changed(Exception):
    """Somebody else wrote the event, or made one of the same UID, since it was read."""


@dataclass(frozen=True)
class Stored:
    """An event as the server has it."""

    calendar: Calendar
    etag: str | None


@dataclass(frozen=True)
class Collection:
    """The calendar of `CALDAV_URL`. `url` is without user and password, and ends with a slash."""

    url: str
    login: tuple[str, str] | None

    def __repr__(self) -> str:
        return f"Collection({self.url!r})"

    def address(self, uid: str) -> str:
        return f"{self.url}{quote(uid, safe='')}.ics"

    def read(self, uid: str) -> Stored | None:
        """The event of this UID; None when there is none. Raises `CalendarUnavailable` for what is no calendar."""
        with self._answer("GET", uid) as answer:
            if answer.status_code in (404, 410):
                return None
            _check(answer, (200,))
            return Stored(_parsed(answer), answer.headers.get("ETag"))

    def write(self, uid: str, calendar: Calendar, over: Stored | None) -> None:
        """Store the event, new or in place of the one that was read. Raises `Changed` when that is not there as it was."""
        guard = {"If-None-Match": "*"} if over is None else {"If-Match": over.etag or "*"}
        headers = {"Content-Type": "text/calendar; charset=utf-8", **guard}
        with self._answer("PUT", uid, headers=headers, data=calendar.to_ical()) as answer:
            if answer.status_code == 412:
                raise Changed
            _check(answer, (200, 201, 204))

    @contextmanager
    def _answer(self, method: str, uid: str, **options: Any) -> Iterator[Response]:
        import requests

        try:
            with requests.request(
                method, self.address(uid), auth=self.login, timeout=TIMEOUT, allow_redirects=False, stream=True, **options
            ) as answer:
                yield answer
        except requests.exceptions.SSLError:
            raise Permanent(f"The certificate of the calendar server is not valid. {MEND}") from None
        except requests.Timeout:
            raise CalendarUnavailable("The calendar server did not answer in time.") from None
        except requests.RequestException:
            raise CalendarUnavailable("The calendar server could not be reached, or closed the connection.") from None


def collection() -> Collection | None:
    """The calendar of `CALDAV_URL`; None when it is not set. Raises `BadSetting`, without the password."""
    url = settings().caldav_url
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # `port` raises ValueError for one that is none
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise BadSetting(f"CALDAV_URL is not the URL of a calendar. {EXAMPLE}.")
    place = parts.netloc.rpartition("@")[2]
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return Collection(f"{parts.scheme}://{place}{parts.path.rstrip('/')}/", login)


def why_off() -> str | None:
    """Why nothing can be written although a calendar is set, or None."""
    try:
        collection()
    except BadSetting as error:
        return str(error)
    return None


def _check(answer: Response, expected: tuple[int, ...]) -> None:
    status = answer.status_code
    if status in expected:
        return
    wait = seconds_asked(answer.headers) if status in (429, 503) else None
    if wait is not None:
        raise Snooze(wait, f"The calendar server asked us to wait {wait:g} s.")
    if status in (408, 423, 425, 429) or status >= 500 or status < 300:
        why = "is full" if status == 507 else "is temporarily unavailable"
        raise CalendarUnavailable(f"The calendar server {why} (status {status}).")
    if status < 400:
        raise Permanent(f"The calendar server redirects elsewhere (status {status}). {MEND} Use the final URL.")
    mend = {
        401: f"The calendar server rejected the user and password. {MEND}",
        403: f"The calendar server does not allow this user to write there. {MEND}",
        404: f"There is no calendar at this URL. {MEND}",
        409: f"The calendar server has no calendar at this URL, or has the event elsewhere (status 409). {MEND}",
    }
    raise Permanent(mend.get(status) or f"The calendar server refused the event (status {status}).")


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
