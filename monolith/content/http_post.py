"""Send something to an address that a person named: through the same door as `fetch`, by its rules, and never further."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from monolith.content.fetch import (
    FetchFailed,
    WatchedConnection,
    answer,
    check_target,
    host_of,
    in_time,
    prepared,
    seconds_asked,
    why_unfit,
)
from monolith.errors import Permanent

WITHIN_S = 15.0
LOOKED_UP_WITHIN_S = 2.0  # while somebody waits who saves an address
EXCERPT = 1024  # bytes of the answer that are read; the rest is not
LONGEST_WAIT_S = 24 * 3600.0


@dataclass(frozen=True)
class Answer:
    """What came of it. `error` says in words why it is no success; `retry_after` is in seconds, where the receiver asks to wait."""

    status: int | None
    text: str
    error: str | None
    retry_after: float | None = None
    seconds: float = 0.0


def post(url: str, body: bytes, headers: dict[str, str], within: float = WITHIN_S) -> Answer:
    """Send the body once, as it is. Only a status of 2xx is a success; a redirect is not followed. Raises nothing."""
    began = time.monotonic()
    try:
        got = in_time(lambda wire: _exchange(url, body, headers, wire), within)
    except TimeoutError:
        got = Answer(None, "", f"{host_of(url)} did not answer within {within:g} s.")
    except (FetchFailed, Permanent) as error:
        got = Answer(None, "", str(error))
    return Answer(got.status, got.text, got.error, got.retry_after, time.monotonic() - began)


def _exchange(url: str, body: bytes, headers: dict[str, str], wire: WatchedConnection) -> Answer:
    import requests

    text = b""
    request = prepared("POST", url, data=body, headers={**headers, "Connection": "close", "Accept-Encoding": "identity"})
    with answer(request, wire) as response:
        with suppress(requests.RequestException):  # the status counts, even where the text breaks off
            text = next(response.iter_content(EXCERPT), b"")
        status, wait = response.status_code, seconds_asked(response.headers, LONGEST_WAIT_S)
    return Answer(status, text.decode(errors="replace"), None if 200 <= status < 300 else _why(status), wait)


def _why(status: int) -> str:
    redirect = " Redirects are not followed: use the final URL." if 300 <= status < 400 else ""
    return f"The endpoint answered {status}; only 2xx counts as success.{redirect}"


def why_refused(url: str) -> str | None:
    """Why nothing is ever sent to this address, in words for its owner, or None. A name that cannot be looked up now may be fine."""
    if reason := why_unfit(url):
        return reason
    try:
        in_time(lambda wire: check_target(str(prepared("POST", url).url)), LOOKED_UP_WITHIN_S)
    except Permanent as error:
        return str(error).replace(", or submit the text itself", "")
    except (FetchFailed, TimeoutError):
        return None
    return None
