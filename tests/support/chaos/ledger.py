"""The ledger as the harness reads it, past everything of Intray but its tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, undefer

from monolith.db.models import OVER, Artefact, Job, JobEvent

Event = tuple[float, str, int, str]  # when, name, attempt, note


@dataclass(frozen=True)
class Pages:
    """All that the ledger holds at one moment."""

    jobs: dict[str, Job]
    follow_ups: Counter[str]  # by parent
    files: Counter[str]  # by job
    events: dict[str, list[Event]]


class Ledger:
    """Read access to the database of an installation."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), pool_pre_ping=True)
        self._live = 0

    def live(self) -> int:
        """How many jobs are not over; the last known number while the database is away."""
        try:
            with Session(self._engine) as session:
                self._live = session.scalar(select(func.count()).where(Job.status.not_in(OVER))) or 0
        except DBAPIError:
            pass
        return self._live

    def read(self) -> Pages:
        with Session(self._engine) as session:
            jobs = {job.id: job for job in session.scalars(select(Job).options(undefer(Job.result)))}
            files = Counter(session.scalars(select(Artefact.job_id)))
            events: dict[str, list[Event]] = {}
            for event in session.scalars(select(JobEvent).order_by(JobEvent.id)):
                events.setdefault(event.job_id, []).append((event.at, event.name, event.attempt, event.note or ""))
            session.expunge_all()
        return Pages(jobs, Counter(job.parent_id for job in jobs.values() if job.parent_id), files, events)

    def close(self) -> None:
        self._engine.dispose()


def runs_in(file: Path) -> Counter[tuple[str, int]]:
    """How often each claim of each job ran: by job id and claim."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return Counter((line.split()[0], int(line.split()[1])) for line in lines)
