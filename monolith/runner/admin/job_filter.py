"""Which jobs an admin means: by status, type, queue, owner, error, time and text. Pages, cleaning and acts on many choose by the same.

Quick beside a million jobs. A page by status, type or queue is the newest of the first of each status and type, and an index
holds these in order, however seldom they are; see docs/performance.md for the plans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, select, tuple_, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from monolith.db.models import OVER, STATUSES, Job, User
from monolith.job_types import registry
from monolith.runner.ledger import counts, search
from monolith.runner.ledger.error_fingerprint import KEY_LENGTH
from monolith.runner.ledger.search import DocumentText

ID_PREFIX = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,28}")
FREQUENT = 500  # documents with the same word
CAUSE = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")


class Found(NamedTuple):
    """One job, and where it stands in the order: `at` is when it was submitted, or when it ended where that is asked for."""

    id: str
    at: float
    status: str


@dataclass(frozen=True)
class JobFilter:
    """What must hold of a job. Times are seconds since 1970.

    `since` and `until` are about when it was submitted; `old_before` about when it ended, or was submitted if it waits still.
    `error` is a cause, a type of error, or else words of the message. `text` is words of the document, or eight characters or more
    of the job's id, from its beginning.
    """

    status: str | None = None
    type: str | None = None
    queue: str | None = None
    owner: str | None = None
    error: str | None = None
    text: str | None = None
    since: float | None = None
    until: float | None = None
    old_before: float | None = None

    def told(self) -> dict[str, Any]:
        """What is asked for, as the audit trail has it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def order(self) -> InstrumentedAttribute[Any]:
        """What the newest are found by."""
        return Job.ended_at if self.old_before is not None and self.status in OVER else Job.created_at

    def guard(self, session: Session) -> list[ColumnElement[bool]]:
        """All of it, for a WHERE. What is in the bin is never meant."""
        return [Job.trash_id.is_(None), *self._exact(session), *self._times(), *self._errors(session), *self._texts()]

    def _exact(self, session: Session) -> list[ColumnElement[bool]]:
        asked: dict[Any, Any] = {Job.status: self.status, Job.type: self.type, Job.queue: self.queue}
        if self.owner is not None:
            asked[Job.owner_id] = session.scalar(select(User.id).where(User.email == self.owner.strip().lower())) or 0
        return [column == value for column, value in asked.items() if value is not None]

    def _times(self) -> list[ColumnElement[bool]]:
        bounds = ((Job.created_at.__ge__, self.since), (Job.created_at.__le__, self.until), (self.order.__le__, self.old_before))
        return [compare(moment) for compare, moment in bounds if moment is not None]

    def _errors(self, session: Session) -> list[ColumnElement[bool]]:
        """Words of a message are looked for where there is no such type of error: that takes five times as long."""
        if self.error is None:
            return []
        if CAUSE.fullmatch(self.error):
            return [Job.error_group == self.error]
        failed, of_type = (Job.error_group.is_not(None), Job.trash_id.is_(None)), Job.error_type == self.error
        is_type = session.scalar(select(func.count()).where(*failed, of_type))  # quicker than to look for one
        return [failed[0], of_type if is_type else Job.error_message.icontains(self.error, autoescape=True)]

    def _texts(self) -> list[ColumnElement[bool]]:
        if self.text is None:
            return []
        text = self.text.strip().lower()
        if ID_PREFIX.fullmatch(text):  # "g" comes after all that an id may go on with, in every collation
            return [Job.id >= text, Job.id < f"{text}g"]
        return [search.found_by(text, Job.document_id)]


def count(session: Session, criteria: JobFilter, among: Sequence[str] = STATUSES) -> int:
    """How many jobs it is, of those in one of these statuses."""
    query = select(func.count()).select_from(Job).where(*criteria.guard(session))
    if set(among) != set(STATUSES):
        query = query.where(Job.status.in_(among))
    return session.scalar(query) or 0


def newest(
    session: Session, criteria: JobFilter, limit: int, after: tuple[float, str] | None = None, among: Sequence[str] = STATUSES
) -> list[Found]:
    """The newest of them, or the next `after` one that stands there."""
    guard = criteria.guard(session)
    if after:
        guard.append(tuple_(criteria.order, Job.id) < tuple_(*after))
    is_seldom = _is_seldom(session, criteria)
    parts = [_part(criteria, [*guard, *more], limit, is_seldom) for more in _kinds(session, criteria, among)]
    if not parts:
        return []
    found = union_all(*parts).subquery() if len(parts) > 1 else parts[0].subquery()
    return [Found(*row) for row in session.execute(select(found).order_by(found.c.at.desc(), found.c.id.desc()).limit(limit))]


def _part(criteria: JobFilter, guard: list[ColumnElement[bool]], limit: int, is_seldom: bool) -> Select[Any]:
    """As a query within others: SQLite sorts no part of a union by itself.

    What is seldom is found first and sorted then: planners take it for so frequent that they would rather look through all jobs in
    their order.
    """
    found: Any = select(Job.id, criteria.order.label("at"), Job.status).where(*guard)
    if is_seldom:
        found = select(found.cte("found").prefix_with("MATERIALIZED"))
    ids, ats, _ = found.selected_columns
    part = found.order_by(ats.desc(), ids.desc()).limit(limit).subquery()
    return select(*part.c)


def _is_seldom(session: Session, criteria: JobFilter) -> bool:
    """Errors are; words are when few documents have them."""
    if criteria.error or not criteria.text:
        return bool(criteria.error)
    some = select(DocumentText.id).where(search.found_by(criteria.text, DocumentText.document_id)).limit(FREQUENT + 1)
    return len(session.scalars(some).all()) <= FREQUENT


def _kinds(session: Session, criteria: JobFilter, among: Sequence[str]) -> list[list[ColumnElement[bool]]]:
    """What each part of the search is about. One part is enough where an error, an owner or a text finds few, or nothing is asked."""
    statuses = [one for one in among if criteria.status in (one, None)]
    if criteria.error or criteria.text or criteria.owner:
        return [[Job.status.in_(statuses)]] if statuses else []
    if not (criteria.status or criteria.type or criteria.queue) and set(among) == set(STATUSES):
        return [[]]
    return [[Job.status == status, Job.type == name] for status in statuses for name in _types(session, criteria, status)]


def _types(session: Session, criteria: JobFilter, status: str) -> list[str]:
    if criteria.type:
        return [criteria.type]
    declared = registry.discover()
    there = counts.types(session, status)
    return [name for name in there if criteria.queue is None or name not in declared or declared[name].queue == criteria.queue]
