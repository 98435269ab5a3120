"""What submitters do: hand in documents and ask for jobs. The API and the pages call the same verbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import make_transient
from structlog.contextvars import bind_contextvars

from monolith.db.engine import now, read_session
from monolith.db.models import LIVE, Document, Job, User
from monolith.documents import queries
from monolith.documents.job_spec import automatic, job_spec_for, want
from monolith.errors import Conflict, FieldError, Gone, NotFound
from monolith.runner.admin import bulk_actions, trash
from monolith.runner.ledger import admission, idempotency, lifecycle, search
from monolith.runner.ledger.batches import NewBatch
from monolith.runner.ledger.idempotency import Key
from monolith.runner.ledger.insert import APART_S, JobSpec
from monolith.runner.ledger.transitions import JobRecord
from monolith.runner.webhooks import endpoints

LOGGED = 20  # ids of jobs that the log line of a request names
TRIES = 3  # a submission that loses a race finds what the winner made when it looks again


@dataclass(frozen=True)
class Submitted:
    """What stands for a submission: made by it, or by an earlier one with the same key, or in part live already.

    `documents` and `jobs` are what was made by it, as it was then. `webhook_secret` is there when it was made by it: shown once.
    `batch_id` is there when it was submitted as a batch.
    """

    document_ids: list[str]
    job_ids: list[str]
    is_replayed: bool = False
    is_deduplicated: bool = False
    documents: list[Document] = field(default_factory=list)
    jobs: list[JobRecord] = field(default_factory=list)
    webhook_secret: str | None = None
    batch_id: str | None = None

    @property
    def is_all_new(self) -> bool:
        return not (self.is_replayed or self.is_deduplicated)


def earlier(user: User, key: Key | None) -> Submitted | None:
    """What this request made when it came before. Raises `Gone` when that was deleted, `Invalid` for another request's key."""
    ids = idempotency.find(user.id, key) if key else None
    if ids is None:
        return None
    with read_session() as session:
        documents = set(session.scalars(select(Document.id).where(Document.id.in_(ids["documents"]))))
        jobs = set(session.scalars(select(Job.id).where(Job.id.in_(ids["jobs"]), Job.trash_id.is_(None))))
    if not (documents if ids["documents"] else jobs):
        raise Gone("What you submitted with this Idempotency-Key was deleted. Submit it again with a new key.")
    known = [one for one in ids["documents"] if one in documents], [one for one in ids["jobs"] if one in jobs]
    return Submitted(*known, is_replayed=True, batch_id=ids.get("batch"))


def submit_documents(
    user: User,
    documents: list[Document],
    specs: list[Any],
    request_id: str | None = None,
    key: Key | None = None,
    batch: NewBatch | None = None,
) -> Submitted:
    """Accept new documents, each with the jobs that `specs` ask for, all or nothing; as one `batch` where it is given.

    A spec is the name of a job type, or {type, params?, priority?, delay?, unique?}; to these come the jobs that a document of
    its kind gets by itself. Raises `Invalid` naming the field, `TooManyJobs` and `Busy`.
    """
    asked = [want(spec, user, has_document=True, pointer=f"/jobs/{place}") for place, spec in enumerate(specs)]
    if len(documents) > 1:  # they stand in the lists in their order
        for place, document in enumerate(documents):
            document.created_at = now() + place * APART_S
    each = [job_spec_for(one, user, document) for document in documents for one in [*asked, *automatic(document, asked)]]
    return _accept(user, each, documents, key, request_id, batch=batch)


def submit_batch(
    user: User,
    documents: list[Document],
    refused: list[dict[str, str]],
    specs: list[Any],
    request_id: str | None = None,
    key: Key | None = None,
) -> Submitted:
    """Accept several documents as one batch, which keeps what was refused of them; the jobs all or nothing, as above."""
    return submit_documents(user, documents, specs, request_id, key, NewBatch(refused))


def submit_job(user: User, spec: dict[str, Any], request_id: str | None = None, key: Key | None = None) -> Submitted:
    """Accept one job, for a document the user may see or for none.

    Raises `Invalid` or `NotFound` naming the field, `TooManyJobs` and `Busy`.
    """
    document_id, hook_url = spec.pop("document_id", None), spec.pop("webhook_url", None)
    if hook_url is not None:
        endpoints.check_url(hook_url, "/webhook_url")
    document = None if document_id is None else _document(user, document_id)
    wanted = job_spec_for(want(spec, user, has_document=document is not None, pointer=""), user, document)
    return _accept(user, [wanted], [], key, request_id, hook_url)


def _accept(
    user: User,
    wanted: list[JobSpec],
    documents: list[Document],
    key: Key | None,
    request_id: str | None,
    hook_url: str | None = None,
    batch: NewBatch | None = None,
) -> Submitted:
    """The key is first: the twin of a request that is being accepted waits there for that one, and takes up no room."""
    batch_id = batch.id if batch else None
    for _ in range(TRIES):
        standing = _standing_in(user, wanted)
        taken = [standing.get(one.id, one.id) for one in wanted]
        job_ids = list(dict.fromkeys(taken))
        new = list({one.id: one for one in wanted if one.id not in standing}.values())
        document_ids = [one.id for one in documents]
        made = {"documents": document_ids, "jobs": job_ids, **({"batch": batch_id} if batch else {})}
        first = partial(key.keep, owner_id=user.id, ids=made) if key else None
        may = partial(admission.admit, user=user, jobs=len(new))
        hooks, secret = endpoints.for_job(user, hook_url, job_ids[0]) if hook_url else ([], None)
        items = zip((one.document_id for one in wanted), taken, strict=True)
        along = [*documents, *map(search.entry, documents), *hooks, *([batch.row(user.id, items)] if batch else [])]
        try:
            jobs = lifecycle.submit(user.id, new, before=first, admission=may, rows=along, request_id=request_id)
        except IntegrityError:  # another request was faster with the same key or content
            if found := earlier(user, key):
                return found
            for row in along:  # they were written and taken back: the next try writes them anew
                make_transient(row)
            continue
        bind_contextvars(job_ids=job_ids[:LOGGED])
        return Submitted(document_ids, job_ids, False, len(new) < len(wanted), documents, jobs, secret, batch_id)
    raise Conflict("The document was deleted or changed at the same moment. Nothing was submitted. Send the request again.")


def _standing_in(user: User, wanted: list[JobSpec]) -> dict[str, str]:
    """Which jobs stand for some that are wanted, by the ids of these: the same work that is there already, or one of the same
    content that lives, where it is to be unique.
    """
    standing = {one: one for one in _there(user, [one.id for one in wanted if one.type.identity])}
    live = _live(user, {one.content_key for one in wanted if one.is_unique})
    for one in wanted:
        if one.is_unique and one.id not in standing and (first := live.setdefault(one.content_key, one.id)) != one.id:
            standing[one.id] = first
    return standing


def _there(user: User, ids: list[str]) -> list[str]:
    """Those that are there already. One in the bin comes out of it: somebody wants it again."""
    if not ids:
        return []
    with read_session() as session:
        there = session.execute(select(Job.id, Job.trash_id).where(Job.owner_id == user.id, Job.id.in_(ids))).all()
    if any(one.trash_id for one in there):
        trash.restore_jobs([one.id for one in there])
    return [one.id for one in there]


def _live(user: User, keys: set[str | None]) -> dict[str | None, str]:
    if not keys:
        return {}
    of_content = select(Job.content_key, Job.id).where(Job.owner_id == user.id, LIVE, Job.content_key.in_(keys))
    with read_session() as session:
        return {row.content_key: row.id for row in session.execute(of_content)}


def _document(user: User, document_id: str) -> Document:
    with read_session() as session:
        try:
            return queries.document(session, user, document_id)
        except NotFound:
            detail = f"You have no document {document_id[:60]!r}. Submit it first, or check the id."
            raise NotFound(detail, errors=[FieldError(detail, "/document_id")]) from None


def cancel(user: User, job_id: str) -> None:
    """End the user's job before it starts. Raises `Conflict` when it has started or is over."""
    _steer(user, job_id, lifecycle.cancel, "Only a waiting job can be cancelled. A running job can be stopped.")


def stop(user: User, job_id: str) -> None:
    """End the user's running job. Raises `Conflict` when it does not run."""
    _steer(user, job_id, lifecycle.stop, "Only a running job can be stopped. A waiting job can be cancelled.")


def requeue(user: User, job_id: str) -> None:
    """Start the user's failed, stopped or cancelled job again. Raises `Conflict` when it is none of these."""
    _steer(user, job_id, lifecycle.requeue, "Only a job that failed, was stopped or was cancelled can be retried.")


def retry_batch(user: User, batch_id: str) -> int:
    """Queue the failed jobs of the user's batch again; returns how many. Jobs with a live duplicate are skipped."""
    with read_session() as session:
        failed = [job.id for job in queries.batch(session, user, batch_id).jobs if job.status == "failed"]
    return bulk_actions.requeue_jobs(failed)


def _steer(user: User, job_id: str, move: Callable[[str], bool], rule: str) -> None:
    with read_session() as session:
        queries.job(session, user, job_id)
    if not move(job_id):
        with read_session() as session:
            status = session.scalar(select(Job.status).where(Job.id == job_id))
        raise Conflict(f"The job is {status}. {rule}")
