"""Submitting documents and jobs, read from top to bottom: validate each job, find jobs that already exist, accept the rest all or nothing.

The API and the pages call `submit_documents` and `submit_job`; nothing else creates jobs for a user.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from sqlalchemy import func, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import make_transient
from structlog.contextvars import bind_contextvars

from monolith import strict_json
from monolith.db.engine import now, read_connection, read_session
from monolith.db.models import LIVE, Document, Job, User, new_id
from monolith.documents import queries
from monolith.errors import Conflict, FieldError, Gone, Invalid, NotFound
from monolith.job_types import registry
from monolith.job_types.interface import HEAD, SubmittedDocument
from monolith.runner.admin import trash
from monolith.runner.ledger import admission, idempotency, lifecycle, search
from monolith.runner.ledger.batches import NewBatch
from monolith.runner.ledger.guarded_update import JobRecord
from monolith.runner.ledger.idempotency import Key
from monolith.runner.ledger.insert import APART_S, JobSpec
from monolith.runner.queue.rq_queues import PRIORITIES
from monolith.runner.webhooks import endpoints

MAX_TAGS = 20
MAX_DELAY_S = 30 * 24 * 3600
LOGGED = 20  # ids of jobs that the log line of a request names
ATTEMPTS = 3  # a submission that loses a race finds what the winner made when it tries again
JOB_IDS = uuid.UUID("5d6b5a3e-4a0e-5f0a-9c51-6f1c2f7f9c11")  # the namespace of deterministic job ids


@dataclass(frozen=True)
class Submitted:
    """The outcome of a submission: ids of all its documents and jobs, new or existing, and the rows it created.

    `is_replayed`: an earlier request with the same key created them. `is_deduplicated`: some jobs existed already.
    `documents` and `jobs` are the created rows as they were then. `webhook_secret` is set if the submission created it: it is shown
    once. `batch_id` is set if it was submitted as a batch.
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


# ---- the two entrances


def submit_documents(
    user: User,
    documents: list[Document],
    specs: list[Any],
    request_id: str | None = None,
    key: Key | None = None,
    batch: NewBatch | None = None,
) -> Submitted:
    """Accept new documents, each with the jobs in `specs`, all or nothing; as one batch if `batch` is given.

    A spec is the name of a job type, or {type, params?, priority?, delay?, unique?}. Automatic jobs of a document's kind are added.
    The caller has asked `earlier` for the key, before it read the body. Raises `Invalid` naming the field, `TooManyJobs`, `Busy`,
    and `Gone` if what the key stands for was deleted.
    """
    requested = [validated_spec(spec, user, has_document=True, pointer=f"/jobs/{place}") for place, spec in enumerate(specs)]
    if len(documents) > 1:  # lists show them in their order
        for place, document in enumerate(documents):
            document.created_at = now() + place * APART_S
    all_specs = [_for_document(one, user, document) for document in documents for one in [*requested, *_automatic(document, requested)]]
    return _accept(user, all_specs, documents, key, request_id, batch=batch)


def submit_job(user: User, spec: dict[str, Any], request_id: str | None = None, key: Key | None = None) -> Submitted:
    """Accept one job, for a document the user may see or for none.

    `spec`: {type, document_id?, webhook_url?, params?, priority?, delay?, unique?}. Raises `Invalid` or `NotFound` naming the field,
    `TooManyJobs`, `Busy`, and `Gone` if what the key stands for was deleted.
    """
    if replayed := earlier(user, key):
        return replayed
    document_id, webhook_url = spec.pop("document_id", None), spec.pop("webhook_url", None)
    if webhook_url is not None:
        endpoints.check_url(webhook_url, "/webhook_url")
    document = None if document_id is None else _document(user, document_id)
    requested = validated_spec(spec, user, has_document=document is not None, pointer="")
    return _accept(user, [_for_document(requested, user, document)], [], key, request_id, webhook_url)


def earlier(user: User, key: Key | None) -> Submitted | None:
    """What an earlier request with this key created. Raises `Gone` if that was deleted, `Invalid` for another request's key."""
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


def _document(user: User, document_id: str) -> Document:
    with read_session() as session:
        try:
            return queries.document(session, user, document_id)
        except NotFound:
            detail = f"You have no document {document_id[:60]!r}. Submit it first, or check the id."
            raise NotFound(detail, errors=[FieldError(detail, "/document_id")]) from None


# ---- validating a job


def validated_spec(spec: Any, user: User, *, has_document: bool, pointer: str) -> JobSpec:
    """A job that the user requests, validated: the name of a job type, or an object. Raises `Invalid` naming the field."""
    spec = {"type": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, dict) or set(spec) - {"type", "params", "priority", "delay", "unique"}:
        raise Invalid.field(pointer, "Give the name of a job type, or an object of type, params, priority, delay and unique.")
    job_type = registry.find(spec.get("type"), f"{pointer}/type", user=user)
    if reason := job_type.unavailable_reason:
        raise Invalid.field(f"{pointer}/type", f"{job_type.name} is not available here: {reason}")
    params = job_type.load_params(spec.get("params"), has_document, f"{pointer}/params")
    for name in () if user.is_admin else admin_params(job_type):
        if params.get(name) is not None:
            raise Invalid.field(f"{pointer}/params/{name}", f"Only admins can set {name}. Leave it out.")
    is_unique = spec.get("unique")
    if not (is_unique is None or isinstance(is_unique, bool)):
        raise Invalid.field(f"{pointer}/unique", f"{str(is_unique)[:40]!r} is neither true nor false.")
    chosen = _allowed_priority(spec.get("priority"), job_type, user, pointer)
    return JobSpec(job_type, params, chosen, delay(spec.get("delay"), pointer), is_unique=bool(is_unique))


@cache
def admin_params(job_type: registry.JobType) -> list[str]:
    """The names of the params that only admins may set: those whose field has `x-for-admins`."""
    return [name for name, one in job_type.params().fields.items() if one.metadata.get("x-for-admins")]


def _allowed_priority(given: Any, job_type: registry.JobType, user: User, pointer: str) -> str:
    """The `priority`, if the user may submit this job type with it. None is the highest allowed one where that is below normal.

    Raises `Invalid` naming the field.
    """
    chosen, allowed = priority(given, pointer), job_type.priorities_for(user)
    if chosen in allowed:
        return chosen
    if given is None:
        return allowed[0]
    detail = f"Only admins can submit {job_type.name} with priority {chosen}. Choose one of: {', '.join(allowed)}."
    raise Invalid.field(f"{pointer}/priority", detail)


def priority(given: Any, pointer: str = "") -> str:
    """The name of a priority given as name or as 1..10: 1-3 is low, 4-6 normal, 7-9 high, 10 critical; None is normal.

    Raises `Invalid` for anything else.
    """
    if given is None:
        return "normal"
    if isinstance(given, str) and given in PRIORITIES:
        return given
    number = int(given) if isinstance(given, str) and given.isascii() and given.isdigit() else given
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= 10:
        return "low" if number <= 3 else "normal" if number <= 6 else "high" if number <= 9 else "critical"
    raise Invalid.field(
        f"{pointer}/priority", f"{str(given)[:40]!r} is not a priority. Use critical, high, normal or low, or a number from 1 to 10."
    )


def delay(given: Any, pointer: str = "") -> float:
    """Seconds to wait before the job is queued; 0 for None. Raises `Invalid` for what is no number from 0 to MAX_DELAY_S."""
    if given is None:
        return 0.0
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given <= MAX_DELAY_S:
        return float(given)
    raise Invalid.field(f"{pointer}/delay", f"{str(given)[:40]!r} is not a delay. Give seconds, from 0 to {MAX_DELAY_S} (30 days).")


# ---- building the job of one document


def _automatic(document: Document, requested: list[JobSpec]) -> list[JobSpec]:
    """The automatic jobs for a document of this kind, without those of a type that is requested anyway."""
    requested_types = {one.type.name for one in requested}
    found = []
    for one in registry.discover().values():
        rule = one.automatic
        if rule and document.kind in rule.kinds and one.name not in requested_types and not one.unavailable_reason:
            found.append(JobSpec(one, one.load_params({}, has_document=True), rule.priority, rule.delay))
    return found


def _for_document(spec: JobSpec, user: User, document: Document | None) -> JobSpec:
    """The job for this document, or for none: with its id, its deduplication key and its instant preview.

    A page that is not fetched yet has no content hash, so its own id stands in for it.
    """
    content = (document.sha256 or document.id) if document else None
    handed = None
    if spec.type.preview and document:
        handed = SubmittedDocument(document.title, document.tags or [], document.media_type, _head(document))
    return replace(
        spec,
        id=_job_id(spec, user, document, content),
        document_id=document.id if document else None,
        content_key=hashlib.sha256(_canonical(user.id, spec.type.name, spec.params, content)).hexdigest(),
        preview=strict_json.finite(spec.type.preview_of(spec.params, handed)),
    )


def _job_id(spec: JobSpec, user: User, document: Document | None, content: str | None) -> str:
    """A random id; for a type with `identity`, a UUID5 that is equal for equal work of the same owner."""
    if spec.type.identity is None:
        return new_id()
    about = [document.title, document.tags or []] if document else []
    return str(uuid.uuid5(JOB_IDS, _canonical(user.id, spec.type.name, spec.type.identity(spec.params), content, about).decode()))


def _canonical(*values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, default=str).encode()


def _head(document: Document) -> bytes:
    """The first HEAD bytes of a document that is new, or was read without its content."""
    if "content" not in inspect(document).unloaded:
        return (document.content or b"")[:HEAD]
    with read_connection() as connection:
        return bytes(connection.scalar(select(func.substr(Document.content, 1, HEAD)).where(Document.id == document.id)) or b"")


# ---- accepting


def _accept(
    user: User,
    specs: list[JobSpec],
    documents: list[Document],
    key: Key | None,
    request_id: str | None,
    webhook_url: str | None = None,
    batch: NewBatch | None = None,
) -> Submitted:
    """Write documents and jobs in one transaction.

    The key is written first: a concurrent request with the same key waits there for this one, and is not counted against the limits.
    """
    batch_id = batch.id if batch else None
    for _ in range(ATTEMPTS):
        existing = _existing_jobs(user, specs)
        ids = [existing.get(one.id, one.id) for one in specs]
        job_ids = list(dict.fromkeys(ids))
        new = list({one.id: one for one in specs if one.id not in existing}.values())
        document_ids = [one.id for one in documents]
        made = {"documents": document_ids, "jobs": job_ids, **({"batch": batch_id} if batch else {})}
        first = partial(key.keep, owner_id=user.id, ids=made) if key else None
        may = partial(admission.admit, user=user, jobs=len(new))
        hooks, secret = endpoints.for_job(user, webhook_url, job_ids[0]) if webhook_url else ([], None)
        items = zip((one.document_id for one in specs), ids, strict=True)
        rows = [*documents, *map(search.entry, documents), *hooks, *([batch.row(user.id, items)] if batch else [])]
        try:
            jobs = lifecycle.submit(user.id, new, before=first, admission=may, rows=rows, request_id=request_id)
        except IntegrityError:  # another request was faster with the same key or content
            if replayed := earlier(user, key):
                return replayed
            for row in rows:  # they were rolled back: the next attempt writes them as new
                make_transient(row)
            continue
        bind_contextvars(job_ids=job_ids[:LOGGED])
        return Submitted(document_ids, job_ids, False, len(new) < len(specs), documents, jobs, secret, batch_id)
    raise Conflict("The document was deleted or changed at the same moment. Nothing was submitted. Send the request again.")


def _existing_jobs(user: User, specs: list[JobSpec]) -> dict[str, str]:
    """The existing jobs that answer some of these specs, by the ids of the specs: {spec id: job id}.

    That is a job with the same deterministic id, or, where `unique` is set, a live job of the same type and content.
    """
    existing = {one: one for one in _with_ids(user, [one.id for one in specs if one.type.identity])}
    live = _live_with_content(user, {one.content_key for one in specs if one.is_unique})
    for one in specs:
        if one.is_unique and one.id not in existing and (first := live.setdefault(one.content_key, one.id)) != one.id:
            existing[one.id] = first
    return existing


def _with_ids(user: User, ids: list[str]) -> list[str]:
    """Which of these jobs exist. One that is in the trash is restored by being requested again."""
    if not ids:
        return []
    with read_session() as session:
        found = session.execute(select(Job.id, Job.trash_id).where(Job.owner_id == user.id, Job.id.in_(ids))).all()
    if any(one.trash_id for one in found):
        trash.restore_jobs([one.id for one in found])
    return [one.id for one in found]


def _live_with_content(user: User, keys: set[str | None]) -> dict[str | None, str]:
    """The ids of the user's live jobs with these deduplication keys, by key."""
    if not keys:
        return {}
    of_content = select(Job.content_key, Job.id).where(Job.owner_id == user.id, LIVE, Job.content_key.in_(keys))
    with read_session() as session:
        return {row.content_key: row.id for row in session.execute(of_content)}
