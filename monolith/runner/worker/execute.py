"""Runs one job: claims it, calls its function under the time limit, records the outcome."""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from sqlalchemy.exc import DBAPIError

from monolith.db.away import DatabaseAway, is_of_database
from monolith.db.engine import retry_until_back
from monolith.errors import MAX_TEXT, Invalid, JobTypeMissing, Permanent, Snooze, text_of
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.linux.processes import ForksEndHere, kill_marked
from monolith.linux.time_limit import TimedOut, time_limit
from monolith.runner.ledger import lifecycle, on_failure
from monolith.runner.ledger.lifecycle import Claim, Failure, RunEnding
from monolith.runner.ledger.on_failure import Consequences
from monolith.runner.prefork.child import Stopped, suspend_limit
from monolith.runner.worker import kept_outcomes
from monolith.runner.worker.context import Overtaken, RunningJob

HEARTBEAT_S = 5.0
DATABASE_AWAY_S = 5.0  # snooze of a job that could not reach the database
MAX_LINE, MAX_TRACE = 4_000, 20_000  # characters of a traceback that are kept
RECORDING_S = 60.0  # how long an outcome waits for a database that is away

sends_heartbeats = True  # False in a worker's children: their parent sends the heartbeats

log = structlog.get_logger()


def run(job_id: str) -> bool:
    """Run one job, and return whether it could be claimed: a message that arrives twice does nothing.

    The only function that messages name.
    """
    claim = lifecycle.claim(job_id, worker=worker_name()) if job_id not in kept_outcomes.jobs_of_kept() else None
    if claim is None:
        log.info("message_ignored", job_id=job_id)
        return False
    with heartbeat(claim):
        ending = perform(claim)
        if ending and (rest := record_or_keep(ending, claim)):
            retry_until_back(lambda: record([rest]), RECORDING_S)
    return True


def worker_name() -> str:
    """The name under which this process runs jobs: RQ's name of the worker, or host and process id."""
    return os.environ.get("RQ_WORKER_ID") or f"{socket.gethostname()}:{os.getpid()}"


def perform(claim: Claim) -> RunEnding | None:
    """Call the job's function under its time limit. Returns how it ended, which is not recorded yet; None when it was overtaken."""
    claim = Claim(claim.job_id, claim.number, claim.attempt, claim.job)  # it begins now
    if claim.number > 1:
        kill_marked(f"RQ_JOB_ID={claim.job_id}")  # what an earlier run started, if its worker died too suddenly to end it
    known = {"job_id": claim.job_id, "request_id": claim.job.request_id, "type": claim.job.type, "attempt": claim.attempt}
    names = structlog.contextvars.bind_contextvars(**known)
    try:
        log.info("job_started")
        ending = _perform(claim)
        suspend_limit()
        return ending
    finally:
        structlog.contextvars.reset_contextvars(**names)


def _perform(claim: Claim) -> RunEnding | None:
    try:
        if (job_type := registry.discover().get(claim.job.type)) is None:
            raise registry.missing_type(claim.job.type)
        return _run(claim, job_type)
    except JobTypeMissing as missing:
        log.warning("job_type_missing", missing=missing.name, reason=missing.reason)
        try:
            return lifecycle.without_type(claim, missing)
        except DatabaseAway as error:
            return _database_away(claim, error)


def _run(claim: Claim, job_type: JobType) -> RunEnding | None:
    job = RunningJob(claim)
    try:
        params = job_type.with_defaults(claim.job.params)
        with time_limit(job_type.timeout), ForksEndHere():
            job.outcome.result = job_type.function(job, params)
        ending = lifecycle.finished(claim, job.outcome)
        log.info("job_finished", seconds=round(time.monotonic() - claim.began_at, 3))
        return ending
    except Snooze as snooze:
        log.info("job_snoozed", seconds=snooze.seconds, reason=text_of(snooze))
        return lifecycle.snoozed(claim, snooze.seconds, text_of(snooze))
    except Overtaken as overtaken:
        log.warning("job_overtaken", reason=str(overtaken))
        return None
    except DatabaseAway as error:  # not the job's fault: it read its document, or reported progress
        return _database_away(claim, error)
    except (Stopped, KeyboardInterrupt, JobTypeMissing):
        raise
    except BaseException as error:  # whatever a job raises ends it: SystemExit, asyncio.CancelledError, a panic of a Rust library
        return _failed(claim, error, job_type, job.step)


def _database_away(claim: Claim, error: DatabaseAway) -> RunEnding:
    log.warning("database_away", error=str(error.orig))
    return lifecycle.snoozed(claim, DATABASE_AWAY_S, "The database was not available")


def _failed(claim: Claim, error: BaseException, job_type: JobType, step: str) -> RunEnding:
    failure = _failure(error, job_type, step)
    log.warning("attempt_failed", error_type=failure.type, error=failure.message, permanent=failure.permanent)
    return lifecycle.failed(claim, failure, job_type.backoff)


def _failure(error: BaseException, job_type: JobType, step: str) -> Failure:
    trace = _trace(error)
    if isinstance(error, TimedOut):
        return Failure("timeout", f"The job exceeded its time limit of {job_type.timeout} s. Last step: {step or 'starting'}.", trace)
    if isinstance(error, Permanent):
        return Failure("permanent", text_of(error), trace, permanent=True)
    if isinstance(error, Invalid):
        return Failure("permanent", " ".join([error.detail, *(one.detail for one in error.errors)])[:MAX_TEXT], trace, permanent=True)
    return Failure(type(error).__name__, text_of(error) or type(error).__name__, trace)


def _trace(error: BaseException) -> str:
    """The traceback, cut off: a message may have any size, and code of its own that makes it."""
    try:
        lines = [line if len(line) < MAX_LINE else f"{line[:MAX_LINE]}...\n" for line in traceback.format_exception(error)]
    except Exception:
        return "This error has no readable traceback."
    return "".join(lines)[-MAX_TRACE:]


def record(endings: Sequence[RunEnding], consequences: Consequences = on_failure.call) -> set[tuple[str, int]]:
    """Record how runs ended, in one transaction. One that never can be recorded is recorded as a failure.

    Returns the claims of the runs that wait for `consequences`, as in `lifecycle.record`: they are to be recorded again.
    Raises DBAPIError where it is the database's fault, which may pass.
    """
    try:
        recorded = lifecycle.record(endings, consequences)
    except Exception as error:
        if is_of_database(error):
            raise
        if len(endings) == 1:
            return record_failure(*endings[0].claim, error, consequences)
        return {claim for one in endings for claim in record([one], consequences)}
    for one in endings:
        if one.claim not in recorded.current | recorded.waiting:
            ignored = "The job was stopped or given to another worker, so this outcome is ignored."
            log.warning("job_overtaken", job_id=one.job_id, reason=ignored)
    return recorded.waiting


def record_or_keep(ending: RunEnding, claim: Claim) -> RunEnding | None:
    """Record how a run ended. What the ledger does not take is kept on disk: the work is done.

    Returns what to record instead where that cannot be kept and is not taken in RECORDING_S either: the run counts as an attempt.
    """
    try:
        record([ending])
    except DBAPIError:
        if not kept_outcomes.keep(ending):
            try:
                retry_until_back(lambda: record([ending]), RECORDING_S)
            except DBAPIError:
                return _unrecorded(claim)
    return None


def record_unrecorded(job_id: str, number: int, consequences: Consequences = on_failure.call) -> set[tuple[str, int]]:
    """Record that a run counts as an attempt, because its outcome could be neither recorded nor kept. Returns as `record` does."""
    claim = lifecycle.claimed(job_id, number)
    return record([_unrecorded(claim)], consequences) if claim else set()


def _unrecorded(claim: Claim) -> RunEnding:
    log.error("outcome_given_up", job_id=claim.job_id)
    job_type = registry.discover().get(claim.job.type)
    message = "The job ran, but the database did not take its outcome, and it could not be kept on disk. What it did is done."
    return lifecycle.failed(claim, Failure("unrecorded", message), job_type.backoff if job_type else registry.fixed(1))


def record_failure(job_id: str, number: int, error: Exception, consequences: Consequences = on_failure.call) -> set[tuple[str, int]]:
    """Record that an outcome cannot be recorded: a follow-up job that exists already, a value that the database refuses.

    Returns as `record` does.
    """
    claim = lifecycle.claimed(job_id, number)
    job_type = registry.discover().get(claim.job.type) if claim else None
    if claim is None or job_type is None:
        return set()
    return lifecycle.record([_failed(claim, error, job_type, "recording the result")], consequences).waiting


@contextmanager
def heartbeat(claim: Claim) -> Iterator[None]:
    """Send a heartbeat every HEARTBEAT_S seconds while the block runs, unless the parent does. Without heartbeats, a job counts as lost."""
    if not sends_heartbeats:
        yield
        return
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            try:
                lifecycle.heartbeat_each([(claim.job_id, claim.number)])
            except DatabaseAway as error:
                log.warning("heartbeat_failed", job_id=claim.job_id, error=str(error.orig))

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
