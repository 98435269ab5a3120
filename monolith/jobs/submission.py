"""What submitters do: hand in documents and ask for jobs. The API and the pages call the same verbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import make_transient
from structlog.contextvars import bind_contextvars

from monolith.database import now, reading
from monolith.errors import Conflict, FieldError, Gone, Invalid, NotFound
from monolith.jobs import finding
from monolith.jobs.aiming import aimed, automatic
from monolith.models import LIVE, Document, Job, User
from monolith.runner import cleaning, lifecycle, limits, registry, replays, searching
from monolith.runner.accepting import APART_S, NewJob, Wanted
from monolith.runner.batches import NewBatch
from monolith.runner.queues import PRIORITIES
from monolith.runner.replays import Key
from monolith.runner.webhooks import endpoints

MAX_DELAY_S = 30 * 24 * 3600
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
    jobs: list[NewJob] = field(default_factory=list)
    webhook_secret: str | None = None
    batch_id: str | None = None

    @property
    def is_all_new(self) -> bool:
        return not (self.is_replayed or self.is_deduplicated)


def earlier(user: User, key: Key | None) -> Submitted | None:
    """What this request made when it came before. Raises `Gone` when that was deleted, `Invalid` for another request's key."""
    ids = replays.find(user.id, key) if key else None
    if ids is None:
        return None
    with reading() as session:
        documents = set(session.scalars(select(Document.id).where(Document.id.in_(ids["documents"]))))
        jobs = set(session.scalars(select(Job.id).where(Job.id.in_(ids["jobs"]), Job.cleaning_id.is_(None))))
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
    each = [aimed(one, user, document) for document in documents for one in [*asked, *automatic(document, asked)]]
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
    wanted = aimed(want(spec, user, has_document=document is not None, pointer=""), user, document)
    return _accept(user, [wanted], [], key, request_id, hook_url)


def _accept(
    user: User,
    wanted: list[Wanted],
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
        may = partial(limits.let_in, user=user, jobs=len(new))
        hooks, secret = endpoints.for_job(user, hook_url, job_ids[0]) if hook_url else ([], None)
        items = zip((one.document_id for one in wanted), taken, strict=True)
        along = [*documents, *map(searching.entry, documents), *hooks, *([batch.row(user.id, items)] if batch else [])]
        try:
            jobs = lifecycle.submit(user.id, new, first=first, may=may, along=along, request_id=request_id)
        except IntegrityError:  # another request was faster with the same key or content
            if found := earlier(user, key):
                return found
            for row in along:  # they were written and taken back: the next try writes them anew
                make_transient(row)
            continue
        bind_contextvars(job_ids=job_ids[:LOGGED])
        return Submitted(document_ids, job_ids, False, len(new) < len(wanted), documents, jobs, secret, batch_id)
    raise Conflict("The document was deleted, or something else changed, at the same moment. Nothing was accepted; send it again.")


def _standing_in(user: User, wanted: list[Wanted]) -> dict[str, str]:
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
    with reading() as session:
        there = session.execute(select(Job.id, Job.cleaning_id).where(Job.owner_id == user.id, Job.id.in_(ids))).all()
    if any(one.cleaning_id for one in there):
        cleaning.take_out([one.id for one in there])
    return [one.id for one in there]


def _live(user: User, keys: set[str | None]) -> dict[str | None, str]:
    if not keys:
        return {}
    of_content = select(Job.content_key, Job.id).where(Job.owner_id == user.id, LIVE, Job.content_key.in_(keys))
    with reading() as session:
        return {row.content_key: row.id for row in session.execute(of_content)}


def _document(user: User, document_id: str) -> Document:
    with reading() as session:
        try:
            return finding.document(session, user, document_id)
        except NotFound:
            detail = f"You have no document {document_id[:60]!r}. Submit it first, or mend the id."
            raise NotFound(detail, errors=[FieldError(detail, "/document_id")]) from None


def want(spec: Any, user: User, *, has_document: bool, pointer: str) -> Wanted:
    """One job that the user asks for, validated. Raises `Invalid` naming the field."""
    spec = {"type": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, dict) or set(spec) - {"type", "params", "priority", "delay", "unique"}:
        raise Invalid.field(pointer, "Give the name of a job type, or an object of type, params, priority, delay and unique.")
    job_type = _job_type(spec.get("type"), user, pointer)
    params = job_type.load_params(spec.get("params"), has_document, f"{pointer}/params")
    for name in () if user.is_admin else for_admins(job_type):
        if params.get(name) is not None:
            raise Invalid.field(f"{pointer}/params/{name}", f"Only admins may give {name}. Leave it out.")
    is_unique = unique(spec.get("unique"), pointer)
    return Wanted(job_type, params, priority(spec.get("priority"), pointer), delay(spec.get("delay"), pointer), is_unique=is_unique)


@cache
def for_admins(job_type: registry.JobType) -> list[str]:
    """The params that only admins may give: those whose field says `x-for-admins`."""
    return [name for name, one in job_type.params().fields.items() if one.metadata.get("x-for-admins")]


def _job_type(name: Any, user: User, pointer: str) -> registry.JobType:
    job_type = registry.find(name, f"{pointer}/type", user=user)
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


def unique(given: Any, pointer: str = "") -> bool:
    """Whether a job of the same content that waits or runs will do."""
    if given is None or isinstance(given, bool):
        return bool(given)
    raise Invalid.field(f"{pointer}/unique", f"{str(given)[:40]!r} is neither true nor false.")


def cancel(user: User, job_id: str) -> None:
    """End the user's job before it starts. Raises `Conflict` when it has started or is over."""
    _steer(user, job_id, lifecycle.cancel, "Only a job that waits can be cancelled; one that runs can be stopped.")


def stop(user: User, job_id: str) -> None:
    """End the user's running job. Raises `Conflict` when it does not run."""
    _steer(user, job_id, lifecycle.stop, "Only a job that runs can be stopped; one that waits can be cancelled.")


def requeue(user: User, job_id: str) -> None:
    """Start the user's failed, stopped or cancelled job again. Raises `Conflict` when it is none of these."""
    _steer(user, job_id, lifecycle.requeue, "Only a job that failed, was stopped or was cancelled can be started again.")


def retry_batch(user: User, batch_id: str) -> int:
    """Start the failed jobs of the user's batch again; how many they are. One whose twin lives is left as it is."""
    with reading() as session:
        failed = [job.id for job in finding.batch(session, user, batch_id).jobs if job.status == "failed"]
    return sum(_requeued(job_id) for job_id in failed)


def _requeued(job_id: str) -> bool:
    try:
        return lifecycle.requeue(job_id)
    except IntegrityError:  # asked for as unique, and one of the same content waits or runs: that one will do
        return False


def _steer(user: User, job_id: str, move: Callable[[str], bool], rule: str) -> None:
    with reading() as session:
        finding.job(session, user, job_id)
    try:
        moved = move(job_id)
    except IntegrityError:  # requeue is the one move that makes a job live again
        raise Conflict("A job of the same type and content, asked for as unique, waits or runs already. Wait for that one.") from None
    if not moved:
        with reading() as session:
            status = session.scalar(select(Job.status).where(Job.id == job_id))
        raise Conflict(f"The job is {status}. {rule}")
