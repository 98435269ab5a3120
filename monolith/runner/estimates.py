"""How long jobs of a type usually take, from those that were done last: an estimate for people who wait."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from monolith.database import now
from monolith.models import Job, Sample

LOOKED_AT = 50  # the newest; what was true a thousand jobs ago may not be any more
FEWEST = 3  # of fewer nothing can be said


HOUR_S, MINUTE_S = 3600, 60


class Usual(NamedTuple):
    """Seconds from the start of the attempt that succeeded to its end: half take at most `half`, nine of ten at most `most`."""

    half: float
    most: float


def usual(session: Session, type_name: str) -> Usual | None:
    """None where too few were done to tell."""
    done = select(Job.ended_at - Job.started_at).where(Job.status == "finished", Job.type == type_name)
    took = [max(seconds, 0.0) for seconds in session.scalars(done.order_by(Job.ended_at.desc()).limit(LOOKED_AT)) if seconds is not None]
    if len(took) < FEWEST:
        return None
    return Usual(statistics.median(took), statistics.quantiles(took, n=10, method="inclusive")[-1])


def pace(session: Session) -> float | None:
    """How many jobs ended a second in the last hour, by its samples: over the minutes in which some did. None where none did."""
    ended = Sample.finished + Sample.failed
    sums = select(func.sum(ended), func.count(Sample.at.distinct())).where(Sample.at > now() - HOUR_S, ended > 0)
    jobs, minutes = session.execute(sums).one()
    return int(jobs) / (minutes * MINUTE_S) if minutes else None
