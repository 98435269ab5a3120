"""A running job as its function sees it: its document, its progress, its files, what follows it and what it spent."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from functools import cached_property
from typing import Any

from sqlalchemy import insert, literal, select, update
from sqlalchemy.orm import undefer

from monolith import aliases
from monolith.db.engine import now, read_now, read_session, retry_until_back, storable, write_session
from monolith.db.models import MARK, Document, Job, JobEvent, User
from monolith.errors import Snooze
from monolith.runner.ledger import search
from monolith.runner.ledger.lifecycle import Claim, running
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.ledger.transitions import MAX_NOTE
from monolith.runner.llm import budget, cache, circuit_breaker
from monolith.runner.webhooks import delivery
from monolith.runner.webhooks.delivery import RunningDelivery
from monolith.runner.worker.report_queries import SeenLedger

FORMER_METHODS = {"once": "cached", "calling": "circuit"}
MARKING_S = 20.0  # how long a mark waits for a database that is away
QUIET_S = 0.2  # the same step is written down at most this often


class Overtaken(BaseException):
    """The job is not ours any more: it was stopped, or given to another worker. No `except Exception` may hold it back."""


class RunningDocument:
    """A document in the hands of a job."""

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
        """The readable text, extracted (and fetched, for a page) when first asked. Raises `Permanent` if there is none."""
        from monolith.content import extract_text  # heavy: only for jobs that read one

        text = extract_text.read_document(self)
        search.keep_text(self.id, text)
        return text

    def keep(self, content: bytes, media_type: str, title: str | None) -> None:
        """Store what was fetched from `source_url`; the first fetch stays, later ones change nothing."""
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
    """What `@job_type` functions get as their first argument; see `registry.Job`."""

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
        """The document this job was submitted for, read when first asked."""
        if self._claim.job.document_id is None:
            return None
        with read_session() as session:
            row = session.scalar(select(Document).where(Document.id == self._claim.job.document_id).options(undefer(Document.content)))
        return RunningDocument(row) if row else None

    @cached_property
    def owner_email(self) -> str:
        """Of who submitted it, or what it follows from."""
        with read_session() as session:
            return session.scalar(select(User.email).where(User.id == self._claim.job.owner_id)) or ""

    def __getattr__(self, name: str) -> Any:
        """Former names of methods, for job types outside this repository; until 0.10."""
        if name not in FORMER_METHODS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        aliases.warn(f"job.{name}()", f"job.{FORMER_METHODS[name]}()")
        return getattr(self, FORMER_METHODS[name])

    @cached_property
    def preview(self) -> dict[str, Any] | None:
        """What was said at once, in the answer to the submission."""
        with read_session() as session:
            return session.scalar(select(Job.preview).where(Job.id == self.id))

    def progress(self, percent: float | None, note: str) -> None:
        """Say how far the job is, 0..100 or None when unknown, and the name of the step. Raises `Overtaken`."""
        is_new_step = note != self.step
        if not is_new_step and time.monotonic() - self._written_at < QUIET_S:
            return
        self.step, self._written_at = note, time.monotonic()
        note = storable(note, 200)
        percent = None if percent is None else min(max(float(percent), 0.0), 100.0)
        with write_session() as session:
            self._update(session, progress=percent, progress_note=note, heartbeat_at=now())
            if is_new_step:
                session.execute(insert(JobEvent).values(job_id=self.id, name="progress", attempt=self.attempt, note=note))

    def attach(self, name: str, content: bytes, media_type: str) -> None:
        """Keep a file with the job; a second one of the same name replaces the first."""
        self.outcome.files = [file for file in self.outcome.files if file[0] != name]
        self.outcome.files.append((name, media_type, content))

    def follow_up(self, type: str, params: dict[str, Any], *, priority: str = "normal", delay: float = 0) -> None:
        """Submit another job for the same document when this one finishes, in the transaction of its result."""
        self.outcome.follow_up(type, params, priority, delay, self._claim.job.document_id)

    def decide(self, *, route: str, decision: str, score: int | None = None) -> None:
        """Write on the document what was decided on it, in the transaction of the result."""
        self.outcome.decide(route, decision, score)

    def delivery(self, delivery_id: str) -> RunningDelivery | None:
        """What a webhook is to be told by this job. None when it is no longer this job's to send."""
        return delivery.load(delivery_id, self.id)

    def spent(self, *, input_tokens: int, output_tokens: int, usd: Decimal) -> None:
        """Add to what this job cost at an LLM, and its owner today. Raises `Overtaken`, but not before it is written: it was
        spent, whatever becomes of the attempt and whoever has the job now.
        """
        cost = budget.Cost(input_tokens, output_tokens, usd)
        if retry_until_back(lambda: self._record(cost), MARKING_S) != ("started", self._claim.number):
            raise Overtaken(f"job {self.id} no longer belongs to this worker")

    def _record(self, cost: budget.Cost) -> Any:
        sums = {
            "input_tokens": Job.input_tokens + cost.input_tokens,
            "output_tokens": Job.output_tokens + cost.output_tokens,
            "usd": Job.usd + float(cost.usd),
        }
        with write_session() as session:
            budget.record(session, self._claim.job.owner_id, cost)
            return session.execute(update(Job).where(Job.id == self.id).values(sums).returning(Job.status, Job.claims)).first()

    def over_budget(self) -> Snooze | None:
        """Why this job may spend nothing more at an LLM today, as what parks it; see `spending`."""
        return budget.over_budget(self._claim.job.owner_id)

    def circuit(self, server: str, within_s: float) -> AbstractContextManager[None]:
        """Around one call of a server that many jobs need; see `breakers`."""
        return circuit_breaker.circuit(server, self.id, within_s)

    def mark(self, name: str, note: str, *, happened: bool = False) -> None:
        """Write a step down that must not be repeated blindly; see `registry.Job`. Raises `Overtaken`, but not before it is written
        what has happened: that is true whoever has the job now.
        """
        ours = [Job.id == self.id] if happened else running(self._claim)
        said = select(Job.id, literal(MARK + name), literal(self.attempt), literal(storable(note, MAX_NOTE))).where(*ours)
        row = insert(JobEvent).from_select(["job_id", "name", "attempt", "note"], said).returning(JobEvent.id)
        if retry_until_back(lambda: self._write(row), MARKING_S) is None:
            raise Overtaken(f"job {self.id} no longer belongs to this worker")

    def _write(self, row: Any) -> Any:
        with write_session() as session:
            return session.scalar(row)

    def marks(self) -> list[tuple[str, str]]:
        """Every mark that this job has made in any of its attempts, in order: name and note."""
        made = select(JobEvent.name, JobEvent.note).where(JobEvent.job_id == self.id, JobEvent.name.startswith(MARK))
        with read_session() as session:
            return [(name.removeprefix(MARK), note or "") for name, note in session.execute(made.order_by(JobEvent.id))]

    def cached(self, key: str, kept_s: float, made_within_s: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives for this key, or gave another job within the last `kept_s` seconds; see `answers`."""
        return cache.cached(key, kept_s, made_within_s, make)

    def clock(self) -> float:
        """Seconds since 1970 by the database's clock."""
        return read_now()

    def ledger(self, start: float, end: float, types: Sequence[str] = (), owner: str | None = None) -> SeenLedger:
        """The jobs of a period that this job's owner may see; see `registry.Job`. Raises `Permanent`."""
        return SeenLedger(self._claim.job.owner_id, self.id, start, end, types, owner)

    def _update(self, session: Any, **values: Any) -> None:
        if session.scalar(update(Job).where(*running(self._claim)).values(**values).returning(Job.id)) is None:
            raise Overtaken(f"job {self.id} no longer belongs to this worker")
