"""Intray's worker: `PreforkWorker` with hooks into the ledger. `manage.py worker` starts it."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import structlog
from redis import RedisError
from rq.serializers import JSONSerializer
from sqlalchemy import select
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import configure_mappers

from monolith.config import settings
from monolith.db import postgresql_session
from monolith.db.engine import get_engine, read_session
from monolith.db.models import Job
from monolith.job_types import registry
from monolith.job_types.registry import fixed
from monolith.linux.fork_lock import ForkLock
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.guarded_update import JobRecord
from monolith.runner.ledger.lifecycle import Claim, Failure
from monolith.runner.ledger.on_failure import ConfinedCalls
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.prefork import options
from monolith.runner.prefork.hooks import LATER
from monolith.runner.prefork.task import MAX_SENT, Task
from monolith.runner.prefork.worker import PreforkWorker
from monolith.runner.queue import rq_queues
from monolith.runner.worker import execute, transfer
from monolith.runner.worker.rq_message import Message, why_refused

# What job types import when they run: loaded once, shared by all children.
LLM_CLIENT = "openai.resources.chat.completions"
PRELOADED = ("docx", "lxml.html", "psycopg", "pypdf", "requests_hardened", "trafilatura")
LOCK_WAIT_S = 2.0  # how long a batch waits for a row that somebody has locked
MAX_PACKED = 256 * 1024  # bytes of an ending that go through the worker's parent

Hook = Callable[[list[Any]], Sequence[Any]]
log = structlog.get_logger()


class LedgerHooks:
    """The hooks of one worker (see `prefork.hooks.Hooks`): its hook process claims and records in the ledger, its children run."""

    why_refused = staticmethod(why_refused)

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._failing: dict[tuple[str, int], float] = {}  # endings that the ledger does not take, and since when
        self._locked: set[str] = set()  # jobs whose rows somebody else had locked
        self._on_failure = ConfinedCalls()

    def prepare(self) -> None:
        """Give a forked process Redis connections of its own, and no heartbeats: the worker sends them for all jobs."""
        rq_queues.connection.cache_clear()
        rq_queues.queue.cache_clear()
        execute.sends_heartbeats = False

    def prepare_hook_process(self) -> None:
        """A row that somebody has locked must not hold up all other jobs of the worker."""
        postgresql_session.limit_lock_waits(LOCK_WAIT_S)

    # ---- in a child

    def run(self, job_id: str, number: int, claimed: bytes) -> bytes:
        """Run a claimed job. Returns how it ended; empty when it was overtaken, or is recorded by the child itself."""
        claim = transfer.unpack_claim(claimed) if claimed else lifecycle.claimed(job_id, number)
        ending = execute.perform(claim) if claim else None
        if claim is None or ending is None:
            return b""
        packed = transfer.pack_ending(ending)
        if packed is None or len(packed) > MAX_PACKED:  # a large file would be copied twice, which must not delay the other jobs
            execute.record_until_back(ending)
            return b""
        return packed

    # ---- in the hook process

    def claim(self, job_ids: list[str]) -> list[tuple[int, bytes] | str | None]:
        """Claim jobs in one statement. None for those that are not queued, or paused."""
        return self._ask(self._claim, job_ids)

    def _claim(self, job_ids: list[str]) -> list[tuple[int, bytes] | str | None]:
        claims = {claim.job_id: claim for claim in lifecycle.claim_each(job_ids, self._worker)}
        for job_id in set(job_ids) - claims.keys():
            log.info("message_ignored", job_id=job_id)
        return [self._packed(claims.get(job_id)) for job_id in job_ids]

    @staticmethod
    def _packed(claim: Claim | None) -> tuple[int, bytes] | None:
        if claim is None:
            return None
        packed = transfer.pack_claim(claim)
        return claim.number, packed if len(packed) <= MAX_SENT else b""  # the child reads it from the ledger

    def claim_again(self, jobs: list[tuple[str, list[int]]]) -> list[tuple[int, bytes] | str | None]:
        """Claim jobs that an earlier hook process may have claimed, and died before it could say so: nobody runs those claims."""
        return self._ask(self._claim_again, jobs)

    def _claim_again(self, jobs: list[tuple[str, list[int]]]) -> list[tuple[int, bytes] | str | None]:
        lifecycle.return_each(self._lost_claims(jobs))
        answers = self._claim([job_id for job_id, _ in jobs])
        unclaimed = [job for job, answer in zip(jobs, answers, strict=True) if answer is None]
        late = {job_id for job_id, _ in self._lost_claims(unclaimed)}  # the earlier process's statement was committed only now
        return [LATER if job_id in late else answer for (job_id, _), answer in zip(jobs, answers, strict=True)]

    def _lost_claims(self, jobs: list[tuple[str, list[int]]]) -> list[tuple[str, int]]:
        """The claims of these jobs in this worker's name that it does not know of."""
        known = {(job_id, number) for job_id, numbers in jobs for number in numbers}
        return [claim for claim in lifecycle.claims_of(self._worker, [job_id for job_id, _ in jobs]) if claim not in known]

    def give_back(self, claims: list[tuple[str, int]]) -> list[Any]:
        """Queue jobs again that have not begun."""
        return self._ask(self._give_back, claims)

    def _give_back(self, claims: list[tuple[str, int]]) -> list[None]:
        lifecycle.return_each(claims)
        return [None for _ in claims]

    def record(self, endings: list[tuple[str, int, bytes]]) -> list[Any]:
        """Record how jobs ended, all in one transaction."""
        return self._ask(self._record, endings, refused=self._put_off)

    def _record(self, endings: list[tuple[str, int, bytes]]) -> list[str | None]:
        waiting = execute.record([transfer.unpack_ending(packed) for _, _, packed in endings], self._on_failure.outcome)
        for job_id, number, _ in endings:
            self._failing.pop((job_id, number), None)
        return [LATER if (job_id, number) in waiting else None for job_id, number, _ in endings]

    def _put_off(self, ending: tuple[str, int, bytes]) -> str | None:
        """Try again for RECORDING_S what the ledger does not take although it can be reached. Then the job's heartbeat ends."""
        claim = ending[:2]
        since = self._failing.setdefault(claim, time.monotonic())
        if time.monotonic() - since < execute.RECORDING_S:
            return LATER
        del self._failing[claim]
        log.error("outcome_not_recorded", job_id=claim[0])
        return None

    def heartbeat(self, claims: list[tuple[str, int]]) -> list[bool]:
        """Record that these jobs are running. Whether each is still this worker's."""
        return [bool(answer) for answer in self._ask(self._heartbeat, claims)]  # `LATER`, too: nobody else has such a job

    def _heartbeat(self, claims: list[tuple[str, int]]) -> list[bool]:
        held = set(lifecycle.heartbeat_each(claims))
        return [claim in held for claim in map(tuple, claims)]

    def lost(self, ended: list[tuple[str, int, str]]) -> list[Any]:
        """The jobs' processes died: they run again, and fail as poison after too many crashes. A `timeout` is a failed attempt."""
        return self._ask(lambda some: [self._lost(*one) for one in some], ended)

    def _lost(self, job_id: str, number: int, why: str) -> bool | str:
        if why != "timeout":
            is_current = lifecycle.interrupt(job_id, number, why, crashed=True, consequences=self._on_failure.outcome)
            return LATER if is_current is None else is_current
        if not (claim := lifecycle.claimed(job_id, number)):
            return False
        job_type = registry.discover().get(claim.job.type)
        with read_session() as session:
            step = session.scalar(select(Job.progress_note).where(Job.id == job_id))
        limit = f"{job_type.timeout} s" if job_type else "its type"
        message = f"The job exceeded its time limit of {limit} and was killed. Last step: {step or 'starting'}."
        failed = lifecycle.failed(claim, Failure("timeout", message), job_type.backoff if job_type else fixed(1))
        recorded = lifecycle.record([failed], self._on_failure.outcome)
        return LATER if recorded.waiting else bool(recorded.current)

    def interrupted(self, claims: list[tuple[str, int]]) -> list[Any]:
        """The worker stops on request: its jobs run again, elsewhere or later."""
        why = "the worker was stopped"
        return self._ask(lambda some: [lifecycle.interrupt(job_id, number, why, crashed=False) for job_id, number in some], claims)

    def stopped(self, claims: list[tuple[str, int]]) -> list[Any]:
        """RQ's own stop command ended the jobs: recorded like a stop by a user."""
        return self._ask(lambda some: [lifecycle.stopped(*claim) for claim in some], claims)

    def _ask(self, hook: Hook, asked: list[Any], refused: Callable[[Any], Any] = lambda one: LATER) -> list[Any]:
        """Call `hook` once for all that was asked. `LATER` for jobs whose rows are locked, and for all while the database is away.

        Each transition is fenced, so a repeated one changes nothing. `refused` answers for what the database does not take alone either.
        """
        try:
            if self._locked:
                self._locked = lifecycle.locked(self._locked)
            free = [one for one in asked if _job_id(one) not in self._locked]
            answers = iter(hook(free) if free else [])
        except OperationalError as error:
            return self._ask_apart(hook, asked, refused, error)
        return [LATER if _job_id(one) in self._locked else next(answers) for one in asked]

    def _ask_apart(self, hook: Hook, asked: list[Any], refused: Callable[[Any], Any], error: OperationalError) -> list[Any]:
        """Ask again without the jobs whose rows are locked, or else for each alone."""
        try:
            locked = lifecycle.locked([_job_id(one) for one in asked]) - self._locked
        except OperationalError:
            log.warning("database_away", error=str(error.orig))
            return [LATER for _ in asked]
        log.warning("ledger_refused", error=str(error.orig), locked=sorted(locked))
        if locked:
            self._locked |= locked
            return self._ask(hook, asked, refused)
        if len(asked) == 1:
            return [refused(asked[0])]
        return [answer for one in asked for answer in self._ask(hook, [one], refused)]


def _job_id(asked: Any) -> str:
    """The job's id, which is all that was asked or its first part."""
    job_id: str = asked if isinstance(asked, str) else asked[0]
    return job_id


class LedgerWorker(PreforkWorker):
    """Runs jobs in children that have the whole application loaded. Of what Redis holds, only job ids are trusted."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **{**keywords, "job_class": Message, "serializer": JSONSerializer})
        for queue in self.queues:
            queue.job_class, queue.serializer = Message, JSONSerializer
        self.hooks = LedgerHooks(self.name)
        self._turns = count(1)
        self._served: dict[str, int] = {}  # queues, and when a job was last taken from each

    def _queues_in_order(self) -> list[Any]:
        """The queues by priority; those of one priority take turns, so that a backlog in one does not hold up the others."""
        queues = super()._queues_in_order()
        priorities = [queue.name.rpartition(".")[2] for queue in queues]
        order = sorted(zip(priorities, queues, strict=True), key=lambda one: (priorities.index(one[0]), self._served.get(one[1].name, 0)))
        return [queue for _, queue in order]

    def _start_tasks(self, tasks: list[Task]) -> None:
        for task in tasks:
            self._served[task.queue.name] = next(self._turns)
        super()._start_tasks(tasks)

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
        lifecycle.heartbeat_each([("", 0)])
