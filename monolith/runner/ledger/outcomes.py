"""What comes of a job beside its status: its result and files, the jobs that follow, and what was decided on its document.

All of it is written in the transaction that ends the job. A job type's `on_failure` says what comes of one that failed for good.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection, insert, select, update

from monolith.db.models import Artefact, Document, User
from monolith.errors import Permanent
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.runner.ledger.insert import JobSpec, NewJob, insert_jobs
from monolith.runner.ledger.transitions import TransitionedJob

MAX_RESULT_BYTES = 1024 * 1024

log = structlog.get_logger()


@dataclass
class Outcome:
    """What a job's function gave: its result, its files (name, media type, content), the jobs that follow, the decision."""

    result: Any = None
    files: list[tuple[str, str, bytes]] = field(default_factory=list)
    follow_ups: list[JobSpec] = field(default_factory=list)
    decision: dict[str, Any] | None = None

    @property
    def is_alone(self) -> bool:
        """Whether nothing comes with the result."""
        return not self.files and not self.follow_ups and self.decision is None

    def follow_up(self, type: str, params: dict[str, Any], priority: str, delay: float, document_id: str | None) -> None:
        """Have another job follow. Raises `Invalid` for wrong params."""
        job_type = registry.find(type)
        loaded = job_type.load_params(params, has_document=document_id is not None)
        self.follow_ups.append(JobSpec(job_type, loaded, priority, delay, document_id))

    def decide(self, route: str, decision: str, score: int | None, *, is_defaulted: bool = False) -> None:
        """Have it written on the document."""
        self.decision = {"route": route, "decision": decision, "score": score, "is_defaulted": is_defaulted}

    def keep(self, connection: Connection, job: TransitionedJob) -> list[NewJob]:
        """Write it all but the result; the jobs that follow, to be pushed after the commit."""
        self._keep_files(connection, job.id)
        if self.decision and job.document_id:
            connection.execute(update(Document.__table__).where(Document.id == job.document_id).values(**self.decision))  # type: ignore[arg-type]
        return insert_jobs(connection, self.follow_ups, owner_id=job.owner_id, parent_id=job.id, request_id=job.request_id)

    def _keep_files(self, connection: Connection, job_id: str) -> None:
        rows = [
            {"job_id": job_id, "name": name, "media_type": media, "size": len(file), "content": file} for name, media, file in self.files
        ]
        if rows:
            connection.execute(insert(Artefact), rows)


def check_result(result: Any) -> None:
    """Raises `Permanent` for a result that is not an object, that JSON cannot carry, or that is larger than 1 MB."""
    if not isinstance(result, dict):
        raise Permanent(f"The job returned a {type(result).__name__}, but a result must be a dict. The job type's developer must fix this.")
    try:
        size = len(json.dumps(result, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise Permanent(f"The job's result cannot be written as JSON ({error}). The job type's developer must fix this.") from error
    if size > MAX_RESULT_BYTES:
        raise Permanent(
            f"The job's result has {size:,} bytes, over the limit of {MAX_RESULT_BYTES:,}. Its developer must attach it as a file."
        )


# ---- what comes of a failure


@dataclass
class FailedJob:
    """What `on_failure` gets; see `registry.FailedJob`."""

    id: str
    type: str
    params: dict[str, Any]
    error_type: str
    error_message: str
    document_id: str | None
    document_title: str | None
    owner_email: str
    outcome: Outcome = field(default_factory=Outcome)

    def follow_up(self, type: str, params: dict[str, Any], *, priority: str = "normal", delay: float = 0) -> None:
        self.outcome.follow_up(type, params, priority, delay, self.document_id)

    def decide(self, *, route: str, decision: str, score: int | None = None) -> None:
        self.outcome.decide(route, decision, score, is_defaulted=True)


def has_aftermath(type_name: str) -> bool:
    """Whether something comes of it when a job of this type fails for good."""
    job_type = registry.discover().get(type_name)
    return job_type is not None and job_type.on_failure is not None


def keep_aftermath(connection: Connection, job: TransitionedJob, error_type: str, error_message: str) -> list[NewJob]:
    """Write what comes of this failure, in its transaction; the jobs that follow, to be pushed after the commit."""
    job_type = registry.discover().get(job.type)
    if job_type is None or job_type.on_failure is None:
        return []
    email = connection.scalar(select(User.email).where(User.id == job.owner_id)) or ""
    title = connection.scalar(select(Document.title).where(Document.id == job.document_id)) if job.document_id else None
    failed = FailedJob(job.id, job.type, job.params, error_type, error_message, job.document_id, title, email)
    _ask(job_type, failed)
    return failed.outcome.keep(connection, job)


def _ask(job_type: JobType, failed: FailedJob) -> None:
    """A mistake in `on_failure` must not keep the job from failing: what it had asked for until then holds."""
    try:
        if job_type.on_failure:
            job_type.on_failure(failed)
    except Exception:
        log.exception("on_failure_failed", job_id=failed.id, type=failed.type)
