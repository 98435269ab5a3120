"""Numbers for admins, from the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from monolith.database import now
from monolith.models import STATUSES, Job


@dataclass
class Counts:
    """The jobs of one queue and type by status, and the age of the oldest that waits, in seconds."""

    queue: str
    type: str
    oldest_waiting_s: float | None = None
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))


def by_queue_and_type(session: Session) -> list[Counts]:
    """One row for each queue and type that ever had a job."""
    rows = session.execute(
        select(Job.queue, Job.type, Job.status, func.count(), now() - func.min(Job.queued_at)).group_by(Job.queue, Job.type, Job.status)
    )
    found: dict[tuple[str, str], Counts] = {}
    for queue, type_name, status, count, oldest in rows:
        counts = found.setdefault((queue, type_name), Counts(queue, type_name))
        counts.statuses[status] = count
        if status == "queued":
            counts.oldest_waiting_s = oldest
    return [found[key] for key in sorted(found)]
