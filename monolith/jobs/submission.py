"""What submitters do: hand in documents and ask for jobs. The API and the pages call the same verbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, select

from monolith.database import reading, writing
from monolith.errors import Conflict, FieldError, Invalid, NotFound
from monolith.jobs import finding
from monolith.models import Document, Job, User
from monolith.runner import lifecycle, registry
from monolith.runner.lifecycle import Wanted
from monolith.runner.queues import PRIORITIES

MAX_DELAY_S = 30 * 24 * 3600


@dataclass(frozen=True)
class Submitted:
    """What was accepted."""

    documents: list[Document]
    jobs: list[Job]


def submit_documents(user: User, documents: list[Document], specs: list[Any], request_id: str | None = None) -> Submitted:
    """Accept new documents, each with the jobs that `specs` ask for, all or nothing.

    A spec is the name of a job type, or {type, params?, priority?, delay?}. Raises `Invalid` naming the field.
    """
    wanted = [want(spec, has_document=True, pointer=f"/jobs/{place}") for place, spec in enumerate(specs)]
    each = [replace(one, document_id=document.id) for document in documents for one in wanted]
    return Submitted(documents, lifecycle.submit(user.id, each, documents=documents, request_id=request_id))


def submit_job(user: User, spec: dict[str, Any], request_id: str | None = None) -> Job:
    """Accept one job, for a document the user may see or for none. Raises `Invalid` or `NotFound` naming the field."""
    document_id = spec.pop("document_id", None)
    if document_id is not None:
        _check_document(user, document_id)
    wanted = replace(want(spec, has_document=document_id is not None, pointer=""), document_id=document_id)
    return lifecycle.submit(user.id, [wanted], request_id=request_id)[0]


def _check_document(user: User, document_id: str) -> None:
    with reading() as session:
        try:
            finding.document(session, user, document_id)
        except NotFound:
            detail = f"You have no document {document_id[:60]!r}. Submit it first, or mend the id."
            raise NotFound(detail, errors=[FieldError(detail, "/document_id")]) from None


def want(spec: Any, *, has_document: bool, pointer: str) -> Wanted:
    """One job that is asked for, validated. Raises `Invalid` naming the field."""
    spec = {"type": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, dict) or set(spec) - {"type", "params", "priority", "delay"}:
        raise Invalid.field(pointer, "Give the name of a job type, or an object of type, params, priority and delay.")
    job_type = _job_type(spec.get("type"), pointer)
    params = job_type.load_params(spec.get("params"), has_document, f"{pointer}/params")
    return Wanted(job_type, params, priority(spec.get("priority"), pointer), delay(spec.get("delay"), pointer))


def _job_type(name: Any, pointer: str) -> registry.JobType:
    job_type = registry.find(name, f"{pointer}/type")
    if reason := job_type.unavailable_reason:
        raise Invalid.field(f"{pointer}/type", f"{job_type.name} is not available here: {reason}")
    return job_type


def priority(given: Any, pointer: str = "") -> str:
    """The priority's name; 1-3 is low, 4-6 normal, 7-9 high, 10 critical, none normal."""
    if given is None:
        return "normal"
    if isinstance(given, str) and given in PRIORITIES:
        return given
    number = int(given) if isinstance(given, str) and given.isascii() and given.isdigit() else given
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= 10:
        return "low" if number <= 3 else "normal" if number <= 6 else "high" if number <= 9 else "critical"
    raise Invalid.field(
        f"{pointer}/priority", f"{str(given)[:40]!r} is no priority. Give critical, high, normal or low, or a number 1 to 10."
    )


def delay(given: Any, pointer: str = "") -> float:
    """Seconds to wait before the job is queued."""
    if given is None:
        return 0.0
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given <= MAX_DELAY_S:
        return float(given)
    raise Invalid.field(f"{pointer}/delay", f"{str(given)[:40]!r} is no delay. Give seconds, from 0 to {MAX_DELAY_S} (30 days).")


def cancel(user: User, job_id: str) -> None:
    """End the user's job before it starts. Raises `Conflict` when it has started or is over."""
    _steer(user, job_id, lifecycle.cancel, "Only a job that waits can be cancelled; one that runs can be stopped.")


def stop(user: User, job_id: str) -> None:
    """End the user's running job. Raises `Conflict` when it does not run."""
    _steer(user, job_id, lifecycle.stop, "Only a job that runs can be stopped; one that waits can be cancelled.")


def requeue(user: User, job_id: str) -> None:
    """Start the user's failed, stopped or cancelled job again. Raises `Conflict` when it is none of these."""
    _steer(user, job_id, lifecycle.requeue, "Only a job that failed, was stopped or was cancelled can be started again.")


def _steer(user: User, job_id: str, move: Callable[[str], bool], rule: str) -> None:
    with reading() as session:
        finding.job(session, user, job_id)
    if not move(job_id):
        with reading() as session:
            status = session.scalar(select(Job.status).where(Job.id == job_id))
        raise Conflict(f"The job is {status}. {rule}")


def delete_document(user: User, document_id: str) -> None:
    """Delete a document with its jobs and their files. Raises `Conflict` while a job works on it."""
    with writing() as session:
        finding.document(session, user, document_id)
        running = session.scalar(select(Job.id).where(Job.document_id == document_id, Job.status == "started").limit(1))
        if running:
            raise Conflict(f"Job {running} is working on this document. Delete it when the job is over.")
        session.execute(delete(Document).where(Document.id == document_id))
