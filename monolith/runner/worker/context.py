"""The objects that a job function works with: the running job and its document. They implement `job_types.interface`."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from functools import cached_property
from typing import Any

import structlog
from sqlalchemy import insert, literal, select, update
from sqlalchemy.orm import undefer

from monolith import aliases
from monolith.db.away import DatabaseAway, is_locked
from monolith.db.engine import read_now, read_session, retry_until_back, storable, write_session
from monolith.db.models import MARK, Document, Job, JobEvent, User
from monolith.errors import Snooze
from monolith.job_types.interface import Delivery
from monolith.runner.ledger import search
from monolith.runner.ledger.guarded_update import MAX_NOTE
from monolith.runner.ledger.lifecycle import HEARTBEAT, Claim, running
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.llm import budget, cache, call_rates, circuit_breaker
from monolith.runner.webhooks import delivery
from monolith.runner.webhooks.delivery import RunningDelivery
from monolith.runner.worker.report_queries import VisibleLedger

MARKING_S = 20.0  # how long a mark or a cost waits for a database that is away
QUIET_S = 0.2  # between two writes of the progress within one step

log = structlog.get_logger()


class Overtaken(BaseException):
    """The job is no longer this worker's: it was stopped, or given to another worker.

    Derived from BaseException, so that no `except Exception` of a job type catches it.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} no longer belongs to this worker")


class RunningDocument:
    """The document of a running job."""

    def __init__(self, row: Document) -> None:
        self.id = row.id
        self.title = row.title
        self.kind = row.kind
        self.tags = row.tags
        self.media_type = row.media_type
        self.filename = row.filename
        self.source_url = row.source_url
        self.content = row.content

    @cached_property
    def text(self) -> str:
        """The readable text. The first access extracts it, and fetches a page first. Raises `Permanent` if there is none."""
        from monolith.content import extract_text  # heavy: only for jobs that read one

        text = extract_text.read_document(self)
        search.keep_text(self.id, text)
        return text

    def keep(self, content: bytes, media_type: str, title: str | None) -> None:
        """Store what was fetched from `source_url`. The first fetch counts: later ones store nothing."""
        self.content, self.media_type = content, media_type
        self.title = title or self.title
        fetched = {"content": content, "media_type": media_type[:100], "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if title:
            fetched["title"] = storable(title, 300)
        first = update(Document).where(Document.id == self.id, Document.content.is_(None)).values(**fetched).returning(Document.id)
        with write_session() as session:
            if session.scalar(first):
                search.keep_names(session, self)


class RunningJob:
    """The first argument of a job function. `outcome` collects what is stored with the result; `step` is the last reported step."""

    def __init__(self, claim: Claim) -> None:
        self.id = claim.job_id
        self.type = claim.job.type
        self.attempt = claim.attempt
        self.outcome = Outcome()
        self._claim = claim
        self.step = ""
        self._written_at = 0.0

    @cached_property
    def document(self) -> RunningDocument | None:
        """The document that this job was submitted for. Read at the first access."""
        if self._claim.job.document_id is None:
            return None
        with read_session() as session:
            row = session.scalar(select(Document).where(Document.id == self._claim.job.document_id).options(undefer(Document.content)))
        return RunningDocument(row) if row else None

    @cached_property
    def owner_email(self) -> str:
        """The e-mail of who submitted the job, or the job that it follows. Read at the first access."""
        with read_session() as session:
            return session.scalar(select(User.email).where(User.id == self._claim.job.owner_id)) or ""

    @cached_property
    def preview(self) -> dict[str, Any] | None:
        """What the type's preview function returned at the submission. Read at the first access."""
        with read_session() as session:
            return session.scalar(select(Job.preview).where(Job.id == self.id))

    def progress(self, percent: float | None, note: str) -> None:
        """Report progress: 0 to 100, or None while unknown, and the name of the step. Raises `Overtaken`."""
        is_new_step = note != self.step
        if not is_new_step and time.monotonic() - self._written_at < QUIET_S:
            return
        self.step, self._written_at = note, time.monotonic()
        note = storable(note, 200)
        percent = None if percent is None else _percentage(float(percent))
        try:
            self._write_progress(percent, note, is_new_step)
        except DatabaseAway as error:
            if not is_locked(error):
                raise
            log.warning("progress_not_written", job_id=self.id, error=str(error.orig))  # not worth waiting for, or ending the run

    def _write_progress(self, percent: float | None, note: str, is_new_step: bool) -> None:
        values = {"progress": percent, "progress_note": note, **HEARTBEAT}
        with write_session() as session:
            if session.scalar(update(Job).where(*running(self._claim)).values(**values).returning(Job.id)) is None:
                raise Overtaken(self.id)
            if is_new_step:
                session.execute(insert(JobEvent).values(job_id=self.id, name="progress", attempt=self.attempt, note=note))

    def attach(self, name: str, content: bytes, media_type: str) -> None:
        """Attach a file to the result; it replaces one with the same name. Raises `Permanent` for one that cannot be stored."""
        self.outcome.attach(name, content, media_type)

    def follow_up(self, type: str, params: dict[str, Any], *, priority: str = "normal", delay: float = 0) -> None:
        """Submit another job for the same document when this one finishes, in the transaction of the result. `delay` in seconds."""
        self.outcome.follow_up(type, params, priority, delay, self._claim.job.document_id)

    def decide(self, *, route: str, decision: str, score: int | None = None) -> None:
        """Record a decision on the document, in the transaction of the result."""
        self.outcome.decide(route, decision, score)

    def deliveries(self) -> list[RunningDelivery]:
        """The webhook deliveries that this job sends. Those that it has recorded are not among them."""
        return delivery.load(self.id)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Let these webhook deliveries, which this job has not begun to send, be sent by another."""
        delivery.give_back(self.id, [one.id for one in deliveries])

    def spent(self, *, input_tokens: int, output_tokens: int, usd: Decimal) -> None:
        """Add to the LLM cost of this job and of its owner today. Raises `Overtaken`, but only after recording: the money is spent."""
        if not math.isfinite(usd):
            raise ValueError(f"spent() got usd={usd}. Give the cost of the call as a finite number.")
        cost = budget.Cost(input_tokens, output_tokens, usd)
        sums = {
            "input_tokens": Job.input_tokens + cost.input_tokens,
            "output_tokens": Job.output_tokens + cost.output_tokens,
            "usd": Job.usd + float(cost.usd),
        }
        add = update(Job).where(Job.id == self.id).values(sums).returning(Job.status, Job.claims)

        def record() -> Any:
            with write_session() as session:
                budget.record(session, self._claim.job.owner_id, cost)
                return session.execute(add).first()

        if retry_until_back(record, MARKING_S) != ("started", self._claim.number):
            raise Overtaken(self.id)

    def over_budget(self) -> Snooze | None:
        """The `Snooze` to raise when a daily LLM budget is used up; None while there is some left."""
        return budget.over_budget(self._claim.job.owner_id)

    def use_rates(self, costs: call_rates.Costs) -> None:
        """Charge a call to rates that all jobs share; see `job_types.interface.Job.use_rates`. Raises `Snooze`."""
        call_rates.use(self.id, costs)

    def correct_rates(self, costs: call_rates.Costs) -> None:
        """Charge what a call has cost more than was charged before it."""
        retry_until_back(lambda: call_rates.correct(costs), MARKING_S)

    def circuit(self, server: str, within_s: float) -> AbstractContextManager[None]:
        """A circuit breaker around one call of a server; see `job_types.interface.Job.circuit`."""
        return circuit_breaker.circuit(server, self.id, within_s)

    def mark(self, name: str, note: str, *, happened: bool = False) -> None:
        """Record a step that must not be repeated blindly; see `job_types.interface.Job.mark`.

        Raises `Overtaken` and records nothing when the job is no longer ours; with `happened`, it is recorded even then.
        """
        guard = [Job.id == self.id] if happened else running(self._claim)
        event = select(Job.id, literal(MARK + name), literal(self.attempt), literal(storable(note, MAX_NOTE))).where(*guard)
        row = insert(JobEvent).from_select(["job_id", "name", "attempt", "note"], event).returning(JobEvent.id)

        def write() -> Any:
            with write_session() as session:
                return session.scalar(row)

        if retry_until_back(write, MARKING_S) is None:
            raise Overtaken(self.id)

    def marks(self) -> list[tuple[str, str]]:
        """Name and note of every mark of this job, from all its attempts, in order."""
        made = select(JobEvent.name, JobEvent.note).where(JobEvent.job_id == self.id, JobEvent.name.startswith(MARK))
        with read_session() as session:
            return [(name.removeprefix(MARK), note or "") for name, note in session.execute(made.order_by(JobEvent.id))]

    def cached(self, key: str, kept_s: float, made_within_s: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The cached value of `make()` for this key; see `job_types.interface.Job.cached`."""
        return cache.cached(key, kept_s, made_within_s, make)

    def once(self, key: str, kept_s: float, made_within_s: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The name of `cached` until 0.9; until 0.10."""
        aliases.warn("job.once()", "job.cached()")
        return self.cached(key, kept_s, made_within_s, make)

    def calling(self, server: str, within_s: float) -> AbstractContextManager[None]:
        """The name of `circuit` until 0.9; until 0.10."""
        aliases.warn("job.calling()", "job.circuit()")
        return self.circuit(server, within_s)

    def clock(self) -> float:
        """The database's time, in seconds since 1970."""
        return read_now()

    def ledger(self, start: float, end: float, types: Sequence[str] = (), owner: str | None = None) -> VisibleLedger:
        """The jobs of a period that this job's owner may see; see `job_types.interface.Job.ledger`. Raises `Permanent`."""
        return VisibleLedger(self._claim.job.owner_id, self.id, start, end, types, owner)


def _percentage(percent: float) -> float | None:
    """The percentage within 0 to 100; None, which means unknown, for what is no number: it must not cost the job its work."""
    if math.isfinite(percent):
        return min(max(percent, 0.0), 100.0)
    log.warning("progress_not_a_number", progress=str(percent), fix="Call progress() with 0 to 100, or None while the total is unknown.")
    return None
