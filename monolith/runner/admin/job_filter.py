"""The filter for jobs on admin pages, in bulk actions and in the trash: status, type, queue, owner, error, time and text.

Fast with a million jobs: a page by status, type or queue merges the newest jobs of each status and type, which an index holds in
order, however rare they are. docs/performance.md has the query plans.
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
ERROR_GROUP = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")


class Found(NamedTuple):
    """A job that was found. `at` is its place in the order: when it was submitted."""

    id: str
    at: float
    status: str


@dataclass(frozen=True)
class JobFilter:
    """Criteria that a job must match; None matches all. Times are seconds since 1970.

    `since` and `until` limit when it was submitted; `old_before` when it ended, or was submitted if it is waiting. `error` is the
    key of an error group, an error type, or words of the message. `text` is words of the document, or the first eight or more
    characters of the job's id.
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

    def as_dict(self) -> dict[str, Any]:
        """The criteria that are set, as the audit log stores them."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def dated_by(self) -> InstrumentedAttribute[Any]:
        """The column that `old_before` is compared with."""
        return Job.ended_at if self.old_before is not None and self.status in OVER else Job.created_at

    def guard(self, session: Session) -> list[ColumnElement[bool]]:
        """The conditions for a WHERE clause. Jobs in the trash never match."""
        bounds = ((Job.created_at.__ge__, self.since), (Job.created_at.__le__, self.until), (self.dated_by.__le__, self.old_before))
        times = [compare(moment) for compare, moment in bounds if moment is not None]
        return [Job.trash_id.is_(None), *self._exact(session), *times, *self._errors(session), *self._texts()]

    def _exact(self, session: Session) -> list[ColumnElement[bool]]:
        asked: dict[Any, Any] = {Job.status: self.status, Job.type: self.type, Job.queue: self.queue}
        if self.owner is not None:
            asked[Job.owner_id] = session.scalar(select(User.id).where(User.email == self.owner.strip().lower())) or 0
        return [column == value for column, value in asked.items() if value is not None]

    def _errors(self, session: Session) -> list[ColumnElement[bool]]:
        """The message is searched only where no error type has this name: that takes five times as long."""
        if self.error is None:
            return []
        if ERROR_GROUP.fullmatch(self.error):
            return [Job.error_group == self.error]
        failed, of_type = (Job.error_group.is_not(None), Job.trash_id.is_(None)), Job.error_type == self.error
        is_type = session.scalar(select(func.count()).where(*failed, of_type))  # faster than searching for one row
        return [failed[0], of_type if is_type else Job.error_message.icontains(self.error, autoescape=True)]

    def _texts(self) -> list[ColumnElement[bool]]:
        if self.text is None:
            return []
        text = self.text.strip().lower()
        if ID_PREFIX.fullmatch(text):  # "g" comes after all that an id may go on with, in every collation
            return [Job.id >= text, Job.id < f"{text}g"]
        return [search.found_by(text, Job.document_id)]


def count(session: Session, criteria: JobFilter, statuses: Sequence[str] = STATUSES) -> int:
    """How many jobs in these statuses match."""
    query = select(func.count()).select_from(Job).where(*criteria.guard(session))
    if set(statuses) != set(STATUSES):
        query = query.where(Job.status.in_(statuses))
    return session.scalar(query) or 0


def newest(
    session: Session, criteria: JobFilter, limit: int, after: tuple[float, str] | None = None, statuses: Sequence[str] = STATUSES
) -> list[Found]:
    """The newest matching jobs; with `after`, those that follow this place."""
    guard = criteria.guard(session)
    if criteria.old_before is not None:  # what ended before was submitted before: the index in that order is read from there
        guard.append(Job.created_at <= criteria.old_before)
    if after:
        guard.append(tuple_(Job.created_at, Job.id) < tuple_(*after))
    is_rare = _is_rare(session, criteria)
    parts = [_part(criteria, [*guard, *more], limit, is_rare) for more in _parts(session, criteria, statuses)]
    if not parts:
        return []
    found = union_all(*parts).subquery() if len(parts) > 1 else parts[0].subquery()
    return [Found(*row) for row in session.execute(select(found).order_by(found.c.at.desc(), found.c.id.desc()).limit(limit))]


def _part(criteria: JobFilter, guard: list[ColumnElement[bool]], limit: int, is_rare: bool) -> Select[Any]:
    """One part of the union, as a subquery: SQLite cannot sort the parts of a union.

    Rare matches are materialized before they are sorted: planners overestimate them and would rather scan all jobs in order.
    """
    found: Any = select(Job.id, Job.created_at.label("at"), Job.status).where(*guard)
    if is_rare:
        found = select(found.cte("found").prefix_with("MATERIALIZED"))
    ids, ats, _ = found.selected_columns
    part = found.order_by(ats.desc(), ids.desc()).limit(limit).subquery()
    return select(*part.c)


def _is_rare(session: Session, criteria: JobFilter) -> bool:
    """Errors are rare; words are when few documents have them."""
    if criteria.error or not criteria.text:
        return bool(criteria.error)
    some = select(DocumentText.id).where(search.found_by(criteria.text, DocumentText.document_id)).limit(FREQUENT + 1)
    return len(session.scalars(some).all()) <= FREQUENT


def _parts(session: Session, criteria: JobFilter, statuses: Sequence[str]) -> list[list[ColumnElement[bool]]]:
    """The conditions of each part of the union. One part is enough for an error, an owner or a text, and without any criteria."""
    statuses = [one for one in statuses if criteria.status in (one, None)]
    if criteria.error or criteria.text or criteria.owner:
        return [[Job.status.in_(statuses)]] if statuses else []
    if not (criteria.status or criteria.type or criteria.queue) and set(statuses) == set(STATUSES):
        return [[]]
    return [[Job.status == status, Job.type == name] for status in statuses for name in _types(session, criteria, status)]


def _types(session: Session, criteria: JobFilter, status: str) -> list[str]:
    if criteria.type:
        return [criteria.type]
    declared = registry.discover()
    return [
        name
        for name in counts.types(session, status)
        if criteria.queue is None or name not in declared or declared[name].queue == criteria.queue
    ]
