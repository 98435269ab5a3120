"""How long the jobs of light users wait, alone and beside a heavy user whose backlog outlasts the measurement."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rq import Worker
from sqlalchemy import func, select

from bench import submissions
from bench.measuring import until
from bench.rig import Say
from monolith.accounts import users
from monolith.config import settings
from monolith.db.engine import read_session
from monolith.db.models import Job
from monolith.job_types import registry
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.audit import Actor
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.queue import rq_queues
from monolith.server import child_processes
from monolith.server.child_processes import ChildProcess
from monolith.server.run_all import MANAGE

EVERY_S = 2.0  # between two jobs of a light user
BATCH = 500
STARTING_S = 60.0
ENDING_S = 20.0


@dataclass(frozen=True)
class Plan:
    light_users: int
    job_s: float
    seconds: float
    concurrency: int
    workers: int

    @property
    def backlog(self) -> int:
        """So many jobs of the heavy user keep all workers busy for twice the time."""
        return int(2 * self.seconds * self.concurrency * self.workers / self.job_s) + 1


def measure(plan: Plan, passes: int, say: Say) -> None:
    """Measure both in turns. Raises `BadSetting` for a database or a Redis in which something is."""
    submissions.require_empty()
    owners = [
        users.create_user(f"user{number}@example.org", os.urandom(16).hex(), Actor("bench")).id for number in range(plan.light_users + 1)
    ]
    heavy, light = owners[0], owners[1:]
    waits: dict[str, list[list[float]]] = {f"{len(light)} light users": [], "beside 1 heavy user": []}
    for _ in range(passes):
        for name, passes_of in waits.items():
            with _workers(plan):
                backlog = _submit(heavy, plan.job_s, plan.backlog) if "heavy" in name else []
                passes_of.append(_waits(_submit_light(light, plan)))
                lifecycle.cancel_jobs(backlog)
    say(f"{'':<24}{'wait p50 ms':>12}{'p99 ms':>10}{'longest':>10}{'jobs':>8}")
    for name, passes_of in waits.items():
        points = [statistics.quantiles(one, n=100, method="inclusive") for one in passes_of]
        seen = [one[49] for one in points], [one[98] for one in points], [max(one) for one in passes_of]
        figures = [statistics.median(one) for one in seen]
        say(
            f"{name:<24}"
            + "".join(f"{1000 * figure:>{width}.0f}" for figure, width in zip(figures, (12, 10, 10), strict=True))
            + f"{len(passes_of[0]):>8}"
        )
    slots = f"{plan.workers} x {plan.concurrency} run at once"
    say(f"Each job takes {1000 * plan.job_s:.0f} ms; {slots}; the heavy user has {plan.backlog:,} jobs waiting.")


@contextmanager
def _workers(plan: Plan) -> Iterator[None]:
    own = {"WORKER_CONCURRENCY": str(plan.concurrency), "REDIS_URL": settings().redis_url, "SHUTDOWN_GRACE": "5"}
    workers = [ChildProcess("worker", [sys.executable, str(MANAGE), "worker"], {**os.environ, **own}) for _ in range(plan.workers)]
    for worker in workers:
        worker.start()
    try:
        until(lambda: Worker.count(connection=rq_queues.connection()) >= plan.workers, STARTING_S, "worker")
        yield
    finally:
        child_processes.end(workers, ENDING_S)


def _submit(owner_id: int, seconds: float, count: int) -> list[str]:
    job_type = registry.find("bench_pause")
    specs = [JobSpec(job_type, {"seconds": seconds}) for _ in range(count)]
    return [job.id for start in range(0, count, BATCH) for job in lifecycle.submit(owner_id, specs[start : start + BATCH])]


def _submit_light(owners: list[int], plan: Plan) -> list[str]:
    """Each owner submits a job every EVERY_S, one owner after the other. Returns the ids when all have run."""
    begin, gap_s, job_ids = time.monotonic(), EVERY_S / len(owners), []
    for number in range(max(2, int(plan.seconds / gap_s))):  # two, at least, have a median and a p99
        time.sleep(max(0.0, begin + number * gap_s - time.monotonic()))
        job_ids += _submit(owners[number % len(owners)], plan.job_s, 1)
    until(lambda: _finished(job_ids) == len(job_ids), 10 * plan.seconds + STARTING_S, "the last job of a light user")
    return job_ids


def _finished(job_ids: list[str]) -> int:
    with read_session() as session:
        return session.scalar(select(func.count()).where(Job.id.in_(job_ids), Job.status == "finished")) or 0


def _waits(job_ids: list[str]) -> list[float]:
    with read_session() as session:
        return list(session.scalars(select(Job.started_at - Job.created_at).where(Job.id.in_(job_ids))))
