"""The life of a job, top to bottom. Every change of status in the project is one transition in this file: a guarded UPDATE.

The guard names the status that the job leaves and, for a running job, its claim. No row changed means that another process
changed the job first; the caller then stops. Every transition adds a row to `job_events`. Commit first, push afterwards: when
the push fails, the clock pushes the job later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from monolith.db.engine import now, storable, write_transaction
from monolith.db.models import Base, Job
from monolith.errors import Conflict
from monolith.job_types.backoff import Backoff
from monolith.runner.ledger import error_fingerprint, insert, pauses
from monolith.runner.ledger.guarded_update import JobRecord, Transition, param
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.outcomes import Outcome, apply_on_failure, check_result, has_on_failure
from monolith.runner.queue import rq_queues

MAX_CRASHES = 3  # a job that crashes its worker this often is poison
MAX_SNOOZE_S = 3 * 24 * 3600  # since the submission; then a snooze counts as a failure
MAX_MESSAGE = 2000  # characters of an error that are kept


@dataclass(frozen=True)
class Claim:
    """One run of one job. `number` fences it: an outcome recorded with an older number changes nothing."""

    job_id: str
    number: int
    attempt: int
    job: JobRecord


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed: a short type, a message for the submitter, a traceback for admins."""

    type: str
    message: str
    trace: str | None = None
    permanent: bool = False


# ---- submit and push


def submit(
    owner_id: int,
    specs: Sequence[JobSpec],
    *,
    before: Callable[[Connection], None] | None = None,
    admission: Callable[[Connection | None], AbstractContextManager[object]] = nullcontext,
    rows: Sequence[Base] = (),
    request_id: str | None = None,
) -> list[JobRecord]:
    """Insert jobs in one transaction, then push them. Returns them in the order of `specs`.

    `before` is called first in the transaction; `admission` is entered next, may refuse everything by raising, and is left when
    all is inserted; `rows` are new rows of other tables to insert. Raises IntegrityError, with nothing inserted, for a second live
    unique job of the same content.
    """
    # None: the insert of the jobs is the only statement, and a transaction of its own
    with write_transaction() if before or rows else nullcontext() as connection:
        if connection and before:
            before(connection)
        with admission(connection):
            if connection and rows:
                with Session(connection, expire_on_commit=False) as session:
                    session.add_all(rows)
                    session.flush()
            jobs = insert.insert_jobs(specs, connection=connection, owner_id=owner_id, request_id=request_id)
    rq_queues.push(jobs)
    return jobs


_ONE = Job.id == param("job_id", Job.id)
_QUEUED: dict[str, Any] = {"queued_at": now(), "run_at": None, "snooze_reason": None}
_RELEASED: dict[str, Any] = {"heartbeat_at": None, "progress": None, "progress_note": None}
_ENDED: dict[str, Any] = {"ended_at": now(), "heartbeat_at": None, "run_at": None, "snooze_reason": None}
_NO_ERROR: dict[str, Any] = {"error_type": None, "error_message": None, "error_trace": None, "error_group": None}
_ERROR: dict[str, Any] = {name: param(name, getattr(Job, name)) for name in _NO_ERROR}

_now = select(now()).scalar_subquery()  # evaluated once: an index cannot be searched by a volatile expression
_overdue = select(Job.id).where(Job.status == "scheduled", Job.run_at <= _now).order_by(Job.run_at).limit(param("limit"))
QUEUE_DUE = Transition("queued", Job.status == "scheduled", Job.id.in_(_overdue), status="queued", **_QUEUED)


def queue_due(limit: int) -> list[JobRecord]:
    """Queue and push up to `limit` scheduled jobs whose time has come, the longest overdue first."""
    jobs = QUEUE_DUE.apply(limit=limit)
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
    """Claim a queued job to run it. None when it is not queued (a repeated message, a cancelled job) or is paused."""
    jobs = CLAIM.apply(worker, job_id=job_id, worker=worker)
    return Claim(job_id, jobs[0].claims, jobs[0].attempt, jobs[0]) if jobs else None


_RUNNING = (_ONE, Job.status == "started", Job.claims == param("claim", Job.claims))
SUCCEED = Transition("finished", *_RUNNING, status="finished", result=param("result", Job.result), progress=100.0, **_NO_ERROR, **_ENDED)


def succeed(claim: Claim, outcome: Outcome) -> bool:
    """Record the result, its files, decision and follow-ups in one transaction. False when the claim is no longer current.

    Raises `Permanent` for a result that cannot be stored.
    """
    check_result(outcome.result)
    if outcome.is_result_only:
        return bool(SUCCEED.apply(**_fence(claim), result=outcome.result))
    with write_transaction() as connection:
        finished = SUCCEED.apply(connection=connection, **_fence(claim), result=outcome.result)
        if not finished:
            return False
        follow_ups = outcome.save(connection, finished[0])
    rq_queues.push(follow_ups)
    return True


FAIL = Transition("failed", *_RUNNING, status="failed", **_ERROR, **_ENDED)
RETRY = Transition("retrying", *_RUNNING, status="scheduled", run_at=now() + param("seconds", Job.run_at), **_ERROR, **_RELEASED)


def fail(claim: Claim, failure: Failure, backoff: Backoff) -> bool:
    """End the attempt as failed: retried after the backoff while attempts are left, else failed for good.

    For good, the job type's `on_failure` runs and is saved in the same transaction. False when the claim is no longer current.
    """
    error = _error(failure)
    message = error["error_message"]
    if not failure.permanent and claim.attempt < claim.job.max_attempts:
        return bool(RETRY.apply(message, **_fence(claim), **error, seconds=backoff.delay(claim.attempt)))
    if not has_on_failure(claim.job.type):
        return bool(FAIL.apply(message, **_fence(claim), **error))
    with write_transaction() as connection:
        failed = FAIL.apply(message, connection=connection, **_fence(claim), **error)
        follow_ups = [one for job in failed for one in apply_on_failure(connection, job, error["error_type"], message)]
    rq_queues.push(follow_ups)
    return bool(failed)


def _error(failure: Failure) -> dict[str, Any]:
    """The error columns of a failed job."""
    message, trace = storable(failure.message, MAX_MESSAGE), storable(failure.trace or "")
    error_group = error_fingerprint.fingerprint_of(failure.type, message, trace).key
    return {"error_type": failure.type, "error_message": message, "error_trace": trace, "error_group": error_group}


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
    """Schedule the job again in some seconds and return its attempt. Three days after its submission that counts as a failure."""
    if SNOOZE.apply(reason, **_fence(claim), seconds=seconds, reason=storable(reason, 300)):
        return True
    message = f"The job was snoozed repeatedly for three days. Last reason: {reason}"
    return fail(claim, Failure("parked_too_long", message), Backoff("fixed", seconds))


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
    """Queue a job again whose worker stopped or died, and return its attempt. False when this claim is no longer current.

    After MAX_CRASHES crashes the job is poison and fails: otherwise it would crash one worker after the other. A worker that
    stops on request (`crashed=False`) does not count.
    """
    fence = {"job_id": job_id, "claim": number, "crash": int(crashed)}
    error = _error(Failure("poison", f"The job was failed because {MAX_CRASHES} workers crashed while running it. Last: {why}."))
    message = error["error_message"]
    with write_transaction() as connection:
        poison = POISON.apply(message, connection=connection, **fence, **error)
        interrupted = INTERRUPT.apply(why, connection=connection, **fence)
        follow_ups = [one for job in poison for one in apply_on_failure(connection, job, "poison", message)]
    rq_queues.push([*interrupted, *follow_ups])
    return bool(poison or interrupted)


# ---- what people do, to one job or to many

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


class DuplicateIsLive(Conflict):
    """A unique job of the same type and content is waiting or running, so this one cannot be queued."""


def cancel(job_id: str) -> bool:
    """Cancel a job that has not started. False when it has, or is over."""
    with write_transaction() as connection:
        return bool(CANCEL.apply(connection=connection, job_ids=[job_id]))


def stop(job_id: str, *, tell_worker: bool = True) -> bool:
    """Stop a running job: from now on its outcome changes nothing, and its worker ends it. False when it is not running."""
    with write_transaction() as connection:
        stopped = STOP.apply(connection=connection, job_ids=[job_id])
    if stopped and tell_worker:
        rq_queues.stop(job_id)
    return bool(stopped)


def requeue(job_id: str) -> bool:
    """Queue a failed, stopped or cancelled job again, with all its attempts. False when it is none of these.

    Raises `DuplicateIsLive`.
    """
    return bool(requeue_jobs([job_id]))


def requeue_jobs(
    job_ids: Sequence[str],
    *,
    note: str | None = None,
    requeue_id: int | None = None,
    record: Callable[[Connection, int], None] = lambda connection, count: None,
) -> int:
    """Queue those of these jobs again that failed, were stopped or cancelled; returns how many. All or none.

    `record` is called in the same transaction with their number; `requeue_id` is the retry of an error group they belong to.
    Raises `DuplicateIsLive`, with nothing changed, where one of them is unique and has a live duplicate, be it another of them.
    """
    try:
        with write_transaction() as connection:
            jobs = REQUEUE.apply(note, connection=connection, job_ids=list(job_ids), requeue_id=requeue_id)
            record(connection, len(jobs))
    except IntegrityError:
        raise DuplicateIsLive("A unique job of the same type and content is already waiting or running. Wait for it to finish.") from None
    rq_queues.push(jobs)
    return len(jobs)


def _fence(claim: Claim) -> dict[str, Any]:
    """The parameters of the guard of a running job."""
    return {"job_id": claim.job_id, "claim": claim.number}


def running(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """A guard for other statements about a running job: it is started, and by this claim."""
    return (Job.id == claim.job_id, Job.status == "started", Job.claims == claim.number)
