"""What people do with what they have handed in: name and tag it, delete it, and act on many of their documents or jobs at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select

from monolith.db.engine import storable, write_session
from monolith.db.models import Document, Job, User
from monolith.documents import queries, submission
from monolith.documents.job_spec import MAX_TAGS
from monolith.errors import Conflict, Invalid, Problem
from monolith.runner.ledger import balance, search
from monolith.runner.webhooks import endpoints

AT_ONCE = 500  # documents or jobs that one request may change: some seconds of work
ACTS = {"cancel": submission.cancel, "stop": submission.stop, "requeue": submission.requeue}


def change_document(user: User, document_id: str, **changes: Any) -> None:
    """Give a document another `title` or other `tags`."""
    with write_session() as session:
        document = queries.document(session, user, document_id)
        for name, value in changes.items():
            setattr(document, name, storable(value, 300) if name == "title" else _once_each(value))
        search.keep_names(session, document)


def add_tags(user: User, document_id: str, tags: list[str]) -> None:
    """Add tags to those that a document has. Raises `Invalid` when they are too many."""
    with write_session() as session:
        document = queries.document(session, user, document_id)
        document.tags = _once_each([*(document.tags or []), *tags])
        if len(document.tags) > MAX_TAGS:
            raise Invalid.field("/tags", f"A document has at most {MAX_TAGS} tags. Remove some first.")


def remove_tag(user: User, document_id: str, tag: str) -> None:
    """Take a tag from a document; nothing happens when it has none of this name."""
    with write_session() as session:
        document = queries.document(session, user, document_id)
        document.tags = [one for one in document.tags or [] if one != tag]


def _once_each(tags: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(storable(tag) for tag in tags))


def delete_document(user: User, document_id: str) -> None:
    """Delete a document with its jobs and their files. Raises `Conflict` while a job works on it."""
    with write_session() as session:
        queries.document(session, user, document_id)
        session.execute(select(Document.id).where(Document.id == document_id).with_for_update())  # from now on it gets no new job
        jobs = session.execute(select(Job.id, Job.status).where(Job.document_id == document_id).with_for_update()).all()
        for job_id, status in jobs:
            if status == "started":
                raise Conflict(f"Job {job_id} is running on this document. Delete the document when the job is over.")
        endpoints.delete_for_jobs(session, [job_id for job_id, _ in jobs])
        session.execute(delete(Document).where(Document.id == document_id))
        balance.record_pruned(session, len(jobs))


# ---- many at once


@dataclass(frozen=True)
class Done:
    """How many were changed, and why the others were left as they are, by their ids."""

    changed: int
    left: dict[str, str]


def delete_documents(user: User, ids: list[str]) -> Done:
    """Delete documents with their jobs. One that a job works on is left. Raises `Invalid` for too many."""
    return _each(ids, lambda one: delete_document(user, one))


def steer_jobs(user: User, act: str, ids: list[str]) -> Done:
    """Cancel, stop or requeue jobs. One whose state does not allow it is left. Raises `Invalid` for too many."""
    return _each(ids, lambda one: ACTS[act](user, one))


def _each(ids: list[str], change: Callable[[str], None]) -> Done:
    check_number(ids)
    left: dict[str, str] = {}
    for one in dict.fromkeys(ids):
        try:
            change(one)
        except Problem as problem:
            left[one] = problem.detail
    return Done(len(set(ids)) - len(left), left)


def check_number(ids: list[str]) -> None:
    """Raises `Invalid` when these are too many for one request, or none."""
    if not ids:
        raise Invalid.field("/ids", "Nothing is selected. Select at least one item.")
    if len(ids) > AT_ONCE:
        raise Invalid.field("/ids", f"{len(ids):,} items are selected; the limit is {AT_ONCE} at once. Select fewer.")
