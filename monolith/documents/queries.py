"""What a user may see: documents, jobs, files, batches and webhooks, one or a page of them. Every query is by owner; admins see all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, Text, and_, bindparam, cast, exists, false, func, select, tuple_
from sqlalchemy.orm import Session, defer, selectinload, undefer

from monolith.db.models import STATUSES, Artefact, Document, Job, User
from monolith.errors import FieldError, Invalid, NotFound
from monolith.job_types import registry
from monolith.runner.ledger import batches as of_batches
from monolith.runner.ledger import search
from monolith.runner.ledger.batches import Batch, BatchProgress
from monolith.runner.webhooks import endpoints
from monolith.runner.webhooks.models import Delivery, Webhook

MAX_SEARCH = 300  # characters of a search
Row = TypeVar("Row", Document, Job, Batch, Webhook, Delivery)


@dataclass(frozen=True)
class ListPage:
    """Some rows, newest first, and whether older ones follow."""

    rows: list[Any]
    has_more: bool


def document(session: Session, user: User, document_id: str) -> Document:
    """The document with its jobs and their files. Raises `NotFound`, also for other users' documents."""
    row = session.scalar(
        select(Document).where(Document.id == document_id).options(selectinload(Document.jobs).selectinload(Job.artefacts))
    )
    if row is None or not row.may_be_seen_by(user):
        raise NotFound(f"You have no document {document_id[:60]!r}.")
    return row


def job(session: Session, user: User, job_id: str) -> Job:
    """The job with its document, result and files. Raises `NotFound`, also for other users' jobs and those in the trash."""
    row = session.scalar(
        select(Job)
        .where(Job.id == job_id, Job.trash_id.is_(None))
        .options(undefer(Job.result), selectinload(Job.artefacts), selectinload(Job.document))
    )
    if row is None or not row.may_be_seen_by(user):
        raise NotFound(f"You have no job {job_id[:60]!r}.")
    return row


def artefact(session: Session, user: User, job_id: str, name: str) -> Artefact:
    """One file of a job, with its content. Raises `NotFound`."""
    job(session, user, job_id)
    row = session.scalar(select(Artefact).where(Artefact.job_id == job_id, Artefact.name == name).options(undefer(Artefact.content)))
    if row is None:
        raise NotFound(f"The job has no file {name[:60]!r}.")
    return row


def documents(session: Session, user: User, limit: int, starting_after: str | None = None, **filters: str | None) -> ListPage:
    """A page of the user's documents with their jobs.

    `filters`: words to search for (`q`), `kind`, `tag`, `sha256`, and `status` or `type` of any of their jobs. Raises `Invalid`.
    """
    query = _documents_of(user, filters).options(selectinload(Document.jobs).selectinload(Job.artefacts))
    return _page(session, query, Document, limit, starting_after, user)


def document_ids(session: Session, user: User, limit: int, **filters: str | None) -> list[str]:
    """The ids of the newest documents that match the filters of `documents`."""
    newest = _documents_of(user, filters).with_only_columns(Document.id).order_by(Document.created_at.desc(), Document.id.desc())
    return list(session.scalars(newest.limit(limit)))


def _documents_of(user: User, filters: dict[str, str | None]) -> Select[Any]:
    given = {name: value for name, value in filters.items() if value}
    of_jobs = {name: given.pop(name) for name in ("status", "type") if name in given}
    query = _owned(select(Document), Document, user).where(*_about(given))
    if of_jobs:
        _check_status(of_jobs.get("status"))
        query = query.where(
            exists().where(Job.document_id == Document.id, *(getattr(Job, name) == value for name, value in of_jobs.items()))
        )
    return query


def _about(given: dict[str, Any]) -> list[ColumnElement[bool]]:
    """The conditions on documents: kind, content hash, tag and words."""
    of_column = [getattr(Document, name) == given[name] for name in ("kind", "sha256") if name in given]
    if "tag" in given:
        of_column.append(search.has_tag(Document.tags, given["tag"]))
    return [*of_column, *([search.found_by(given["q"], Document.id)] if "q" in given else [])]


def firsts(session: Session | Connection, documents: Iterable[Document]) -> dict[str, str]:
    """The first documents with the same content: {document id: id of the owner's first}, without documents that are the first."""
    ids = [one.id for one in documents if one.sha256]
    found = session.execute(_firsts(), {"ids": ids}) if ids else ()
    return {document_id: first_id for document_id, first_id in found if first_id != document_id}


@cache
def _firsts() -> Select[Any]:
    """Built once: each submission runs it."""
    given: Any = Document.__table__
    other = given.alias()
    same = (other.c.owner_id == given.c.owner_id, other.c.sha256 == given.c.sha256)
    first = select(other.c.id).where(*same).order_by(other.c.created_at, other.c.id).limit(1).scalar_subquery()
    return select(given.c.id, first).where(given.c.id.in_(bindparam("ids", expanding=True)))


def jobs(session: Session, user: User, limit: int, starting_after: str | None = None, **filters: str | None) -> ListPage:
    """A page of the user's jobs with their documents and files, without results.

    `filters`: `status`, `type`, `document_id`, `kind` and `tag` of the document, and words (`q`) of the document, or of the params of a
    job without one. Internal jobs are left out unless their type is given. Raises `Invalid`.
    """
    query = _jobs_of(user, filters).options(defer(Job.result), selectinload(Job.artefacts), selectinload(Job.document))
    return _page(session, query, Job, limit, starting_after, user)


def job_ids(session: Session, user: User, limit: int, **filters: str | None) -> list[str]:
    """The ids of the newest jobs that match the filters of `jobs`."""
    newest = _jobs_of(user, filters).with_only_columns(Job.id).order_by(Job.created_at.desc(), Job.id.desc())
    return list(session.scalars(newest.limit(limit)))


def _jobs_of(user: User, filters: dict[str, str | None]) -> Select[Any]:
    given = {name: value for name, value in filters.items() if value}
    _check_status(given.get("status"))
    query = _owned(select(Job).where(Job.trash_id.is_(None)), Job, user)
    internal = registry.internal_types()
    if internal and "type" not in given:
        query = query.where(Job.type.not_in(internal))
    query = query.where(*(getattr(Job, name) == given[name] for name in ("status", "type", "document_id") if name in given))
    if "q" in given:
        query = query.where(search.found_by(given["q"], Job.document_id) | _in_params(given.pop("q")))
    about = _about(given)
    return query.where(Job.document_id.in_(select(Document.id).where(*about))) if about else query


def _in_params(query: str) -> ColumnElement[bool]:
    """Whether a job without a document has all the words in its params."""
    text = func.lower(cast(Job.params, Text))
    words = [text.contains(word, autoescape=True) for word in search.plain_words(query)]
    return and_(Job.document_id.is_(None), *words) if words else false()


def _check_status(status: str | None) -> None:
    if status and status not in STATUSES:
        raise Invalid.field("/status", f"Unknown status {status!r}. Use one of: {', '.join(STATUSES)}.")


@dataclass(frozen=True)
class WholeBatch:
    """A batch with those of its documents and jobs that still exist, in their order."""

    batch: Batch
    progress: BatchProgress
    documents: list[Document]
    jobs: list[Job]


def batch(session: Session, user: User, batch_id: str) -> WholeBatch:
    """A batch with its documents and jobs, without results. Raises `NotFound`, also for other users' batches."""
    row = session.get(Batch, batch_id)
    if row is None or not row.may_be_seen_by(user):
        raise NotFound(f"You have no batch {batch_id[:60]!r}.")
    documents = session.scalars(select(Document).where(Document.id.in_(of_batches.documents(batch_id)))).all()
    shown = (defer(Job.result), selectinload(Job.artefacts), selectinload(Job.document))
    jobs = session.scalars(select(Job).where(Job.id.in_(of_batches.jobs(batch_id)), Job.trash_id.is_(None)).options(*shown)).all()
    places = of_batches.places(session, batch_id)
    return WholeBatch(
        row,
        of_batches.progress_of(session, [batch_id])[batch_id],
        sorted(documents, key=lambda one: places[one.id]),
        sorted(jobs, key=lambda one: places[one.id]),
    )


def batches(session: Session, user: User, limit: int, starting_after: str | None = None) -> ListPage:
    """A page of the user's batches."""
    return _page(session, _owned(select(Batch), Batch, user), Batch, limit, starting_after, user)


def webhooks(session: Session, user: User, limit: int, starting_after: str | None = None, job_id: str | None = None) -> ListPage:
    """A page of the user's own webhooks: those for all jobs, or the `webhook_url` of a single job."""
    query = select(Webhook).where(Webhook.owner_id == user.id, Webhook.job_id == job_id if job_id else Webhook.job_id.is_(None))
    return _page(session, query, Webhook, limit, starting_after, user)


def deliveries(session: Session, user: User, webhook_id: str, limit: int, starting_after: str | None = None) -> ListPage:
    """A page of the deliveries of a webhook. Raises `NotFound`."""
    endpoints.find(session, user, webhook_id)
    return _page(session, select(Delivery).where(Delivery.webhook_id == webhook_id), Delivery, limit, starting_after, user)


def _owned(query: Select[Any], model: type[Row], user: User) -> Select[Any]:
    if user.sees_all:
        return query
    if model is Delivery:
        return query.where(Delivery.webhook_id.in_(select(Webhook.id).where(Webhook.owner_id == user.id)))
    return query.where(model.owner_id == user.id)  # type: ignore[attr-defined]


def _page(session: Session, query: Select[Any], model: type[Row], limit: int, starting_after: str | None, user: User) -> ListPage:
    """Keyset paging: rows that are added in the meantime neither repeat nor hide others. Raises `Invalid` for an unknown start."""
    if starting_after:
        known: Any = select(model.created_at, model.id).where(model.id == starting_after)
        last = session.execute(_owned(known, model, user)).one_or_none()  # also None for other users' rows
        if last is None:
            detail = f"Cannot start after {starting_after[:60]!r}: it does not exist. Start from the first page."
            raise Invalid(detail, errors=[FieldError(detail, "/starting_after")])
        query = query.where(tuple_(model.created_at, model.id) < tuple_(*last))
    rows = list(session.scalars(query.order_by(model.created_at.desc(), model.id.desc()).limit(limit + 1)))
    return ListPage(rows[:limit], len(rows) > limit)
