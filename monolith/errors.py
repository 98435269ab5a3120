"""Errors of requests with their HTTP status and code, and the exceptions that job types raise: `Permanent` and `Snooze`.

`web/problems.py` renders the errors, as problem+json for the API and as a page for people.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_SNOOZE_S = 3 * 24 * 3600  # since the submission; then a snooze counts as a failure
MAX_TEXT = 10_000  # characters of somebody else's message


@dataclass(frozen=True)
class FieldError:
    """An error in one field: what is wrong and how to fix it, and the JSON pointer of the field."""

    detail: str
    pointer: str


class Problem(Exception):
    """A request that cannot be processed. `detail` says what is wrong, where, and what to do; `retry_after` is in seconds."""

    status = 400
    code = "bad_request"
    title = "Invalid request"

    def __init__(self, detail: str, *, errors: list[FieldError] | None = None, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after = retry_after


class Unauthorized(Problem):
    status, code, title = 401, "unauthorized", "Sign in first"


class Forbidden(Problem):
    status, code, title = 403, "forbidden", "Not allowed"


class NotFound(Problem):
    status, code, title = 404, "not_found", "Not found"


class Conflict(Problem):
    status, code, title = 409, "conflict", "Conflict"


class Gone(Problem):
    status, code, title = 410, "gone", "Deleted"


class TooLarge(Problem):
    status, code, title = 413, "too_large", "Too large"


class Invalid(Problem):
    """Some fields are invalid; `errors` names each of them."""

    status, code, title = 422, "invalid", "Some fields are invalid"

    @classmethod
    def field(cls, pointer: str, detail: str) -> Invalid:
        """The error for a single field."""
        return cls(detail, errors=[FieldError(detail, pointer)])


class TooManyJobs(Problem):
    status, code, title = 429, "too_many_jobs", "Too many unfinished jobs"


class TooManyRequests(Problem):
    status, code, title = 429, "too_many_requests", "Too many requests"


class Unavailable(Problem):
    status, code, title = 503, "unavailable", "Temporarily unavailable"


class Busy(Problem):
    status, code, title = 503, "busy", "The queue is full"


def text_of(error: BaseException) -> str:
    """The message of an exception that somebody else's code has raised, cut off where it is long."""
    try:
        return str(error)[:MAX_TEXT]
    except Exception:
        return "This error has no readable message."


class Permanent(Exception):
    """Raised by a job type: retrying cannot help. The submitter sees the message, so it should say what to do."""


def seconds_to_wait(given: float, longest_s: float) -> float:
    """A time to wait that somebody else's code gives, from 0 to `longest_s`. Raises ValueError for NaN and for what is no number."""
    seconds = float(given)
    if math.isnan(seconds):
        raise ValueError("NaN is no time to wait. Give a number of seconds.")
    return min(max(seconds, 0.0), longest_s)


class Snooze(Exception):
    """Raised by a job type: run this job again in `seconds`, at most three days, without using up an attempt."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        self.seconds = seconds_to_wait(seconds, MAX_SNOOZE_S)
        super().__init__(reason or f"snoozed for {self.seconds:g} s")
        self.reason = reason


class BadSetting(Exception):
    """Invalid settings: one line for each, which says what is wrong and what to do."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class InvalidDeclaration(ValueError):
    """A job type that is declared wrongly. The message names it and says what is wrong."""


class JobTypeMissing(Exception):
    """This version of Intray lacks a job type, or cannot load its file. A worker of another version may have it.

    `reason`: why its file cannot be loaded, for people who are no admins; empty for a type that no file declares.
    """

    def __init__(self, name: str, reason: str = "") -> None:
        super().__init__(f"This worker does not have the job type {name}" + (f": {reason}" if reason else "."))
        self.name = name
        self.reason = reason
