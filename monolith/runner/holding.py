"""What a worker says of the jobs its children hold: that they live, and how they ended when they did not say so themselves.

Each is guarded by the worker's name on the running row: what the child has recorded, or another worker runs, is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, select, update

from monolith.database import now, reading, writing
from monolith.models import Job
from monolith.runner import lifecycle, registry
from monolith.runner.lifecycle import Claim, Failure
from monolith.runner.moves import MOVED, Moved


def heartbeat(worker: str, job_ids: Sequence[str]) -> set[str]:
    """Say that these jobs are being run; the ids of those that this worker still holds."""
    held = update(Job).where(*_held(worker, job_ids)).values(heartbeat_at=now()).returning(Job.id)
    with writing() as session:
        return set(session.scalars(held.execution_options(synchronize_session=False)))


def lost(worker: str, job_id: str, why: str) -> None:
    """The child died: the job runs again, and is poison when that happens too often."""
    if claim := _claim(worker, job_id):
        lifecycle.interrupt(job_id, claim.number, why, crashed=True)


def interrupted(worker: str, job_ids: Sequence[str]) -> None:
    """The worker stops on request: its jobs run again, elsewhere or later."""
    for job_id in job_ids:
        if claim := _claim(worker, job_id):
            lifecycle.interrupt(job_id, claim.number, "its worker was stopped", crashed=False)


def stopped(worker: str, job_id: str) -> None:
    """RQ's own stop command ended the child: the same as a person's stop."""
    if _claim(worker, job_id):
        lifecycle.stop(job_id, tell_worker=False)


def timed_out(worker: str, job_id: str) -> None:
    """The child ran past its limit and had to be killed: an attempt that failed."""
    if claim := _claim(worker, job_id):
        job_type = registry.discover().get(claim.job.type)
        seconds = f"{job_type.timeout} s" if job_type else "time"
        message = f"It ran past its limit of {seconds} while {_step(job_id) or 'starting'}, and was killed."
        lifecycle.fail(claim, Failure("timeout", message), job_type.backoff if job_type else registry.fixed(1))


def _step(job_id: str) -> str | None:
    with reading() as session:
        return session.scalar(select(Job.progress_note).where(Job.id == job_id))


def _claim(worker: str, job_id: str) -> Claim | None:
    with reading() as session:
        row = session.execute(select(*MOVED).where(*_held(worker, [job_id]))).first()
    job = row and Moved._make(row)
    return Claim(job_id, job.claims, job.attempt, job) if job else None


def _held(worker: str, job_ids: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
    return (Job.id.in_(job_ids), Job.status == "started", Job.worker == worker)
