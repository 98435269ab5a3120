"""Everything that can be wrong with what a person asked, with the HTTP status it answers.

The same table serves the API (as problem+json) and the pages; `problems.py` renders both. Job types raise `Permanent`
and `Later`. Nothing here knows Flask.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with one field: what and how to mend it, and the JSON pointer to the field."""

    detail: str
    pointer: str


class Problem(Exception):
    """A request that cannot be done as asked. `detail` says what was wrong, where, and what to do."""

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
    """Fields are wrong; each is named with what to do."""

    status, code, title = 422, "invalid", "Some fields are invalid"

    @classmethod
    def field(cls, pointer: str, detail: str) -> Invalid:
        return cls(detail, errors=[FieldError(detail, pointer)])


class TooManyJobs(Problem):
    status, code, title = 429, "too_many_jobs", "Too many unfinished jobs"


class TooManyRequests(Problem):
    status, code, title = 429, "too_many_requests", "Too many requests"


class Unavailable(Problem):
    status, code, title = 503, "unavailable", "Temporarily unavailable"


class Busy(Problem):
    status, code, title = 503, "busy", "The queue is full"


class Permanent(Exception):
    """Raised by a job type: retrying cannot help. The message is shown to the submitter: say what to do."""


class Snooze(Exception):
    """Raised by a job type: snooze this job for some seconds without using up an attempt."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"snoozed for {seconds:g} s")
        self.seconds = seconds
        self.reason = reason


class BadSetting(Exception):
    """A setting that cannot be used. The message is one line that says what to do."""
