"""The worker of Intray: `PreforkWorker`, whose jobs are rows of the ledger. `manage.py worker` starts it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis import RedisError
from rq.serializers import JSONSerializer
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import configure_mappers

from monolith.config import settings
from monolith.db.engine import get_engine, now, read_session, write_session
from monolith.db.models import Job
from monolith.job_types import registry
from monolith.job_types.registry import fixed
from monolith.linux.fork_lock import ForkLock
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.lifecycle import Claim, Failure
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.ledger.transitions import RETURNED, JobRecord
from monolith.runner.prefork import options
from monolith.runner.prefork.worker import PreforkWorker
from monolith.runner.queue import rq_queues
from monolith.runner.worker import execute
from monolith.runner.worker.rq_message import Message, why_refused

# What job types import when they run: loaded once, shared by all children.
LLM_CLIENT = "openai.resources.chat.completions"
PRELOADED = ("docx", "lxml.html", "psycopg", "pypdf", "requests_hardened", "trafilatura")


class LedgerHooks:
    """The hooks: what happens to a job whose process could not say it itself goes to the ledger, under the worker's name."""

    def __init__(self, worker: str) -> None:
        self._worker = worker

    def refuses(self, job_id: str, fields: dict[bytes, bytes]) -> str:
        return why_refused(job_id, fields)

    def prepare(self) -> None:
        """In every forked process: connections of its own, and no heartbeat, for the worker sends it for all."""
        rq_queues.connection.cache_clear()
        rq_queues.queue.cache_clear()
        execute.beats_itself = False

    def heartbeat(self, job_ids: list[str]) -> set[str]:
        return heartbeat(self._worker, job_ids)

    def lost(self, job_id: str, why: str) -> None:
        if why == "timeout":
            timed_out(self._worker, job_id)
        else:
            lost(self._worker, job_id, why)

    def interrupted(self, job_ids: list[str]) -> None:
        interrupted(self._worker, job_ids)

    def stopped(self, job_id: str) -> None:
        stopped(self._worker, job_id)


class LedgerWorker(PreforkWorker):
    """Several jobs at once, in children that have the whole application loaded. It believes nothing of Redis but ids."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "job_class": Message, "serializer": JSONSerializer})
        for queue in self.queues:
            queue.job_class, queue.serializer = Message, JSONSerializer

    def run_maintenance_tasks(self) -> None:
        """RQ's own. Something in Redis that it cannot read must not end the worker."""
        try:
            super().run_maintenance_tasks()
        except RedisError:
            raise
        except Exception:
            self.log.exception("Worker %s: RQ's maintenance found data in Redis that it cannot read", self.name)

    def options(self) -> options.Options:
        self.hooks = LedgerHooks(self.name)
        return options.Options(
            concurrency=settings().worker_concurrency,
            waiting_per_child=settings().waiting_per_child,
            grace_s=settings().shutdown_grace,
            child_max_jobs=settings().child_max_jobs,
            child_max_growth=settings().child_max_growth_mb * options.MEGABYTE,
        )

    def preload(self) -> None:
        registry.discover()
        rq_queues.turns = ForkLock()
        configure_mappers()
        for name in (*PRELOADED, *([LLM_CLIENT] if settings().openai_api_key else [])):
            importlib.import_module(name)
        with suppress(SQLAlchemyError):  # away: then each child does it for itself
            self._rehearse()
        get_engine().dispose()

    def _rehearse(self) -> None:
        """Do once, for no job, what children do for each: its statements are compiled, in memory that all of them share."""
        nobody = Claim("", 0, 1, JobRecord("", 0, None, "", "", "", {}, "", 1, 0, 0, 1, None))
        lifecycle.claim("", self.name)
        lifecycle.succeed(nobody, Outcome({}))
        lifecycle.fail(nobody, Failure("", "", permanent=True), fixed(1))


def heartbeat(worker: str, job_ids: Sequence[str]) -> set[str]:
    """Say that these jobs are being run; the ids of those that this worker still holds."""
    held = update(Job).where(*_held(worker, job_ids)).values(heartbeat_at=now()).returning(Job.id)
    with write_session() as session:
        return set(session.scalars(held.execution_options(synchronize_session=False)))


def lost(worker: str, job_id: str, why: str) -> None:
    """The child died: the job runs again, and is poison when that happens too often."""
    if claim := _claim(worker, job_id):
        lifecycle.interrupt(job_id, claim.number, why, crashed=True)


def interrupted(worker: str, job_ids: Sequence[str]) -> None:
    """The worker stops on request: its jobs run again, elsewhere or later."""
    for job_id in job_ids:
        if claim := _claim(worker, job_id):
            lifecycle.interrupt(job_id, claim.number, "the worker was stopped", crashed=False)


def stopped(worker: str, job_id: str) -> None:
    """RQ's own stop command ended the child: the same as a person's stop."""
    if _claim(worker, job_id):
        lifecycle.stop(job_id, tell_worker=False)


def timed_out(worker: str, job_id: str) -> None:
    """The child ran past its limit and had to be killed: an attempt that failed."""
    if claim := _claim(worker, job_id):
        job_type = registry.discover().get(claim.job.type)
        seconds = f"{job_type.timeout} s" if job_type else "its type"
        message = f"The job exceeded its time limit of {seconds} and was killed. Last step: {_step(job_id) or 'starting'}."
        lifecycle.fail(claim, Failure("timeout", message), job_type.backoff if job_type else registry.fixed(1))


def _step(job_id: str) -> str | None:
    with read_session() as session:
        return session.scalar(select(Job.progress_note).where(Job.id == job_id))


def _claim(worker: str, job_id: str) -> Claim | None:
    with read_session() as session:
        row = session.execute(select(*RETURNED).where(*_held(worker, [job_id]))).first()
    job = row and JobRecord(*row)
    return Claim(job_id, job.claims, job.attempt, job) if job else None


def _held(worker: str, job_ids: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
    return (Job.id.in_(job_ids), Job.status == "started", Job.worker == worker)
