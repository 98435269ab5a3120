"""What users do with what they submitted: rename, tag and delete documents; cancel, stop and retry jobs; one or many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import delete, select

from monolith.db.engine import read_session, storable, write_session
from monolith.db.models import Document, Job, User
from monolith.documents import queries
from monolith.documents.submission import MAX_TAGS
from monolith.errors import Busy, Conflict, Invalid, Problem, TooManyJobs
from monolith.runner.admin import bulk_actions
from monolith.runner.admin.deletion import delete_jobs
from monolith.runner.ledger import admission, lifecycle, search

MAX_SELECTED = 500  # documents or jobs that one request may change: some seconds of work


# ---- documents


def change_document(user: User, document_id: str, **changes: Any) -> None:
    """Set the `title` or the `tags` of a document. Raises `NotFound`."""
    with write_session() as session:
        document = queries.document(session, user, document_id)
        for name, value in changes.items():
            setattr(document, name, storable(value, 300) if name == "title" else _distinct(value))
        search.keep_names(session, document)


def add_tags(user: User, document_id: str, tags: list[str]) -> None:
    """Add tags to those of a document. Raises `NotFound`, and `Invalid` for more than MAX_TAGS in all."""
    with write_session() as session:
        document = queries.document(session, user, document_id)
        document.tags = _distinct([*(document.tags or []), *tags])
        if len(document.tags) > MAX_TAGS:
            raise Invalid.field("/tags", f"A document has at most {MAX_TAGS} tags. Remove some first.")


def remove_tag(user: User, document_id: str, tag: str) -> None:
    """Remove a tag from a document; does nothing if it has no such tag. Raises `NotFound`."""
    with write_session() as session:
        document = queries.document(session, user, document_id)
        document.tags = [one for one in document.tags or [] if one != tag]


def _distinct(tags: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(storable(tag) for tag in tags))


def delete_document(user: User, document_id: str) -> None:
    """Delete a document with its jobs and their files. Raises `NotFound`, and `Conflict` while a job runs on it."""
    with write_session() as session:
        queries.document(session, user, document_id)
        session.execute(select(Document.id).where(Document.id == document_id).with_for_update())  # from now on it gets no new job
        jobs = session.execute(select(Job.id, Job.status).where(Job.document_id == document_id).with_for_update()).all()
        for job_id, status in jobs:
            if status == "started":
                raise Conflict(f"Job {job_id} is running on this document. Delete the document when the job is over.")
        delete_jobs(session, Job.document_id == document_id)
        session.execute(delete(Document).where(Document.id == document_id))


# ---- jobs


RETRYABLE = "Only a job that failed, was stopped or was cancelled can be retried."


def cancel(user: User, job_id: str) -> None:
    """Cancel the user's job before it starts. Raises `NotFound`, and `Conflict` when it has started or is over."""
    _check_visible(user, job_id)
    _change_status(job_id, lifecycle.cancel, "Only a waiting job can be cancelled. A running job can be stopped.")


def stop(user: User, job_id: str) -> None:
    """Stop the user's running job. Raises `NotFound`, and `Conflict` when it is not running."""
    _check_visible(user, job_id)
    _change_status(job_id, lifecycle.stop, "Only a running job can be stopped. A waiting job can be cancelled.")


def requeue(user: User, job_id: str) -> None:
    """Queue the user's failed, stopped or cancelled job again: it is the same job, so it keeps its priority.

    Raises `NotFound`, `Conflict` when it is none of these, and `TooManyJobs` or `Busy` as a submission does.
    """
    status = _check_visible(user, job_id)
    if status not in bulk_actions.REQUEUEABLE:  # it takes up no room
        raise Conflict(f"The job is {status}. {RETRYABLE}")
    _change_status(job_id, partial(lifecycle.requeue, admission=partial(admission.admit_again, user)), RETRYABLE)


JOB_ACTIONS = {"cancel": cancel, "stop": stop, "requeue": requeue}


def _check_visible(user: User, job_id: str) -> str:
    """The status of the user's job. Raises `NotFound`."""
    with read_session() as session:
        return queries.job(session, user, job_id).status


def _change_status(job_id: str, transition: Callable[[str], bool], rule: str) -> None:
    if not transition(job_id):
        with read_session() as session:
            status = session.scalar(select(Job.status).where(Job.id == job_id))
        raise Conflict(f"The job is {status}. {rule}")


# ---- many at once


@dataclass(frozen=True)
class BulkResult:
    """How many items were changed, and why each of the others was skipped, by id."""

    changed: int
    skipped: dict[str, str]


def delete_documents(user: User, ids: list[str]) -> BulkResult:
    """Delete documents with their jobs; those with a running job are skipped. Raises `Invalid` for none or too many."""
    check_selection(ids)
    return _each(ids, lambda one: delete_document(user, one))


def retry_batch(user: User, batch_id: str) -> BulkResult:
    """Queue the failed jobs of the user's batch again, as many as the limits on jobs allow. A unique job with a live duplicate is left.

    Raises `NotFound`.
    """
    with read_session() as session:
        failed = [job.id for job in queries.batch(session, user, batch_id).jobs if job.status == "failed"]
    skipped: dict[str, str] = {}
    while True:
        try:
            return BulkResult(bulk_actions.requeue_jobs(failed, admission=partial(admission.admit_again, user)), skipped)
        except (TooManyJobs, Busy) as refusal:
            room = admission.room_for(user, len(failed) - 1)
            skipped |= dict.fromkeys(failed[room:], refusal.detail)
            failed = failed[:room]


def change_jobs(user: User, action: str, ids: list[str]) -> BulkResult:
    """Cancel, stop or requeue jobs; those whose status does not allow it, or for which there is no room, are skipped.

    `action`: a name in JOB_ACTIONS. Raises `Invalid` for none or too many.
    """
    check_selection(ids)
    return _each(ids, lambda one: JOB_ACTIONS[action](user, one))


def check_selection(ids: list[str]) -> None:
    """Raises `Invalid` for no ids, or more than MAX_SELECTED."""
    if not ids:
        raise Invalid.field("/ids", "Nothing is selected. Select at least one item.")
    if len(ids) > MAX_SELECTED:
        raise Invalid.field("/ids", f"{len(ids):,} items are selected; the limit is {MAX_SELECTED} at once. Select fewer.")


def _each(ids: list[str], change: Callable[[str], None]) -> BulkResult:
    skipped: dict[str, str] = {}
    for one in dict.fromkeys(ids):
        try:
            change(one)
        except Problem as problem:
            skipped[one] = problem.detail
    return BulkResult(len(set(ids)) - len(skipped), skipped)
