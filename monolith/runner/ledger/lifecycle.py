"""The life of a job, top to bottom. Every change of status in the project is one transition in this file: a guarded UPDATE.

The guard names the status that the job leaves and, for a running job, its claim. No row changed means that another process
changed the job first; the caller then stops. Every transition adds a row to `job_events`. Commit first, push afterwards: when
the push fails, the clock pushes the job later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from time import monotonic
from typing import Any, NamedTuple

import structlog
from sqlalchemy import ColumnElement, Connection, bindparam, false, func, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from monolith.db.away import is_of_database
from monolith.db.engine import get_engine, now, read_connection, rows_of_json, storable, unlocked, write_transaction
from monolith.db.models import Base, Job, JobEvent
from monolith.errors import MAX_SNOOZE_S, Conflict, JobTypeMissing, seconds_to_wait, text_of
from monolith.job_types import registry
from monolith.job_types.backoff import Backoff
from monolith.runner.ledger import balance, error_fingerprint, insert, limits, on_failure, pauses
from monolith.runner.ledger.guarded_update import RETURNED, JobRecord, Transition, param
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.on_failure import Consequences
from monolith.runner.ledger.outcomes import Outcome, result_json
from monolith.runner.queue import rq_queues

_JOBS: Any = Job.__table__
SILENT_S = 15.0  # a worker that has not reported for so long gets notice; it reports every 5 s
NOTICE_S = 15.0  # a worker that has not reported for so long since then is lost
LOST_AFTER_S = SILENT_S + NOTICE_S
MAX_CRASHES = 3  # a job that crashes its worker this often is poison
MISSING_TYPE_S = 3600.0  # for how long a job waits for a worker that has its type
MISSING_TYPE_TRY_S = 300.0  # how often it is tried, at least; a worker that starts has the jobs of its types tried at once
MISSING_TYPE = "Waits for a worker that has the job type "  # how the reason of such a wait begins
MAX_MESSAGE = 2000  # characters of an error that are kept
MAX_TYPE = 100
log = structlog.get_logger()


@dataclass(frozen=True)
class Claim:
    """One run of one job. `number` fences it: an outcome recorded with an older number changes nothing.

    `began_at` is when its function began, on this machine's monotonic clock, which all its processes share.
    """

    job_id: str
    number: int
    attempt: int
    job: JobRecord
    began_at: float = field(default_factory=monotonic)


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
_NOT_HELD: dict[str, Any] = {"held_by": None, "held_since": None}
_ENDED: dict[str, Any] = {"ended_at": now(), "heartbeat_at": None, "run_at": None, "snooze_reason": None, **_NOT_HELD}
_NO_ERROR: dict[str, Any] = {"error_type": None, "error_message": None, "error_trace": None, "error_group": None}
_ERROR: dict[str, Any] = {name: param(name, getattr(Job, name)) for name in _NO_ERROR}

_now = select(now()).scalar_subquery()  # evaluated once: an index cannot be searched by a volatile expression
_overdue = select(Job.id).where(Job.status == "scheduled", Job.run_at <= _now).order_by(Job.run_at).limit(param("limit"))
QUEUE_DUE = Transition("queued", Job.status == "scheduled", Job.id.in_(unlocked(_overdue)), status="queued", **_QUEUED)


def queue_due(limit: int) -> list[JobRecord]:
    """Queue and push up to `limit` scheduled jobs whose time has come, the longest overdue first. Those with locked rows wait."""
    jobs = QUEUE_DUE.apply(limit=limit)
    rq_queues.push(jobs)
    return jobs


# ---- claim

_CLAIMED: dict[str, Any] = {
    "status": "started",
    "attempt": Job.attempt + 1,
    "claims": Job.claims + 1,
    "worker": param("worker", Job.worker),
    "started_at": now(),
    "heartbeat_at": now(),
    "progress": None,
    "progress_note": None,
    **_NOT_HELD,
}
_CLAIMABLE = (_ONE, Job.status == "queued", ~pauses.holds_back(Job.queue, Job.type))
CLAIM = Transition("started", *_CLAIMABLE, **_CLAIMED)


def claim(job_id: str, worker: str) -> Claim | None:
    """Claim a queued job to run it. None when it is not queued (a repeated message, a cancelled job) or is paused."""
    return next(iter(claim_each([job_id], worker)), None)


def claim_each(job_ids: Iterable[str], worker: str) -> list[Claim]:
    """Claim those of these jobs that are queued and not paused, all in one statement. Returns their claims in any order.

    Those of a type with a limit or a rate are claimed in a second step, and held where it has no room.
    """
    wanted = list(job_ids)
    limited = tuple(limits.limited_types())
    jobs = (_claim_except(limited) if limited else CLAIM).apply_each(_claims(wanted, worker))
    if limited and len(jobs) < len(wanted):
        jobs += _claim_limited(set(wanted).difference(job.id for job in jobs), worker, is_alone=not jobs)
    return [Claim(job.id, job.claims, job.attempt, job) for job in jobs]


def _claims(job_ids: Iterable[str], worker: str) -> list[dict[str, Any]]:
    return [{"job_id": one, "worker": worker, "note": worker} for one in job_ids]


def claimed(job_id: str, number: int) -> Claim | None:
    """The claim with this number; None when the job is no longer run under it."""
    row = select(*RETURNED, now() - Job.started_at).where(*_RUNNING)
    with read_connection() as connection:
        found = connection.execute(row, {"job_id": job_id, "claim": number}).first()
    if found is None:
        return None
    job, ran = JobRecord(*found[:-1]), found[-1]
    return Claim(job.id, job.claims, job.attempt, job, monotonic() - ran)


def claims_of(worker: str, job_ids: Iterable[str]) -> list[tuple[str, int]]:
    """Those of these jobs that are running under a claim of this worker: (job id, claim number)."""
    held = select(Job.id, Job.claims).where(Job.id.in_(job_ids), Job.status == "started", Job.worker == worker)
    with read_connection() as connection:
        return [(job_id, number) for job_id, number in connection.execute(held)]


def locked(job_ids: Iterable[str]) -> set[str]:
    """Those of these jobs whose rows another transaction has locked. Waits for none of them."""
    these = select(Job.id).where(Job.id.in_(job_ids))
    with write_transaction() as connection:
        free = set(connection.scalars(these.with_for_update(skip_locked=True, key_share=True)))
        return set(connection.scalars(these)) - free


HEARTBEAT: dict[str, Any] = {"heartbeat_at": now(), "run_at": None}


def heartbeat_each(claims: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Record that these jobs are running: (job id, claim number). Returns those whose claim is current."""
    given = json.dumps([{"id": job_id, "claims": number} for job_id, number in claims])
    dialect = get_engine().dialect.name
    with write_transaction() as connection:
        held = connection.execute(_heartbeats(dialect), {"held": given})
        return [(job_id, number) for job_id, number in held]


@cache
def _heartbeats(dialect: str) -> ReturningUpdate[Any]:
    held = rows_of_json("held", [_JOBS.c.id, _JOBS.c.claims], dialect)
    guard = (Job.id == held.c.id, Job.status == "started", Job.claims == held.c.claims)
    return update(_JOBS).where(*guard).values(HEARTBEAT).returning(_JOBS.c.id, _JOBS.c.claims)


# ---- limits and rates: `limits` decides, under its lock

HOLD = Transition(
    "held",
    _ONE,
    or_(Job.status == "queued", (Job.status == "scheduled") & Job.held_by.is_not(None)),  # another limit may hold it by now
    status="scheduled",
    run_at=None,
    snooze_reason=param("reason", Job.snooze_reason),
    held_by=param("held_by", Job.held_by),
    held_since=func.coalesce(Job.held_since, Job.queued_at),
)
# It stays marked as held until it is claimed: a slot is promised to it.
RELEASE = Transition("queued", _ONE, Job.status == "scheduled", Job.held_by.is_not(None), status="queued", **_QUEUED)


@lru_cache(maxsize=1)
def _claim_except(types: tuple[str, ...]) -> Transition:
    """The claim that leaves out jobs of these types."""
    return Transition("started", *_CLAIMABLE, *(Job.type != one for one in types), **_CLAIMED)


def _claim_limited(job_ids: Collection[str], worker: str, *, is_alone: bool) -> list[JobRecord]:
    """Claim those of these jobs for which their limits have room, and hold the rest. Held jobs that come before them go first.

    Unless it `is_alone`, an error is logged only, because other jobs were claimed in the same call. Then the clock pushes them again.
    """
    try:
        with write_transaction() as connection:
            limits.lock(connection)
            allotment = limits.decide(connection, job_ids)
            jobs = CLAIM.apply_each(_claims(allotment.admitted, worker), connection=connection)
            released = _hold_and_release(allotment, connection)
    except SQLAlchemyError as error:
        if is_alone:
            raise
        log.warning("limits_not_read", error=str(error))
        return []
    rq_queues.push(released)
    return jobs


def release_held(ended: Collection[limits.Owned] | None = None) -> float | None:
    """Queue and push held jobs for which their limits have room: all, or those that the end of these types' and owners' jobs concerns.

    Returns the seconds until a rate has room for the next one; None when no rate holds any.
    """
    with write_transaction() as connection:
        limits.lock(connection)
        allotment = limits.decide(connection, ended=ended)
        released = _hold_and_release(allotment, connection)
    rq_queues.push(released)
    return allotment.again_in


def _hold_and_release(allotment: limits.Allotment, connection: Connection) -> list[JobRecord]:
    """Returns the released jobs, to be pushed after the commit."""
    held = [
        {"job_id": one.job_id, "held_by": one.limit.key, "reason": one.limit.reason, "note": one.limit.reason} for one in allotment.held
    ]
    HOLD.apply_each(held, connection=connection)
    return RELEASE.apply_each([{"job_id": one} for one in allotment.released], connection=connection)


def make_room(jobs: Iterable[JobRecord]) -> None:
    """These jobs are not running any more: held jobs may be. What fails here is left to the clock, which looks every second."""
    ended = {(job.type, job.owner_id) for job in jobs}
    if limits.concern(ended):
        try:
            release_held(ended)
        except SQLAlchemyError as error:
            log.warning("room_not_given", error=str(error))


# ---- the ways an attempt ends

_RUNNING = (_ONE, Job.status == "started", Job.claims == param("claim", Job.claims))
RETURN = Transition("returned", *_RUNNING, status="queued", attempt=Job.attempt - 1, started_at=None, run_at=None, **_RELEASED)


def return_each(claims: Iterable[tuple[str, int]]) -> None:
    """Queue jobs again that were claimed and have not begun: (job id, claim number). Their messages are the worker's to put back."""
    RETURN.apply_each([{"job_id": job_id, "claim": number} for job_id, number in claims])


@dataclass(frozen=True)
class RunEnding:
    """How a run ended, to be recorded by `record`: a transition, its parameters, and what is saved in the same transaction.

    It is made of plain values, so that another process can record it.
    """

    event: str
    job_id: str
    number: int
    attempt: int
    began_at: float
    params: dict[str, Any]
    outcome: Outcome | None = None
    otherwise: RunEnding | None = None  # for a run that can no longer be snoozed
    has_consequences: bool = False  # it fails for good, and `on_failure` of the job's type says what comes of that

    @property
    def claim(self) -> tuple[str, int]:
        return self.job_id, self.number


def _error(failure: Failure) -> dict[str, Any]:
    """The error columns of a failed job."""
    message, trace = storable(failure.message, MAX_MESSAGE), storable(failure.trace or "")
    error_group = error_fingerprint.fingerprint_of(failure.type, message, trace).key
    return {"error_type": storable(failure.type, MAX_TYPE), "error_message": message, "error_trace": trace, "error_group": error_group}


# A time in the future counts as old: the database's clock was set back, or was ahead for a while.
_is_silent = or_(Job.heartbeat_at < now() - SILENT_S, Job.heartbeat_at > now())
_is_lost = (Job.status == "started", _is_silent, Job.run_at <= now())

# `started_at` is set anew, because a worker claims tiny jobs a moment before their functions begin.
_BEGAN: dict[str, Any] = {"started_at": now() - param("ran", Job.started_at)}
SUCCEED = Transition(
    "finished", *_RUNNING, status="finished", result=param("result", Job.result), progress=100.0, **_BEGAN, **_NO_ERROR, **_ENDED
)
FAIL = Transition("failed", *_RUNNING, status="failed", **_BEGAN, **_ERROR, **_ENDED)
FAIL_LOST = Transition("failed", *_RUNNING, *_is_lost, status="failed", **_BEGAN, **_ERROR, **_ENDED)
RETRY = Transition("retrying", *_RUNNING, status="scheduled", run_at=now() + param("seconds", Job.run_at), **_BEGAN, **_ERROR, **_RELEASED)
SNOOZE = Transition(
    "parked",
    *_RUNNING,
    Job.created_at > now() - MAX_SNOOZE_S,
    status="scheduled",
    attempt=Job.attempt - 1,
    run_at=now() + param("seconds", Job.run_at),
    snooze_reason=param("reason", Job.snooze_reason),
    **_BEGAN,
    **_RELEASED,
)
WITHOUT_TYPE = Transition(
    "unknown_type",
    *_RUNNING,
    status="scheduled",
    attempt=Job.attempt - 1,
    run_at=now() + param("seconds", Job.run_at),
    snooze_reason=param("reason", Job.snooze_reason),
    **_BEGAN,
    **_RELEASED,
)
_ENDINGS = {"finished": SUCCEED, "failed": FAIL, "lost": FAIL_LOST, "retrying": RETRY, "parked": SNOOZE, "unknown_type": WITHOUT_TYPE}


def finished(claim: Claim, outcome: Outcome) -> RunEnding:
    """The run succeeded: its result, files, decision and follow-ups are recorded. Raises `Permanent` for a result that cannot be stored."""
    rest = None if outcome.is_result_only else replace(outcome, result=None)
    return _ending("finished", claim, {"result": result_json(outcome.result)}, outcome=rest)


def failed(claim: Claim, failure: Failure, backoff: Backoff) -> RunEnding:
    """The attempt failed: it is retried after the backoff while attempts are left, else the job fails for good."""
    error = _error(failure)
    if not failure.permanent and claim.attempt < claim.job.max_attempts:
        return _ending("retrying", claim, {**error, "note": error["error_message"], "seconds": backoff.delay(claim.attempt)})
    return _ending("failed", claim, {**error, "note": error["error_message"]}, has_consequences=on_failure.is_declared(claim.job.type))


def snoozed(claim: Claim, seconds: float, reason: str) -> RunEnding:
    """The job runs again in some seconds, and its attempt is returned. Three days after its submission that counts as a failure."""
    seconds = seconds_to_wait(seconds, MAX_SNOOZE_S)
    message = f"The job was snoozed repeatedly for three days. Last reason: {reason}"
    otherwise = failed(claim, Failure("parked_too_long", message), Backoff("fixed", seconds))
    return _ending("parked", claim, {"seconds": seconds, "reason": storable(reason, 300), "note": reason}, otherwise=otherwise)


# A worker that has the type has run the job since, or a person has requeued it: the wait is another one.
_LAST_KNOWN = select(func.max(JobEvent.id)).where(
    JobEvent.job_id == bindparam("job_id"), JobEvent.name.in_(("retrying", "parked", "requeued"))
)
_MISSING_SINCE = select(func.min(JobEvent.at), now()).where(
    JobEvent.job_id == bindparam("job_id"), JobEvent.name == "unknown_type", JobEvent.id > func.coalesce(_LAST_KNOWN.scalar_subquery(), 0)
)


def without_type(claim: Claim, missing: JobTypeMissing) -> RunEnding:
    """The worker lacks the job's type, or that of its follow-up: the attempt is returned, and another worker may have it.

    The waits become longer, up to MISSING_TYPE_TRY_S. An hour after the first worker that lacked the type, the job fails.
    """
    with read_connection() as connection:
        since, moment = connection.execute(_MISSING_SINCE, {"job_id": claim.job_id}).one()
    waited = moment - since if since else 0.0
    because = f" This worker cannot load it: {missing.reason}." if missing.reason else ""
    if waited >= MISSING_TYPE_S:
        message = (
            f"No worker with the job type {missing.name} came within an hour.{because} Start a worker of a version that has it, then "
            "requeue the job; if the type was removed, submit the document with another one."
        )
        return failed(claim, Failure("unknown_type", message, permanent=True), Backoff("fixed", 0))
    seconds = min(max(5.0, waited / 4), MISSING_TYPE_TRY_S, MISSING_TYPE_S - waited)
    until = datetime.fromtimestamp(moment + MISSING_TYPE_S - waited, UTC).strftime("%H:%M:%S UTC")
    reason = f"{MISSING_TYPE}{missing.name}, of a newer version. If none comes until {until}, the job fails.{because}"
    return _ending("unknown_type", claim, {"seconds": seconds, "reason": storable(reason, 300), "note": reason})


def try_with_types(types: Iterable[str]) -> None:
    """Make those jobs due that wait for a worker with one of these types: one has started."""
    waits = (Job.status == "scheduled", or_(false(), *(Job.snooze_reason.startswith(f"{MISSING_TYPE}{name},") for name in types)))
    with write_transaction() as connection:
        connection.execute(update(_JOBS).where(*waits, Job.id.in_(unlocked(select(Job.id).where(*waits)))).values(run_at=now()))


def _ending(event: str, claim: Claim, params: dict[str, Any], **rest: Any) -> RunEnding:
    return RunEnding(event, claim.job_id, claim.number, claim.attempt, claim.began_at, params, **rest)


class Recorded(NamedTuple):
    """What `record` has done: the runs whose claim was current, and those that wait for `on_failure`; by job id and claim number."""

    current: set[tuple[str, int]]
    waiting: set[tuple[str, int]]


def record(endings: Sequence[RunEnding], consequences: Consequences = on_failure.call) -> Recorded:
    """Record how runs ended, all in one transaction, and push their follow-ups.

    `consequences` calls `on_failure` of a job that failed for good, before the transaction. Runs that wait for it are to be recorded
    again. What can no longer be snoozed is recorded as failed.
    """
    settled = [(one, _settled(one, consequences)) for one in endings]
    ready = [ending for _, ending in settled if ending]
    waiting = {one.claim for one, ending in settled if ending is None}
    changed = _record(ready)
    current = {(job.id, job.claims) for job in changed}
    if refused := [one.otherwise for one in ready if one.otherwise and one.claim not in current]:
        others = record(refused, consequences)
        return Recorded(current | others.current, waiting | others.waiting)
    return Recorded(current, waiting)


def _settled(ending: RunEnding, consequences: Consequences) -> RunEnding | None:
    """The run with what comes of its failure; None while that is not known."""
    if not ending.has_consequences or ending.outcome:
        return ending
    claim = claimed(*ending.claim)
    if claim is None:
        return ending  # recording it changes nothing
    outcome = consequences(claim.job, ending.params["error_type"], ending.params["error_message"])
    return None if outcome is None else replace(ending, outcome=outcome)


def _record(endings: Sequence[RunEnding]) -> list[JobRecord]:
    """Returns the changed rows."""
    if all(one.outcome is None for one in endings) and len({one.event for one in endings}) <= 1:
        changed = _apply(endings)
        make_room(changed)
        return changed
    with write_transaction() as connection:
        changed = _apply(endings, connection)
        by_claim = {one.claim: one for one in endings}
        follow_ups = [new for job in changed for new in _save(by_claim[job.id, job.claims], job, connection)]
    rq_queues.push(follow_ups)
    make_room(changed)
    return changed


def _apply(endings: Iterable[RunEnding], connection: Connection | None = None) -> list[JobRecord]:
    """Apply the transitions, one statement for each kind."""
    by_event: dict[str, list[dict[str, Any]]] = {}
    for one in endings:
        ran = max(0.0, monotonic() - one.began_at)
        by_event.setdefault(one.event, []).append({**one.params, "job_id": one.job_id, "claim": one.number, "ran": ran})
    return [job for event, params in by_event.items() for job in _ENDINGS[event].apply_each(params, connection=connection)]


def _save(ending: RunEnding, job: JobRecord, connection: Connection) -> list[JobRecord]:
    """Save what a run leaves beside its status. Returns the follow-ups, to be pushed after the commit."""
    if ending.outcome is None:
        return []
    if not ending.has_consequences:
        return ending.outcome.save(connection, job)
    try:
        with connection.begin_nested():
            return ending.outcome.save(connection, job)
    except Exception as error:
        if is_of_database(error):
            raise
        # the job fails all the same
        log.exception("on_failure_failed", job_id=job.id, type=job.type)
        return Outcome(problem=f"What it asked for cannot be saved: {text_of(error)}").save(connection, job)


def succeed(claim: Claim, outcome: Outcome) -> bool:
    """Record a run that `finished`. False when the claim is no longer current."""
    return bool(record([finished(claim, outcome)]).current)


def fail(claim: Claim, failure: Failure, backoff: Backoff) -> bool:
    """Record an attempt that `failed`. False when the claim is no longer current."""
    return bool(record([failed(claim, failure, backoff)]).current)


def snooze(claim: Claim, seconds: float, reason: str) -> bool:
    """Record a run that is `snoozed`. False when the claim is no longer current."""
    return bool(record([snoozed(claim, seconds, reason)]).current)


_INTERRUPTED: dict[str, Any] = {
    "status": "queued",
    "attempt": Job.attempt - 1,
    "interruptions": Job.interruptions + 1,
    "crashes": Job.crashes + param("crash", Job.crashes),
    **_RELEASED,
    **_QUEUED,
}
INTERRUPT = Transition("interrupted", *_RUNNING, **_INTERRUPTED)

INTERRUPT_LOST = Transition("interrupted", *_RUNNING, *_is_lost, **_INTERRUPTED)


def interrupt(
    job_id: str, number: int, why: str, *, crashed: bool = True, only_lost: bool = False, consequences: Consequences = on_failure.call
) -> bool | None:
    """Queue a job again whose worker stopped or died, and return its attempt. False when this claim is no longer current.

    After MAX_CRASHES crashes the job is poison and fails: otherwise it would crash one worker after the other. A worker that
    stops on request (`crashed=False`) does not count. With `only_lost`, False too when its worker has reported meanwhile.
    A type that this version lacks is left to another one, which has its `on_failure`. None while the failure waits for
    `consequences`, as in `record`: ask again.
    """
    claim = claimed(job_id, number) if crashed else None
    if claim and claim.job.crashes + 1 >= MAX_CRASHES and claim.job.type in registry.discover():
        message = f"The job was failed because {MAX_CRASHES} workers crashed while running it. Last: {why}."
        poison = failed(claim, Failure("poison", message, permanent=True), Backoff("fixed", 1))
        recorded = record([replace(poison, event="lost") if only_lost else poison], consequences)
        return None if recorded.waiting else bool(recorded.current)
    interrupted = (INTERRUPT_LOST if only_lost else INTERRUPT).apply(why, job_id=job_id, claim=number, crash=int(crashed))
    rq_queues.push(interrupted)
    make_room(interrupted)
    return bool(interrupted)


# Its claim is still the last one, and it was interrupted: a requeue by a person sets `interruptions` to 0.
RECOVER = Transition(
    "recovered",
    _ONE,
    or_(Job.status == "queued", (Job.status == "scheduled") & Job.held_by.is_not(None)),
    Job.claims == param("claim", Job.claims),
    Job.interruptions > 0,
    Job.attempt == param("attempt", Job.attempt) - 1,
    status="started",
    attempt=Job.attempt + 1,
    heartbeat_at=now(),
    run_at=None,
    snooze_reason=None,
    **_NOT_HELD,
)


def recover(ending: RunEnding) -> bool:
    """Take back a job that was interrupted and waits to run again, because the outcome of that run was found. `record` is next.

    False when it was claimed again, or a person has canceled or requeued it.
    """
    return bool(RECOVER.apply("it was kept on disk", job_id=ending.job_id, claim=ending.number, attempt=ending.attempt))


class LostRun(NamedTuple):
    """A running job whose worker is lost, and for how many seconds it is."""

    job_id: str
    claim: int
    worker: str
    overdue_s: float


def lost(limit: int) -> list[LostRun]:
    """Running jobs whose workers are lost. Those with locked rows are not among them."""
    found = select(Job.id, Job.claims, func.coalesce(Job.worker, ""), now() - Job.run_at).where(*_is_lost).limit(limit)
    with read_connection() as connection:
        rows = [LostRun(*row) for row in connection.execute(found)]
    held = locked(one.job_id for one in rows) if rows else set()
    return [one for one in rows if one.job_id not in held]


def give_notice(limit: int) -> int:
    """Note of running jobs with a silent worker when it counts as lost (`run_at`), unless it reports before. Returns how many.

    So a worker has the same time to report whatever it was that kept it from it: the database was away, or its clock was set, or
    somebody had locked the row. And whichever clock leads then finds the notice.
    """
    silent = (Job.status == "started", _is_silent, or_(Job.run_at.is_(None), Job.run_at > now() + NOTICE_S))
    found = select(Job.id).where(*silent).limit(limit)
    with read_connection() as connection:
        if connection.execute(found.limit(1)).first() is None:  # called every few seconds: do not take the write lock in vain
            return 0
    with write_transaction() as connection:
        return connection.execute(update(_JOBS).where(*silent, Job.id.in_(unlocked(found))).values(run_at=now() + NOTICE_S)).rowcount


# ---- what people do, to one job or to many

_THESE = Job.id.in_(bindparam("job_ids", expanding=True))
CANCEL = Transition("canceled", _THESE, Job.status.in_(("queued", "scheduled")), status="canceled", **_ENDED)
STOP = Transition("stopped", _THESE, Job.status == "started", status="stopped", **_ENDED)
STOP_RUN = Transition("stopped", *_RUNNING, status="stopped", **_ENDED)


def _requeued_from(*statuses: str) -> Transition:
    return Transition(
        "requeued",
        _THESE,
        Job.status.in_(statuses),
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


REQUEUE_FAILED, REQUEUE_OTHERS = _requeued_from("failed"), _requeued_from("stopped", "canceled")  # `/metrics` counts failures for good


class DuplicateIsLive(Conflict):
    """A unique job of the same type and content is waiting or running, so this one cannot be queued."""


def cancel(job_id: str) -> bool:
    """Cancel a job that has not started. False when it has, or is over."""
    return bool(cancel_jobs([job_id]))


def cancel_jobs(job_ids: Sequence[str], *, record: Callable[[Connection, int], None] = lambda connection, count: None) -> int:
    """Cancel those of these jobs that have not started; returns how many. `record` is called in the same transaction with their number."""
    with write_transaction() as connection:
        jobs = CANCEL.apply(connection=connection, job_ids=list(job_ids))
        record(connection, len(jobs))
    rq_queues.withdraw([job.id for job in jobs])
    return len(jobs)


def stop(job_id: str) -> bool:
    """Stop a running job: from now on its outcome changes nothing, and its worker ends it. False when it is not running."""
    with write_transaction() as connection:
        stopped = STOP.apply(connection=connection, job_ids=[job_id])
    if stopped:
        rq_queues.stop(job_id)
        make_room(stopped)
    return bool(stopped)


def stopped(job_id: str, number: int) -> bool:
    """Record that a run was ended on request, as RQ's own stop command does. False when the claim is no longer current."""
    stopped = STOP_RUN.apply(job_id=job_id, claim=number)
    make_room(stopped)
    return bool(stopped)


Admission = Callable[[Connection, int], AbstractContextManager[object]]


def unlimited(connection: Connection, jobs: int) -> AbstractContextManager[object]:
    """The admission of jobs that admins requeue, and the clock on behalf of one."""
    return nullcontext()


def requeue(job_id: str, *, admission: Admission = unlimited) -> bool:
    """Queue a failed, stopped or cancelled job again, with all its attempts and its priority. False when it is none of these.

    `admission` as in `requeue_jobs`. Raises `DuplicateIsLive`.
    """
    return bool(requeue_jobs([job_id], admission=admission))


def requeue_jobs(
    job_ids: Sequence[str],
    *,
    admission: Admission = unlimited,
    note: str | None = None,
    requeue_id: int | None = None,
    record: Callable[[Connection, int], None] = lambda connection, count: None,
) -> int:
    """Queue those of these jobs again that failed, were stopped or cancelled; returns how many. All or none.

    `admission` is entered first in the transaction, with the number of jobs, and may refuse all of them by raising: it holds the
    limits of the user who acts. `record` is called in the same transaction with the number that was requeued; `requeue_id` is the
    retry of an error group they belong to. Raises `DuplicateIsLive`, with nothing changed, where one of them is unique and has a
    live duplicate, be it another of them.
    """
    try:
        with write_transaction() as connection, admission(connection, len(job_ids)):
            jobs = REQUEUE_FAILED.apply(note, connection=connection, job_ids=list(job_ids), requeue_id=requeue_id)
            balance.record_gone(connection, "failed", len(jobs))
            jobs += REQUEUE_OTHERS.apply(note, connection=connection, job_ids=list(job_ids), requeue_id=requeue_id)
            record(connection, len(jobs))
    except IntegrityError:
        raise DuplicateIsLive("A unique job of the same type and content is already waiting or running. Wait for it to finish.") from None
    rq_queues.push(jobs)
    return len(jobs)


def running(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """A guard for other statements about a running job: it is started, and by this claim."""
    return (Job.id == claim.job_id, Job.status == "started", Job.claims == claim.number)
