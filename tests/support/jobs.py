"""Jobs for tests: submitted by HTTP or straight into the ledger, read back, and run as a worker runs them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import selectinload, undefer

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job
from monolith.job_types import registry
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.worker import execute
from tests.support.callers import Caller


def submit_job(caller: Caller, type: str = "trial_echo", **wanted: Any) -> dict[str, Any]:
    """Submit a job; gives it as the answer shows it."""
    answer = caller.post("/api/v1/jobs", json={"type": type, **wanted})
    assert answer.status_code == 202, answer.text
    return dict(answer.json)


def submit_text(caller: Caller, text: str, **given: Any) -> dict[str, Any]:
    """Submit a document that is a text; gives the document and its jobs."""
    answer = caller.post("/api/v1/documents", json={"text": text, **given})
    assert answer.status_code == 201, answer.text
    return dict(answer.json)


def new_jobs(owner_id: str, name: str = "trial_echo", number: int = 1, params: dict[str, Any] | None = None, **wanted: Any) -> list[Any]:
    """Jobs of somebody, submitted without HTTP."""
    job_type = registry.find(name)
    loaded = job_type.load_params(params, False)
    return lifecycle.submit(owner_id, [JobSpec(job_type, loaded, **wanted) for _ in range(number)])


def stored(job_id: str) -> Any:
    """The row of a job, with all that belongs to it."""
    loaded = (undefer(Job.result), undefer(Job.error_trace), selectinload(Job.events), selectinload(Job.artefacts))
    with read_session() as session:
        return session.scalar(select(Job).where(Job.id == job_id).options(*loaded))


def make_due(*job_ids: str) -> None:
    """What was to wait until later is due now."""
    with write_session() as session:
        session.execute(update(Job).where(Job.id.in_(job_ids), Job.status == "scheduled").values(run_at=now() - 1))


def run_due(job_id: str) -> Any:
    """Run a job as a worker does, however long it was to wait; gives its row."""
    make_due(job_id)
    lifecycle.queue_due(10)
    execute.run(job_id)
    return stored(job_id)
