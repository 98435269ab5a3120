"""Intray's worker: `PreforkWorker` with hooks into the ledger. `manage.py worker` starts it."""

from __future__ import annotations

import importlib
import time
from functools import cached_property
from itertools import count
from typing import Any

import structlog
from redis import RedisError
from rq.serializers import JSONSerializer
from rq.worker import DequeueStrategy
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import configure_mappers

from monolith.config import settings
from monolith.db.away import outage
from monolith.db.engine import get_engine, read_session, retry_until_back
from monolith.db.models import Job
from monolith.errors import Invalid
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
from monolith.runner.worker import execute, kept_outcomes, transfer
from monolith.runner.worker.ledger_calls import LedgerCalls, send_heartbeats
from monolith.runner.worker.recorder import Recorder
from monolith.runner.worker.rq_message import Message, why_refused

# What job types import when they run: loaded once, shared by all children.
LLM_CLIENT = "openai.resources.chat.completions"
PRELOADED = ("lxml.html", "requests_hardened", "trafilatura")
MAX_PACKED = 256 * 1024  # bytes of an ending that go through the worker's parent

WAITING = "waiting"  # for `on_failure` of its type: asked again, and not kept on disk meanwhile
log = structlog.get_logger()


class LedgerHooks:
    """The hooks of one worker (see `prefork.hooks.Hooks`): its hook process claims and records in the ledger, its children run."""

    why_refused = staticmethod(why_refused)

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._calls = LedgerCalls()
        self._failing: dict[tuple[str, int], float] = {}  # endings that neither the ledger nor the disk takes, and since when
        self._on_failure = ConfinedCalls()

    def prepare(self) -> None:
        """Give a forked process Redis connections of its own, and no heartbeats: the worker sends them for all jobs."""
        rq_queues.connection.cache_clear()
        rq_queues.queue.cache_clear()
        execute.sends_heartbeats = False

    def kept(self) -> list[tuple[str, int]]:
        """The runs whose outcomes this host keeps on disk."""
        return [one.claim for one in kept_outcomes.all_kept()]

    def prepare_hook_process(self) -> None:
        """What earlier workers have left comes first."""
        Recorder().start()

    # ---- in a child

    def run(self, job_id: str, number: int, claimed: bytes) -> bytes:
        """Run a claimed job. Returns how it ended; empty when it was overtaken, or is recorded by the child itself."""
        claim = transfer.unpack_claim(claimed) if claimed else self._large_claim(job_id, number)
        ending = execute.perform(claim) if claim else None
        if claim is None or ending is None:
            return b""
        packed = transfer.pack_ending(ending)
        if packed is None or len(packed) > MAX_PACKED:  # a large file would be copied twice, which must not delay the other jobs
            rest = execute.record_or_keep(ending, claim)
            return (rest and transfer.pack_ending(rest)) or b""
        return packed

    @staticmethod
    def _large_claim(job_id: str, number: int) -> Claim | None:
        return retry_until_back(lambda: lifecycle.claimed(job_id, number), execute.RECORDING_S)

    # ---- in the hook process

    def claim(self, job_ids: list[str]) -> list[tuple[int, bytes] | str | None]:
        """Claim jobs in one statement. None for those that are not queued, or paused."""
        return self._calls.ask(self._claim, job_ids)

    def _claim(self, job_ids: list[str]) -> list[tuple[int, bytes] | str | None]:
        kept = kept_outcomes.jobs_of_kept()
        claims = {claim.job_id: claim for claim in lifecycle.claim_each([one for one in job_ids if one not in kept], self._worker)}
        for job_id in set(job_ids) - claims.keys() - kept:
            log.info("message_ignored", job_id=job_id)
        return [LATER if job_id in kept else self._packed(claims.get(job_id)) for job_id in job_ids]

    @staticmethod
    def _packed(claim: Claim | None) -> tuple[int, bytes] | None:
        if claim is None:
            return None
        packed = transfer.pack_claim(claim)
        return claim.number, packed if len(packed) <= MAX_SENT else b""  # the child reads it from the ledger

    def claim_again(self, jobs: list[tuple[str, list[int]]]) -> list[tuple[int, bytes] | str | None]:
        """Claim jobs that an earlier hook process may have claimed, and died before it could say so: nobody runs those claims."""
        return self._calls.ask(self._claim_again, jobs)

    def _claim_again(self, jobs: list[tuple[str, list[int]]]) -> list[tuple[int, bytes] | str | None]:
        lifecycle.return_each(self._lost_claims(jobs))
        answers = self._claim([job_id for job_id, _ in jobs])
        unclaimed = [job for job, answer in zip(jobs, answers, strict=True) if answer is None]
        late = {job_id for job_id, _ in self._lost_claims(unclaimed)}  # the earlier process's statement was committed only now
        return [LATER if job_id in late else answer for (job_id, _), answer in zip(jobs, answers, strict=True)]

    def _lost_claims(self, jobs: list[tuple[str, list[int]]]) -> list[tuple[str, int]]:
        """The claims of these jobs in this worker's name that it does not know of."""
        known = {(job_id, number) for job_id, numbers in jobs for number in numbers} | {one.claim for one in kept_outcomes.all_kept()}
        return [claim for claim in lifecycle.claims_of(self._worker, [job_id for job_id, _ in jobs]) if claim not in known]

    def give_back(self, claims: list[tuple[str, int]]) -> list[Any]:
        """Queue jobs again that have not begun."""
        return self._calls.ask(self._give_back, claims)

    def _give_back(self, claims: list[tuple[str, int]]) -> list[None]:
        lifecycle.return_each(claims)
        return [None for _ in claims]

    def record(self, endings: list[tuple[str, int, bytes]]) -> list[Any]:
        """Record how jobs ended, all in one transaction. What the ledger does not take is kept on disk, for the `Recorder`."""
        answers = [LATER for _ in endings] if outage.is_on else self._calls.ask(self._record, endings, DBAPIError)
        for job_id, number, _ in (ending for ending, answer in zip(endings, answers, strict=True) if answer != LATER):
            self._failing.pop((job_id, number), None)
        return [self._keep(*ending) if answer == LATER else answer and LATER for ending, answer in zip(endings, answers, strict=True)]

    def _record(self, endings: list[tuple[str, int, bytes]]) -> list[str | None]:
        waiting: set[tuple[str, int]] = set()
        read = []
        for job_id, number, packed in endings:
            try:
                read.append(transfer.unpack_ending(packed))
            except Invalid as error:
                waiting |= execute.record_failure(job_id, number, error, self._on_failure.outcome)
        waiting |= execute.record(read, self._on_failure.outcome)
        return [WAITING if (job_id, number) in waiting else None for job_id, number, _ in endings]

    def _keep(self, job_id: str, number: int, packed: bytes) -> str | None:
        """Keep an ending on disk. Where that is not possible it is tried again for RECORDING_S; then the run counts as an attempt."""
        since = self._failing.setdefault((job_id, number), time.monotonic())
        try:
            is_kept = kept_outcomes.keep(transfer.unpack_ending(packed))
            is_early = time.monotonic() - since < execute.RECORDING_S
            if not is_kept and (is_early or execute.record_unrecorded(job_id, number, self._on_failure.outcome)):
                return LATER
        except (DBAPIError, Invalid):  # what is `Invalid` is recorded as a failure when the ledger takes it
            return LATER
        del self._failing[job_id, number]
        return None

    def heartbeat(self, claims: list[tuple[str, int]]) -> list[bool | str]:
        """Record that these jobs are running. Whether each is still this worker's."""
        return self._calls.ask(send_heartbeats, claims, DBAPIError)

    def lost(self, ended: list[tuple[str, int, str]]) -> list[Any]:
        """The jobs' processes died: they run again, and fail as poison after too many crashes. A `timeout` is a failed attempt."""
        return self._calls.ask(lambda some: [self._lost(*one) for one in some], ended)

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
        return self._calls.ask(lambda some: [lifecycle.interrupt(job_id, number, why, crashed=False) for job_id, number in some], claims)

    def stopped(self, claims: list[tuple[str, int]]) -> list[Any]:
        """RQ's own stop command ended the jobs: recorded like a stop by a user."""
        return self._calls.ask(lambda some: [lifecycle.stopped(*claim) for claim in some], claims)


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
        if self._dequeue_strategy != DequeueStrategy.DEFAULT:
            return super()._queues_in_order()
        served = self._served
        return [queue for queues in self._by_priority.values() for queue in sorted(queues, key=lambda one: served.get(one.name, 0))]

    @cached_property
    def _by_priority(self) -> dict[str, list[Any]]:
        """The queues of each priority, the most urgent first."""
        found: dict[str, list[Any]] = {}
        for queue in self._ordered_queues:
            found.setdefault(queue.name.rpartition(".")[2], []).append(queue)
        return found

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
        try:
            self._compile_statements()
            lifecycle.try_with_types(registry.discover())
        except SQLAlchemyError as error:  # each child compiles for itself
            log.warning("database_away", error=str(error))
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
