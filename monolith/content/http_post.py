"""Posts to user-supplied URLs, with the protection of `fetch` against server-side request forgery."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace

from monolith.content.fetch import (
    ExchangeSockets,
    FetchFailed,
    check_target,
    host_of,
    open_response,
    prepare_request,
    retry_after_s,
    run_within,
    url_problem,
)
from monolith.errors import Permanent

WITHIN_S = 15.0
DNS_S = 2.0  # while a person waits for the form to be saved
EXCERPT = 1024  # bytes of the response that are read
LONGEST_WAIT_S = 24 * 3600.0


@dataclass(frozen=True)
class PostResult:
    """The outcome of a request. `error` says why it failed; `retry_after` is in seconds; `text` is the start of the response."""

    status: int | None
    text: str
    error: str | None
    retry_after: float | None = None
    seconds: float = 0.0


def post(url: str, body: bytes, headers: dict[str, str], within: float = WITHIN_S) -> PostResult:
    """Sends the body once. Only 2xx is a success; redirects are not followed. Returns errors instead of raising them."""
    began = time.monotonic()
    try:
        result = run_within(lambda connections: _exchange(url, body, headers, connections), within)
    except TimeoutError:
        result = PostResult(None, "", f"{host_of(url)} did not answer within {within:g} s.")
    except (FetchFailed, Permanent) as error:
        result = PostResult(None, "", str(error))
    return replace(result, seconds=time.monotonic() - began)


def _exchange(url: str, body: bytes, headers: dict[str, str], connections: ExchangeSockets) -> PostResult:
    import requests

    text = b""
    request = prepare_request("POST", url, data=body, headers={**headers, "Connection": "close", "Accept-Encoding": "identity"})
    with open_response(request, connections) as response:
        with suppress(requests.RequestException):  # the status counts, even if the body breaks off
            text = next(response.iter_content(EXCERPT), b"")
        status, wait = response.status_code, retry_after_s(response.headers, LONGEST_WAIT_S)
    redirect = " Redirects are not followed: use the final URL." if 300 <= status < 400 else ""
    error = None if 200 <= status < 300 else f"The endpoint answered {status}; only 2xx counts as success.{redirect}"
    return PostResult(status, text.decode(errors="replace"), error, wait)


def target_problem(url: str) -> str | None:
    """Returns why nothing may be sent to this URL, as a message for its owner, or None. A DNS failure is not a problem: it may pass."""
    if reason := url_problem(url):
        return reason
    try:
        run_within(lambda _: check_target(str(prepare_request("POST", url).url)), DNS_S)
    except Permanent as error:
        return str(error).replace(", or submit the text itself", "")
    except (FetchFailed, TimeoutError):
        return None
    return None
