"""What a worker does with a message: claim the job, run its function, record the outcome."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import structlog
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from monolith.db.engine import now, retry_until_back, write_session
from monolith.db.models import Job
from monolith.errors import Invalid, Permanent, Snooze
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.linux.processes import kill_marked
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.lifecycle import Claim, Failure
from monolith.runner.prefork.child import suspend_limit
from monolith.runner.worker.context import Overtaken, RunningJob

HEARTBEAT_S = 5.0
DATABASE_AWAY_S = 5.0  # until a job is tried again that missed the database
RECORDING_S = 60.0  # how long an outcome waits for a database that is away

beats_itself = True  # False where the parent says that its children live

log = structlog.get_logger()


class TimedOut(BaseException):
    """The attempt ran past its limit. No `except Exception` of a job type may hold it back."""


def run(job_id: str) -> None:
    """Run one job. The only function that a message ever names; a message that comes twice does nothing."""
    claim = lifecycle.claim(job_id, worker=worker_name())
    if claim is None:
        log.info("message_ignored", job_id=job_id)
        return
    if claim.number > 1:
        kill_marked(f"RQ_JOB_ID={job_id}")  # what an earlier run started here, when its worker died too suddenly to end it
    known = {"job_id": job_id, "request_id": claim.job.request_id, "type": claim.job.type, "attempt": claim.attempt}
    with structlog.contextvars.bound_contextvars(**known), heartbeat(claim):
        _attempt(claim)


def worker_name() -> str:
    """Who runs jobs here: RQ's name of the worker, or this process."""
    return os.environ.get("RQ_WORKER_ID") or f"{socket.gethostname()}:{os.getpid()}"


def _attempt(claim: Claim) -> None:
    log.info("job_started")
    job_type = registry.discover().get(claim.job.type)
    if job_type is None:
        unknown = f"The job type {claim.job.type!r} no longer exists. Submit the document with another job type."
        _record(lambda: lifecycle.fail(claim, Failure("unknown_type", unknown, permanent=True), registry.fixed(1)))
        return
    job, began = RunningJob(claim), time.monotonic()
    try:
        with time_limit(job_type.timeout):
            job.outcome.result = job_type.function(job, claim.job.params)
        if _record(lambda: lifecycle.succeed(claim, job.outcome)):
            log.info("job_finished", seconds=round(time.monotonic() - began, 3))
    except Snooze as later:
        wait = later
        log.info("job_snoozed", seconds=later.seconds, reason=str(later))
        _record(lambda: lifecycle.snooze(claim, wait.seconds, str(wait)))
    except Overtaken as overtaken:
        log.warning("job_overtaken", reason=str(overtaken))
    except OperationalError as error:  # not the job's fault: it may have read its document, or said how far it is
        log.warning("database_away", error=str(error.orig))
        _record(lambda: lifecycle.snooze(claim, DATABASE_AWAY_S, "The database was not available"))
    except (Exception, TimedOut) as error:
        _fail(claim, job_type, error, job.step)


def _fail(claim: Claim, job_type: JobType, error: BaseException, step: str) -> None:
    failure = _failure(error, job_type, step)
    log.warning("attempt_failed", error_type=failure.type, error=failure.message, permanent=failure.permanent)
    _record(lambda: lifecycle.fail(claim, failure, job_type.backoff))


def _failure(error: BaseException, job_type: JobType, step: str) -> Failure:
    trace = "".join(traceback.format_exception(error))[-20_000:]
    if isinstance(error, TimedOut):
        return Failure("timeout", f"The job exceeded its time limit of {job_type.timeout} s. Last step: {step or 'starting'}.", trace)
    if isinstance(error, Permanent):
        return Failure("permanent", str(error), trace, permanent=True)
    if isinstance(error, Invalid):
        return Failure("permanent", " ".join([error.detail, *(one.detail for one in error.errors)]), trace, permanent=True)
    return Failure(type(error).__name__, str(error) or type(error).__name__, trace)


def _record(move: Callable[[], bool]) -> bool:
    """Record an outcome; a database that is away is waited for, because the work is done and must not be lost."""
    suspend_limit()
    is_recorded = retry_until_back(move, RECORDING_S)
    if not is_recorded:
        log.warning("job_overtaken", reason="The job was stopped or given to another worker, so this outcome is ignored.")
    return is_recorded


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise `TimedOut` in the block after so many seconds, and every second from then on, in case it is swallowed."""

    if threading.current_thread() is not threading.main_thread():
        with _time_limit_of_thread(seconds):
            yield
        return
    is_armed = True

    def ring(number: int, frame: FrameType | None) -> None:
        if is_armed:
            raise TimedOut

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        try:
            yield
        finally:
            is_armed = False  # a ring between the block's end and the next line must not leave the timer running
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def _time_limit_of_thread(seconds: int) -> Iterator[None]:
    """Signals reach the main thread only: another one gets the exception when it next runs Python code."""
    thread = ctypes.c_ulong(threading.get_ident())
    guard = threading.Lock()
    is_armed = True

    def ring() -> None:
        with guard:
            if is_armed:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TimedOut))

    timer = threading.Timer(seconds, ring)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with guard:
            is_armed = False


@contextmanager
def heartbeat(claim: Claim) -> Iterator[None]:
    """Say every HEARTBEAT_S seconds that this job's worker lives; a silent one is lost, and its job runs elsewhere."""
    if not beats_itself:
        yield
        return
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(claim, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()


def _beat(claim: Claim, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT_S):
        try:
            with write_session() as session:
                session.execute(update(Job).where(*lifecycle.running(claim)).values(heartbeat_at=now()))
        except OperationalError as error:
            log.warning("heartbeat_failed", job_id=claim.job_id, error=str(error.orig))
