"""The statistics line: what waits, what runs and what has happened since the last one, in the log of the clock."""

from __future__ import annotations

from collections.abc import Iterator

import structlog
from redis import RedisError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from monolith.database import reading
from monolith.models import JobEvent
from monolith.runner import statistics, workers

PULSE_S = 30.0
TOLD = ("started", "finished", "failed")

log = structlog.get_logger()


class Pulse:
    """Remembers up to which event it has counted."""

    def __init__(self) -> None:
        self._counted_to: int | None = None

    def work(self) -> Iterator[None]:
        """Write the line. The first one can say nothing of what has happened before it."""
        with reading() as session:
            by_queue: dict[str, dict[str, int]] = {}
            for kind, count in statistics.counts(session, *statistics.LIVE).items():
                of_queue = by_queue.setdefault(kind.queue, dict.fromkeys(statistics.LIVE, 0))
                of_queue[kind.status] += count
            oldest = max(statistics.oldest_waiting(session).values(), default=0.0)
            happened = self._happened(session)
        waiting = sum(one["queued"] for one in by_queue.values())
        log.info("statistics", queues=by_queue, waiting=waiting, oldest_waiting_s=round(oldest, 1), workers=_workers(), **happened)
        yield

    def _happened(self, session: Session) -> dict[str, int]:
        """Events since the last line; they are numbered, so only new ones are read."""
        newest = session.scalar(select(func.max(JobEvent.id))) or 0
        since, self._counted_to = self._counted_to, newest
        if since is None:
            return {}
        new = (JobEvent.id > since, JobEvent.id <= newest, JobEvent.name.in_(TOLD))
        rows = session.execute(select(JobEvent.name, func.count()).where(*new).group_by(JobEvent.name))
        return dict.fromkeys(TOLD, 0) | {name: int(count) for name, count in rows}


def _workers() -> int | None:
    """How many live; None while Redis is away."""
    try:
        return len(workers.names())
    except RedisError:
        return None
