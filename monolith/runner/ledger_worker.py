"""The worker of Intray: `PreforkWorker`, whose jobs are rows of the ledger. `manage.py worker` starts it."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

from redis import RedisError
from rq.serializers import JSONSerializer
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import configure_mappers

from monolith.config import settings
from monolith.database import engine
from monolith.runner import holding, lifecycle, queues, registry, running
from monolith.runner.lifecycle import Claim, Failure
from monolith.runner.messages import Message, why_refused
from monolith.runner.moves import Moved
from monolith.runner.outcomes import Outcome
from monolith.runner.prefork import options
from monolith.runner.registry import fixed
from monolith.runner.worker import PreforkWorker
from monolith.turns import Turns

# What job types import when they run: loaded once, shared by all children.
LLM_CLIENT = "openai.resources.chat.completions"
PRELOADED = ("docx", "lxml.html", "psycopg", "pypdf", "requests_hardened", "trafilatura")


class Holding:
    """The hooks: what happens to a job whose process could not say it itself goes to the ledger, under the worker's name."""

    def __init__(self, worker: str) -> None:
        self._worker = worker

    def refuses(self, job_id: str, fields: dict[bytes, bytes]) -> str:
        return why_refused(job_id, fields)

    def prepare(self) -> None:
        """In every forked process: connections of its own, and no heartbeat, for the worker sends it for all."""
        queues.connection.cache_clear()
        queues.queue.cache_clear()
        running.beats_itself = False

    def heartbeat(self, job_ids: list[str]) -> set[str]:
        return holding.heartbeat(self._worker, job_ids)

    def lost(self, job_id: str, why: str) -> None:
        if why == "timeout":
            holding.timed_out(self._worker, job_id)
        else:
            holding.lost(self._worker, job_id, why)

    def interrupted(self, job_ids: list[str]) -> None:
        holding.interrupted(self._worker, job_ids)

    def stopped(self, job_id: str) -> None:
        holding.stopped(self._worker, job_id)


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
            self.log.exception("Worker %s: RQ's maintenance met something that it cannot read", self.name)

    def options(self) -> options.Options:
        self.hooks = Holding(self.name)
        return options.Options(
            concurrency=settings().worker_concurrency,
            waiting_per_child=settings().waiting_per_child,
            grace_s=settings().shutdown_grace,
            child_max_jobs=settings().child_max_jobs,
            child_max_growth=settings().child_max_growth_mb * options.MEGABYTE,
        )

    def preload(self) -> None:
        registry.discover()
        queues.turns = Turns()
        configure_mappers()
        for name in (*PRELOADED, *([LLM_CLIENT] if settings().openai_api_key else [])):
            importlib.import_module(name)
        with suppress(SQLAlchemyError):  # away: then each child does it for itself
            self._rehearse()
        engine().dispose()

    def _rehearse(self) -> None:
        """Do once, for no job, what children do for each: its statements are compiled, in memory that all of them share."""
        nobody = Claim("", 0, 1, Moved("", 0, None, "", "", "", {}, "", 1, 0, 0, 1, None))
        lifecycle.claim("", self.name)
        lifecycle.succeed(nobody, Outcome({}))
        lifecycle.fail(nobody, Failure("", "", permanent=True), fixed(1))
