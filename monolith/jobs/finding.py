"""What a user may see: documents, jobs, files and batches, one or a page of them. Every query is by owner; admins see all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session, defer, selectinload, undefer

from monolith.errors import FieldError, Invalid, NotFound
from monolith.models import STATUSES, Artefact, Document, Job, User
from monolith.runner import batches as of_batches
from monolith.runner import registry
from monolith.runner.batches import Batch, Standing
from monolith.runner.webhooks import endpoints
from monolith.runner.webhooks.tables import Delivery, Webhook

Row = TypeVar("Row", Document, Job, Batch, Webhook, Delivery)


@dataclass(frozen=True)
class Page:
    """Some rows, the newest first, and whether older ones follow."""

    rows: list[Any]
    has_more: bool


def document(session: Session, user: User, document_id: str) -> Document:
    """The document with its jobs. Raises `NotFound` also for somebody else's."""
    row = session.scalar(
        select(Document).where(Document.id == document_id).options(selectinload(Document.jobs).selectinload(Job.artefacts))
    )
    if row is None or not row.may_be_seen_by(user):
        raise NotFound(f"You have no document {document_id[:60]!r}.")
    return row


def job(session: Session, user: User, job_id: str) -> Job:
    """The job with its result and files. Raises `NotFound` also for somebody else's."""
    row = session.scalar(
        select(Job)
        .where(Job.id == job_id, Job.cleaning_id.is_(None))
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


def documents(session: Session, user: User, limit: int, starting_after: str | None = None) -> Page:
    """A page of the user's documents."""
    query = _owned(select(Document), Document, user).options(selectinload(Document.jobs).selectinload(Job.artefacts))
    return _page(session, query, Document, limit, starting_after, user)


def jobs(session: Session, user: User, limit: int, starting_after: str | None = None, **filters: str | None) -> Page:
    """A page of the user's jobs, of one `status`, `type` or `document_id` where given. Results are left out.

    Those that Intray submits by itself are shown only to who asks for their type.
    """
    if filters.get("status") and filters["status"] not in STATUSES:
        raise Invalid.field("/status", f"There is no status {filters['status']!r}. Choose one of: {', '.join(STATUSES)}.")
    query = _owned(select(Job).where(Job.cleaning_id.is_(None)), Job, user).options(
        defer(Job.result), selectinload(Job.artefacts), selectinload(Job.document)
    )
    internal = [one.name for one in registry.discover().values() if one.is_internal]
    if internal and not filters.get("type"):
        query = query.where(Job.type.not_in(internal))
    for name, value in filters.items():
        if value:
            query = query.where(getattr(Job, name) == value)
    return _page(session, query, Job, limit, starting_after, user)


@dataclass(frozen=True)
class Whole:
    """A batch with its documents and jobs, as far as they are there still, in their order."""

    batch: Batch
    standing: Standing
    documents: list[Document]
    jobs: list[Job]


def batch(session: Session, user: User, batch_id: str) -> Whole:
    """A batch and all that is in it, without results. Raises `NotFound` also for somebody else's."""
    row = session.get(Batch, batch_id)
    if row is None or not row.may_be_seen_by(user):
        raise NotFound(f"You have no batch {batch_id[:60]!r}.")
    documents = session.scalars(select(Document).where(Document.id.in_(of_batches.documents(batch_id)))).all()
    shown = (defer(Job.result), selectinload(Job.artefacts), selectinload(Job.document))
    jobs = session.scalars(select(Job).where(Job.id.in_(of_batches.jobs(batch_id)), Job.cleaning_id.is_(None)).options(*shown)).all()
    places = of_batches.places(session, batch_id)
    return Whole(
        row,
        of_batches.standings(session, [batch_id])[batch_id],
        sorted(documents, key=lambda one: places[one.id]),
        sorted(jobs, key=lambda one: places[one.id]),
    )


def batches(session: Session, user: User, limit: int, starting_after: str | None = None) -> Page:
    """A page of the user's batches."""
    return _page(session, _owned(select(Batch), Batch, user), Batch, limit, starting_after, user)


def webhooks(session: Session, user: User, limit: int, starting_after: str | None = None, job_id: str | None = None) -> Page:
    """A page of the user's own endpoints: those that hear of all jobs, or those of this single one."""
    query = select(Webhook).where(Webhook.owner_id == user.id, Webhook.job_id == job_id if job_id else Webhook.job_id.is_(None))
    return _page(session, query, Webhook, limit, starting_after, user)


def deliveries(session: Session, user: User, webhook_id: str, limit: int, starting_after: str | None = None) -> Page:
    """A page of what was sent to one of them. Raises `NotFound`."""
    endpoints.find(session, user, webhook_id)
    return _page(session, select(Delivery).where(Delivery.webhook_id == webhook_id), Delivery, limit, starting_after, user)


def _owned(query: Select[Any], model: type[Row], user: User) -> Select[Any]:
    if user.sees_all:
        return query
    if model is Delivery:
        return query.where(Delivery.webhook_id.in_(select(Webhook.id).where(Webhook.owner_id == user.id)))
    return query.where(model.owner_id == user.id)  # type: ignore[attr-defined]


def _page(session: Session, query: Select[Any], model: type[Row], limit: int, starting_after: str | None, user: User) -> Page:
    """Paging by key: rows that come while a person pages neither repeat nor hide others."""
    if starting_after:
        known: Any = select(model.created_at, model.id).where(model.id == starting_after)
        last = session.execute(_owned(known, model, user)).one_or_none()  # of somebody else's it is not even said that it is there
        if last is None:
            detail = f"There is no {starting_after[:60]!r} to start after. Start at the first page."
            raise Invalid(detail, errors=[FieldError(detail, "/starting_after")])
        query = query.where(tuple_(model.created_at, model.id) < tuple_(*last))
    rows = list(session.scalars(query.order_by(model.created_at.desc(), model.id.desc()).limit(limit + 1)))
    return Page(rows[:limit], len(rows) > limit)
