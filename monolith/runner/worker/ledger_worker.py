"""Intray's worker: `PreforkWorker` with hooks into the ledger. `manage.py worker` starts it."""

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
from monolith.runner.ledger.guarded_update import RETURNED, JobRecord
from monolith.runner.ledger.lifecycle import Claim, Failure
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.prefork import options
from monolith.runner.prefork.worker import PreforkWorker
from monolith.runner.queue import rq_queues
from monolith.runner.worker import execute
from monolith.runner.worker.rq_message import Message, why_refused

# What job types import when they run: loaded once, shared by all children.
LLM_CLIENT = "openai.resources.chat.completions"
PRELOADED = ("docx", "lxml.html", "psycopg", "pypdf", "requests_hardened", "trafilatura")


class LedgerHooks:
    """The hooks of one worker (see `prefork.hooks.Hooks`): they record in the ledger what a job's process could not record itself."""

    why_refused = staticmethod(why_refused)

    def __init__(self, worker: str) -> None:
        self._worker = worker

    def prepare(self) -> None:
        """Give a forked process Redis connections of its own, and no heartbeats: the worker sends them for all jobs."""
        rq_queues.connection.cache_clear()
        rq_queues.queue.cache_clear()
        execute.sends_heartbeats = False

    def heartbeat(self, job_ids: list[str]) -> set[str]:
        """Record that these jobs are running. Returns the ids of those that are still this worker's."""
        held = update(Job).where(*self._guard(job_ids)).values(heartbeat_at=now()).returning(Job.id)
        with write_session() as session:
            return set(session.scalars(held.execution_options(synchronize_session=False)))

    def lost(self, job_id: str, why: str) -> None:
        """The job's process died: it runs again, and fails as poison after too many crashes. A `timeout` is a failed attempt."""
        if not (claim := self._claim(job_id)):
            return
        if why != "timeout":
            lifecycle.interrupt(job_id, claim.number, why, crashed=True)
            return
        job_type = registry.discover().get(claim.job.type)
        with read_session() as session:
            step = session.scalar(select(Job.progress_note).where(Job.id == job_id))
        limit = f"{job_type.timeout} s" if job_type else "its type"
        message = f"The job exceeded its time limit of {limit} and was killed. Last step: {step or 'starting'}."
        lifecycle.fail(claim, Failure("timeout", message), job_type.backoff if job_type else fixed(1))

    def interrupted(self, job_ids: list[str]) -> None:
        """The worker stops on request: its jobs run again, elsewhere or later."""
        for job_id in job_ids:
            if claim := self._claim(job_id):
                lifecycle.interrupt(job_id, claim.number, "the worker was stopped", crashed=False)

    def stopped(self, job_id: str) -> None:
        """RQ's own stop command ended the job: recorded like a stop by a user."""
        if self._claim(job_id):
            lifecycle.stop(job_id, tell_worker=False)

    def _claim(self, job_id: str) -> Claim | None:
        """The claim under which this worker runs the job; None when it does not."""
        with read_session() as session:
            row = session.execute(select(*RETURNED).where(*self._guard([job_id]))).first()
        job = row and JobRecord(*row)
        return Claim(job_id, job.claims, job.attempt, job) if job else None

    def _guard(self, job_ids: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
        return (Job.id.in_(job_ids), Job.status == "started", Job.worker == self._worker)


class LedgerWorker(PreforkWorker):
    """Runs jobs in children that have the whole application loaded. Of what Redis holds, only job ids are trusted."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **{**keywords, "job_class": Message, "serializer": JSONSerializer})
        for queue in self.queues:
            queue.job_class, queue.serializer = Message, JSONSerializer
        self.hooks = LedgerHooks(self.name)

    def run_maintenance_tasks(self) -> None:
        """RQ's own maintenance, without ending the worker when it finds data in Redis that it cannot read."""
        try:
            super().run_maintenance_tasks()
        except RedisError:
            raise
        except Exception:
            self.log.exception("Worker %s: RQ's maintenance found data in Redis that it cannot read", self.name)

    def options(self) -> options.Options:
        return options.Options(
            concurrency=settings().worker_concurrency,
            io_bound_per_child=settings().waiting_per_child,
            grace_s=settings().shutdown_grace,
            child_max_jobs=settings().child_max_jobs,
            child_max_growth=settings().child_max_growth_mb * options.MEGABYTE,
        )

    def preload(self) -> None:
        registry.discover()
        rq_queues.push_lock = ForkLock()
        configure_mappers()
        for name in (*PRELOADED, *([LLM_CLIENT] if settings().openai_api_key else [])):
            importlib.import_module(name)
        with suppress(SQLAlchemyError):  # while the database is away, each child does it for itself
            self._compile_statements()
        get_engine().dispose()

    def _compile_statements(self) -> None:
        """Claim and record a job that does not exist: the statements are compiled once, in memory that all children share."""
        job = JobRecord(
            id="",
            owner_id=0,
            document_id=None,
            type="",
            queue="",
            priority="",
            params={},
            status="",
            attempt=1,
            claims=0,
            crashes=0,
            max_attempts=1,
            request_id=None,
        )
        claim = Claim("", 0, 1, job)
        lifecycle.claim("", self.name)
        lifecycle.succeed(claim, Outcome({}))
        lifecycle.fail(claim, Failure("", "", permanent=True), fixed(1))
