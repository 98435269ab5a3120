"""Batches: several documents submitted at once, each with its jobs. Their tables and their progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, delete, exists, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from monolith.db.engine import now, read_session, unlocked, write_session
from monolith.db.models import OVER, STATUSES, Base, Document, Job, User, new_id

PRUNED = "pruned"  # the status of a job that has been deleted
PRUNED_AT_ONCE = 500


class Batch(Base):
    """One submission of several documents. `refused`: the documents that were not accepted, and why."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    refused: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    created_at: Mapped[float] = mapped_column(default=now())

    items: Mapped[list[BatchItem]] = relationship(passive_deletes=True)

    __table_args__ = (Index("batches_of_owner", "owner_id", "created_at", "id"), Index("batches_by_age", "created_at"))

    def may_be_seen_by(self, user: User) -> bool:
        return user.sees_all or self.owner_id == user.id


class BatchItem(Base):
    """One job of a batch. For a unique job it may be the live duplicate that another submission created.

    No foreign keys: a batch still counts jobs that are pruned, and deleting a job costs nothing here.
    """

    __tablename__ = "batch_items"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[str] = mapped_column(String(36))
    job_id: Mapped[str] = mapped_column(String(36))

    __table_args__ = (Index("batch_items_of_document", "document_id"),)


@dataclass(frozen=True)
class NewBatch:
    """A batch that is being submitted."""

    refused: list[dict[str, Any]]
    id: str = field(default_factory=new_id)

    def row(self, owner_id: int, items: Iterable[tuple[str | None, str]]) -> Batch:
        """The new row of the batch with its items, each a document id and a job id."""
        rows = [BatchItem(place=place, document_id=document_id, job_id=job_id) for place, (document_id, job_id) in enumerate(items)]
        return Batch(id=self.id, owner_id=owner_id, refused=self.refused, items=rows)


@dataclass(frozen=True)
class BatchProgress:
    """The jobs of a batch by status, and its progress in percent, 0 to 100."""

    counts: dict[str, int]
    progress: float

    @property
    def jobs(self) -> int:
        return sum(self.counts.values())

    @property
    def is_over(self) -> bool:
        return not any(self.counts.get(status) for status in STATUSES if status not in OVER)


def progress_of(session: Session, batch_ids: Sequence[str]) -> dict[str, BatchProgress]:
    """The progress of each of these batches, by id. A job that is over counts as 100 %, however it ended."""
    items = select(BatchItem.batch_id, BatchItem.job_id).where(BatchItem.batch_id.in_(batch_ids)).distinct().subquery()
    status, running = func.coalesce(Job.status, PRUNED), func.coalesce(Job.progress, 0.0)
    rows = select(items.c.batch_id, status, func.count(), func.sum(running)).join_from(items, Job, Job.id == items.c.job_id, isouter=True)
    found: dict[str, list[tuple[str, int, float]]] = {one: [] for one in batch_ids}
    for batch_id, *numbers in session.execute(rows.group_by(items.c.batch_id, status)):
        found[batch_id].append((numbers[0], numbers[1], numbers[2]))
    return {batch_id: _progress(numbers) for batch_id, numbers in found.items()}


def _progress(numbers: list[tuple[str, int, float]]) -> BatchProgress:
    counts = {status: count for status, count, _ in numbers}
    done = sum(100.0 * count if status in (*OVER, PRUNED) else percent * (status == "started") for status, count, percent in numbers)
    progress = BatchProgress({status: counts.get(status, 0) for status in (*STATUSES, PRUNED)}, done / max(sum(counts.values()), 1))
    return progress if progress.is_over else BatchProgress(progress.counts, min(progress.progress, 99.9))  # 100 only when all are over


def titles(session: Session, batch_ids: Sequence[str]) -> dict[str, tuple[str | None, int]]:
    """By batch id: the title of its first document, None when that is deleted, and the number of its documents."""
    first = select(BatchItem.batch_id, Document.title).join(Document, Document.id == BatchItem.document_id)
    named = dict(session.execute(first.where(BatchItem.batch_id.in_(batch_ids), BatchItem.place == 0)).all())
    number = select(BatchItem.batch_id, func.count(BatchItem.document_id.distinct())).where(BatchItem.batch_id.in_(batch_ids))
    return {one: (named.get(one), count) for one, count in session.execute(number.group_by(BatchItem.batch_id))}


def jobs(batch_id: str) -> Any:
    """A subquery for the ids of a batch's jobs."""
    return select(BatchItem.job_id).where(BatchItem.batch_id == batch_id)


def documents(batch_id: str) -> Any:
    """A subquery for the ids of a batch's documents."""
    return select(BatchItem.document_id).where(BatchItem.batch_id == batch_id)


def places(session: Session, batch_id: str) -> dict[str, int]:
    """The position in the batch of each of its jobs and documents, by id."""
    items = session.execute(select(BatchItem.place, BatchItem.document_id, BatchItem.job_id).where(BatchItem.batch_id == batch_id))
    found: dict[str, int] = {}
    for place, *ids in sorted(items):
        for one in ids:
            found.setdefault(one, place)
    return found


def of_document(session: Session, document_id: str) -> str | None:
    """The id of the batch that this document was submitted in; None for a document without one."""
    return session.scalar(select(BatchItem.batch_id).where(BatchItem.document_id == document_id).limit(1))


def prune(until: float) -> Iterator[None]:
    """Delete the batches created before `until` (seconds since 1970) that have neither a job nor a document left, step by step."""
    job = exists().where(BatchItem.batch_id == Batch.id, Job.id == BatchItem.job_id)
    document = exists().where(BatchItem.batch_id == Batch.id, Document.id == BatchItem.document_id)
    empty = select(Batch.id).where(Batch.created_at < until, ~job, ~document).limit(PRUNED_AT_ONCE)
    found: Sequence[str] = [""] * PRUNED_AT_ONCE
    while len(found) == PRUNED_AT_ONCE:
        with read_session() as session:  # before the write lock is taken: most old batches still have documents
            found = session.scalars(empty).all()
        with write_session() as session:
            these = unlocked(select(Batch.id).where(Batch.id.in_(found)))
            session.execute(delete(Batch).where(Batch.id.in_(these)).execution_options(synchronize_session=False))
        yield
