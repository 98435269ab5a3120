"""How long jobs of a type usually take, from those that were done last: an estimate for people who wait."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from monolith.models import Job

LOOKED_AT = 50  # the newest; what was true a thousand jobs ago may not be any more
FEWEST = 3  # of fewer nothing can be said


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
