"""What comes of a job that failed for good: `on_failure` of its type says it, and the transaction of the failure saves it.

The function is somebody else's code, called where a failure is to be recorded: it may take long, raise anything or end its process.
So it is called before the transaction, with a time limit; and by processes that other jobs wait for in a process of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import select

from monolith.db.engine import read_session
from monolith.db.models import Document, User
from monolith.errors import text_of
from monolith.job_types import registry
from monolith.linux.confined_call import ConfinedCall
from monolith.linux.time_limit import TimedOut, time_limit
from monolith.runner.ledger.guarded_update import JobRecord
from monolith.runner.ledger.outcomes import Outcome

LIMIT_S = 5
KILLED_AFTER_S = LIMIT_S + 1.0  # where code in C does not notice the limit
FIRST_WAIT_S = 0.1  # most calls take a few milliseconds
AT_ONCE = 8
FORGOTTEN_AFTER_S = 60.0  # a call whose outcome nobody asks for any more: the job was stopped meanwhile

# The outcome of `on_failure` for a job, its error's type and its message; None while it runs: ask again.
Consequences = Callable[[JobRecord, str, str], Outcome | None]
log = structlog.get_logger()


@dataclass
class FailedJob:
    """The failed job as `on_failure` of its type sees it; `interface.FailedJob` documents the fields."""

    id: str
    type: str
    params: dict[str, Any]
    error_type: str
    error_message: str
    document_id: str | None
    document_title: str | None
    owner_email: str
    outcome: Outcome = field(default_factory=Outcome)

    def follow_up(self, type: str, params: dict[str, Any], *, priority: str = "normal", delay: float = 0) -> None:
        self.outcome.follow_up(type, params, priority, delay, self.document_id)

    def decide(self, *, route: str, decision: str, score: int | None = None) -> None:
        self.outcome.decide(route, decision, score, is_defaulted=True)


def is_declared(type_name: str) -> bool:
    """Whether this job type has an `on_failure` function."""
    job_type = registry.discover().get(type_name)
    return job_type is not None and job_type.on_failure is not None


def call(job: JobRecord, error_type: str, error_message: str) -> Outcome:
    """Call it here. For a process that runs one job at a time, or a thread: nobody else waits for it."""
    return _call(_failed_job(job, error_type, error_message))


class ConfinedCalls:
    """The calls that this process has started, each in a process of its own, and does not wait for."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], ConfinedCall] = {}  # by job and claim number

    def outcome(self, job: JobRecord, error_type: str, error_message: str) -> Outcome | None:
        """The outcome; None while the call runs, or waits for others. Raises `OperationalError` while the database is away."""
        key = (job.id, job.claims)
        if (running := self._calls.get(key)) is None:
            self._forget_old()
            if len(self._calls) >= AT_ONCE:
                return None
            failed = _failed_job(job, error_type, error_message)
            try:
                running = self._calls[key] = ConfinedCall(lambda: _call_and_pack(failed), KILLED_AFTER_S)
            except OSError as error:  # no process or descriptor is free just now
                log.warning("on_failure_not_started", job_id=job.id, error=str(error))
                return None
            running.wait(FIRST_WAIT_S)
        if not running.wait(0):
            return None
        del self._calls[key]
        if running.result is not None:
            return Outcome.of_plain(json.loads(running.result))
        log.error("on_failure_failed", job_id=job.id, type=job.type, problem=running.problem)
        return Outcome(problem=f"It ended without an outcome: {running.problem}.")

    def _forget_old(self) -> None:
        for key, one in list(self._calls.items()):
            if time.monotonic() > one.ends_at + FORGOTTEN_AFTER_S:
                one.kill()
                del self._calls[key]


def _failed_job(job: JobRecord, error_type: str, error_message: str) -> FailedJob:
    with read_session() as session:
        email = session.scalar(select(User.email).where(User.id == job.owner_id)) or ""
        title = session.scalar(select(Document.title).where(Document.id == job.document_id)) if job.document_id else None
    return FailedJob(job.id, job.type, job.params, error_type, error_message, job.document_id, title, email)


def _call(failed: FailedJob) -> Outcome:
    """Call `on_failure`. Whatever it raises is the outcome's problem; what it had asked for until then is kept."""
    job_type = registry.discover().get(failed.type)
    try:
        with time_limit(LIMIT_S):
            if job_type and job_type.on_failure:
                job_type.on_failure(failed)
    except TimedOut:
        _note_problem(failed, f"It took longer than {LIMIT_S} s.")
    except BaseException as error:
        _note_problem(failed, f"{type(error).__name__}: {text_of(error)}")
    return failed.outcome


def _note_problem(failed: FailedJob, problem: str) -> None:
    failed.outcome.problem = problem
    log.exception("on_failure_failed", job_id=failed.id, type=failed.type, problem=problem)


def _call_and_pack(failed: FailedJob) -> bytes:
    outcome = _call(failed)
    try:
        return json.dumps(outcome.plain()).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps(Outcome(problem=f"It asked for something that is not JSON: {text_of(error)}").plain()).encode()
