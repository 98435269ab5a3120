"""The life of a job, top to bottom. Every change of status in the project is one guarded UPDATE in this file.

A move names the status it leaves and, for a running job, the claim it belongs to. Zero rows changed means that somebody
else moved the job first, and the mover stops. Every move appends a row to `job_events`. Commit first, push after: a push
that fails leaves the row for the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, select
from sqlalchemy.orm import Session

from monolith.db.engine import autocommit, now, storable, write_transaction
from monolith.db.models import Base, Job
from monolith.job_types.registry import Backoff
from monolith.runner.ledger import error_fingerprint, insert, pauses
from monolith.runner.ledger.insert import JobSpec, NewJob
from monolith.runner.ledger.outcomes import Outcome, check_result, has_aftermath, keep_aftermath
from monolith.runner.ledger.transitions import Transition, TransitionedJob, param
from monolith.runner.queue import rq_queues

MAX_CRASHES = 3  # a job that takes its worker down this often is poison
MAX_SNOOZE_S = 3 * 24 * 3600  # nothing waits for ever
MAX_MESSAGE = 2000  # characters of an error that are kept


@dataclass(frozen=True)
class Claim:
    """One run of one job. `number` fences: the outcome of an older claim changes nothing."""

    job_id: str
    number: int
    attempt: int
    job: TransitionedJob


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed: a short type, a message for the submitter, a trace for admins."""

    type: str
    message: str
    trace: str | None = None
    permanent: bool = False


# ---- submit and push


def submit(
    owner_id: int,
    wanted: Sequence[JobSpec],
    *,
    first: Callable[[Connection], None] | None = None,
    may: Callable[[Connection], AbstractContextManager[object]] = nullcontext,
    along: Sequence[Base] = (),
    request_id: str | None = None,
) -> list[NewJob]:
    """Accept jobs in one transaction; then push them.

    In the transaction comes `first`, then `may`, which refuses all of it by raising and is left when all is written, then the
    new rows that go `along` with the jobs. Raises IntegrityError, with nothing accepted, for a second live unique job of one content.
    """
    is_alone = not first and not along
    with autocommit() if is_alone else write_transaction() as connection:
        if first:
            first(connection)
        with may(connection):
            _keep(connection, along)
            jobs = insert.insert_jobs(connection, wanted, owner_id=owner_id, request_id=request_id)
    rq_queues.push(jobs)
    return jobs


def _keep(connection: Connection, along: Sequence[Base]) -> None:
    if along:
        with Session(connection, expire_on_commit=False) as session:
            session.add_all(along)
            session.flush()


_ONE = Job.id == param("job_id", Job.id)
_QUEUED: dict[str, Any] = {"queued_at": now(), "run_at": None, "snooze_reason": None}
_RELEASED: dict[str, Any] = {"heartbeat_at": None, "progress": None, "progress_note": None}
_ENDED: dict[str, Any] = {"ended_at": now(), "heartbeat_at": None, "run_at": None, "snooze_reason": None}
_NO_ERROR: dict[str, Any] = {"error_type": None, "error_message": None, "error_trace": None, "error_group": None}
_ERROR: dict[str, Any] = {name: param(name, getattr(Job, name)) for name in _NO_ERROR}

_moment = select(now()).scalar_subquery()  # read once: an index cannot be searched by a clock that goes on
_overdue = select(Job.id).where(Job.status == "scheduled", Job.run_at <= _moment).order_by(Job.run_at).limit(param("limit"))
QUEUE_DUE = Transition("queued", Job.status == "scheduled", Job.id.in_(_overdue), status="queued", **_QUEUED)


def queue_due(limit: int) -> list[TransitionedJob]:
    """Queue the scheduled jobs whose time has come, the longest overdue first, and push them."""
    jobs = QUEUE_DUE.make(limit=limit)
    rq_queues.push(jobs)
    return jobs


# ---- claim, and the ways an attempt ends

CLAIM = Transition(
    "started",
    _ONE,
    Job.status == "queued",
    ~pauses.holds_back(Job.queue, Job.type),
    status="started",
    attempt=Job.attempt + 1,
    claims=Job.claims + 1,
    worker=param("worker", Job.worker),
    started_at=now(),
    heartbeat_at=now(),
    progress=None,
    progress_note=None,
)


def claim(job_id: str, worker: str) -> Claim | None:
    """Take a queued job to run it. None when it is not queued (the message was a double, the job was cancelled) or paused."""
    moved = CLAIM.make(worker, job_id=job_id, worker=worker)
    return Claim(job_id, moved[0].claims, moved[0].attempt, moved[0]) if moved else None


_RUNNING = (_ONE, Job.status == "started", Job.claims == param("claim", Job.claims))
SUCCEED = Transition("finished", *_RUNNING, status="finished", result=param("result", Job.result), progress=100.0, **_NO_ERROR, **_ENDED)


def succeed(claim: Claim, outcome: Outcome) -> bool:
    """Record the result and what comes with it in one transaction. Raises `Permanent` when the result cannot be kept."""
    check_result(outcome.result)
    if outcome.is_alone:
        return bool(SUCCEED.make(**_of(claim), result=outcome.result))
    with write_transaction() as connection:
        moved = SUCCEED.on(connection, **_of(claim), result=outcome.result)
        if not moved:
            return False
        jobs = outcome.keep(connection, moved[0])
    rq_queues.push(jobs)
    return True


FAIL = Transition("failed", *_RUNNING, status="failed", **_ERROR, **_ENDED)
RETRY = Transition("retrying", *_RUNNING, status="scheduled", run_at=now() + param("seconds", Job.run_at), **_ERROR, **_RELEASED)


def fail(claim: Claim, failure: Failure, backoff: Backoff) -> bool:
    """End the attempt as failed: tried again after the backoff while attempts are left, else for good."""
    error = _error(failure)
    if failure.permanent or claim.attempt >= claim.job.max_attempts:
        return _give_up(claim, error)
    return bool(RETRY.make(failure.message, **_of(claim), **error, seconds=backoff.delay(claim.attempt)))


def _error(failure: Failure) -> dict[str, Any]:
    """What the ledger keeps of a failure, as it can be stored."""
    message, trace = storable(failure.message, MAX_MESSAGE), storable(failure.trace or "")
    error_group = error_fingerprint.fingerprint_of(failure.type, message, trace).key
    return {"error_type": failure.type, "error_message": message, "error_trace": trace, "error_group": error_group}


def _give_up(claim: Claim, error: dict[str, Any]) -> bool:
    """Fail for good, with what comes of it in one transaction: `on_failure` of the job's type says what."""
    if not has_aftermath(claim.job.type):
        return bool(FAIL.make(error["error_message"], **_of(claim), **error))
    jobs: list[NewJob] = []
    with write_transaction() as connection:
        moved = FAIL.on(connection, error["error_message"], **_of(claim), **error)
        for job in moved:
            jobs = keep_aftermath(connection, job, error["error_type"], error["error_message"])
    rq_queues.push(jobs)
    return bool(moved)


SNOOZE = Transition(
    "parked",
    *_RUNNING,
    Job.created_at > now() - MAX_SNOOZE_S,
    status="scheduled",
    attempt=Job.attempt - 1,
    run_at=now() + param("seconds", Job.run_at),
    snooze_reason=param("reason", Job.snooze_reason),
    **_RELEASED,
)


def snooze(claim: Claim, seconds: float, reason: str) -> bool:
    """Put the job aside for some seconds and give its attempt back; three days after it was submitted that counts as failed."""
    if SNOOZE.make(reason, **_of(claim), seconds=seconds, reason=storable(reason, 300)):
        return True
    return fail(
        claim,
        Failure("parked_too_long", f"The job was snoozed repeatedly for three days. Last reason: {reason}"),
        Backoff("fixed", seconds),
    )


_LAST = Job.crashes + param("crash", Job.crashes) >= MAX_CRASHES
POISON = Transition("failed", *_RUNNING, param("crash", Job.crashes) > 0, _LAST, status="failed", **_ERROR, **_ENDED)
INTERRUPT = Transition(
    "interrupted",
    *_RUNNING,
    status="queued",
    attempt=Job.attempt - 1,
    interruptions=Job.interruptions + 1,
    crashes=Job.crashes + param("crash", Job.crashes),
    **_RELEASED,
    **_QUEUED,
)


def interrupt(job_id: str, number: int, why: str, *, crashed: bool = True) -> bool:
    """Give a job back to its queue: its worker stopped or died, which is not the job's fault.

    The attempt is given back. After MAX_CRASHES the job is poison and fails: a job that kills its worker three times
    would otherwise take the fleet down, one worker at a time. A worker that stops on request has not crashed.
    """
    said = {"job_id": job_id, "claim": number, "crash": int(crashed)}
    error = _error(Failure("poison", f"The job was failed because {MAX_CRASHES} workers crashed while running it. Last: {why}."))
    message = error["error_message"]
    with write_transaction() as connection:
        poison = POISON.on(connection, message, **said, **error)
        interrupted = INTERRUPT.on(connection, why, **said)
        follow_ups = [one for job in poison for one in keep_aftermath(connection, job, "poison", message)]
    rq_queues.push([*interrupted, *follow_ups])
    return bool(poison or interrupted)


# ---- what people do, to one job or to many at once

_THESE = Job.id.in_(bindparam("job_ids", expanding=True))
CANCEL = Transition("canceled", _THESE, Job.status.in_(("queued", "scheduled")), status="canceled", **_ENDED)
STOP = Transition("stopped", _THESE, Job.status == "started", status="stopped", **_ENDED)
REQUEUE = Transition(
    "requeued",
    _THESE,
    Job.status.in_(("failed", "stopped", "canceled")),
    Job.trash_id.is_(None),
    status="queued",
    attempt=0,
    interruptions=0,
    crashes=0,
    started_at=None,
    ended_at=None,
    requeue_id=param("requeue_id", Job.requeue_id),
    **_NO_ERROR,
    **_RELEASED,
    **_QUEUED,
)


def cancel(job_id: str) -> bool:
    """End a job that has not started. False when it has, or is over."""
    with write_transaction() as connection:
        return bool(CANCEL.on(connection, job_ids=[job_id]))


def stop(job_id: str, *, tell_worker: bool = True) -> bool:
    """End a running job: from now on its outcome changes nothing, and its worker ends it. False when it does not run."""
    with write_transaction() as connection:
        stopped = STOP.on(connection, job_ids=[job_id])
    if stopped and tell_worker:
        rq_queues.stop(job_id)
    return bool(stopped)


def requeue(job_id: str, *, requeue_id: int | None = None) -> bool:
    """Start a job again that failed, was stopped or was cancelled, with all its attempts. False when it is none of these."""
    with write_transaction() as connection:
        jobs = REQUEUE.on(connection, job_ids=[job_id], requeue_id=requeue_id)
    rq_queues.push(jobs)
    return bool(jobs)


def _of(claim: Claim) -> dict[str, Any]:
    """What the guard of a running job asks for."""
    return {"job_id": claim.job_id, "claim": claim.number}


def running(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """The guard of a running job: still started, and by this claim."""
    return (Job.id == claim.job_id, Job.status == "started", Job.claims == claim.number)
