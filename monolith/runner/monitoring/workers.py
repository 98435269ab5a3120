"""The list of workers: what each reports in Redis, and the jobs it runs according to the ledger."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from redis import RedisError
from rq.defaults import RQ_KEY_PREFIX
from rq.utils import utcparse
from sqlalchemy import select
from sqlalchemy.orm import Session

from monolith.db.models import Job
from monolith.runner.prefork.redis_writer import held_key
from monolith.runner.queue import rq_queues

MAX_RUNNING = 1000  # running jobs that are listed


@dataclass(frozen=True)
class JobInfo:
    """A running job, according to the ledger. `started_at` is in seconds since 1970."""

    id: str
    type: str
    started_at: float


@dataclass
class ChildInfo:
    """A child process of a worker: its memory in bytes, whether it runs several I/O-bound jobs at once, and its jobs."""

    pid: int
    memory: int | None
    io_bound: bool
    jobs: list[JobInfo] = field(default_factory=list)


@dataclass
class WorkerInfo:
    """A living worker. `jobs` are the running jobs that its last report assigns to no child. Times are in seconds since 1970."""

    name: str
    host: str = ""
    pid: int | None = None
    state: str = ""
    queues: list[str] = field(default_factory=list)
    born_at: float | None = None
    heartbeat_at: float | None = None
    finished: int = 0
    failed: int = 0
    memory: int | None = None
    children: list[ChildInfo] = field(default_factory=list)
    jobs: list[JobInfo] = field(default_factory=list)

    @property
    def total_memory(self) -> int:
        """Memory of the parent and its children in bytes."""
        return (self.memory or 0) + sum(child.memory or 0 for child in self.children)

    @property
    def running(self) -> list[JobInfo]:
        """All its running jobs, oldest first."""
        found = [job for child in self.children for job in child.jobs] + self.jobs
        return sorted(found, key=lambda job: job.started_at)


def list_workers(session: Session) -> list[WorkerInfo]:
    """Every living worker with its running jobs, and every other process that runs a job according to the ledger.

    The others have died, or Redis has lost them, or they are web processes that run jobs themselves. Raises RedisError.
    """
    running = _running(session)
    workers = [_worker(name, fields, running.pop(name, [])) for name, fields in _hashes() if fields]
    return workers + [WorkerInfo(name, state="busy", jobs=jobs) for name, jobs in sorted(running.items())]


def list_workers_or_none(session: Session) -> list[WorkerInfo] | None:
    """The workers as `list_workers` gives them; None if Redis does not respond."""
    try:
        return list_workers(session)
    except RedisError:
        return None


def names() -> list[str] | None:
    """The names of the living workers; None if Redis does not respond."""
    try:
        return [name for name, fields in _hashes() if fields]
    except RedisError:
        return None


def claims_held_by(workers: Iterable[str]) -> set[tuple[str, int]]:
    """The claims (job id, number) that these workers run although the ledger does not get their heartbeats. Empty without Redis."""
    keys = [held_key(f"{RQ_KEY_PREFIX}:worker:{name}") for name in sorted(set(workers))]
    if rq_queues.is_inline() or not keys:
        return set()
    try:
        found = [json.loads(one) for one in rq_queues.connection().mget(keys) if one]
    except (RedisError, ValueError):
        return set()
    return {(job_id, number) for claims in found if isinstance(claims, dict) for job_id, number in claims.items()}


def busy_queues() -> set[str]:
    """The queues whose workers are all busy, according to their last reports. Raises RedisError."""
    busy, free = set[str](), set[str]()
    for _, fields in _hashes():
        (free if _has_room(fields) else busy).update(_queues(fields))
    return busy - free


def _has_room(fields: dict[str, str]) -> bool:
    """Whether one of its children is idle. Children for I/O-bound jobs do not count: they are started on demand."""
    ordinary = [one for one in _listed(fields.get("children")) if not _is_io_bound(one)]
    return any(not one["jobs"] for one in ordinary) if ordinary else fields.get("state") != "busy"


def _running(session: Session) -> dict[str, list[JobInfo]]:
    rows = select(Job.worker, Job.id, Job.type, Job.started_at).where(Job.status == "started").limit(MAX_RUNNING)
    found: dict[str, list[JobInfo]] = defaultdict(list)
    for worker, job_id, type_name, started_at in session.execute(rows):
        found[worker or "unknown"].append(JobInfo(job_id, type_name, started_at or 0.0))
    return found


def _hashes() -> Iterable[tuple[str, dict[str, str]]]:
    """The name and hash of each registered worker. The hash of a worker that was killed is empty."""
    if rq_queues.is_inline():
        return []
    return rq_queues.worker_hashes()


def _worker(name: str, fields: dict[str, str], running: list[JobInfo]) -> WorkerInfo:
    jobs = {job.id: job for job in running}
    children = [
        ChildInfo(one["pid"], one["memory"], _is_io_bound(one), [jobs.pop(job_id) for job_id in one["jobs"] if job_id in jobs])
        for one in _listed(fields.get("children"))
    ]
    return WorkerInfo(
        name=name,
        host=fields.get("hostname", ""),
        pid=_number(fields.get("pid")),
        state=fields.get("state", ""),
        queues=_queues(fields),
        born_at=_moment(fields.get("birth")),
        heartbeat_at=_moment(fields.get("last_heartbeat")),
        finished=_number(fields.get("successful_job_count")) or 0,
        failed=_number(fields.get("failed_job_count")) or 0,
        memory=_number(fields.get("memory")),
        children=children,
        jobs=list(jobs.values()),
    )


def _queues(fields: dict[str, str]) -> list[str]:
    return [one for one in fields.get("queues", "").split(",") if one]


def _listed(text: str | None) -> list[dict[str, Any]]:
    """The children that a worker reports. RQ's own workers report none; what somebody else has written there is left out."""
    try:
        found = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    return [one for one in found if _is_child(one)] if isinstance(found, list) else []


def _is_child(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("pid"), int)
        and isinstance(one.get("memory", ""), int | None)
        and isinstance(one.get("jobs"), list)
        and all(isinstance(job_id, str) for job_id in one["jobs"])
    )


def _is_io_bound(child: dict[str, Any]) -> bool:
    """Whether it runs I/O-bound jobs; workers of the release before this one say `waits`."""
    return bool(child.get("io_bound", child.get("waits")))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None


def _moment(text: str | None) -> float | None:
    try:
        moment: datetime | None = utcparse(text) if text else None
    except (ValueError, OverflowError):
        return None
    return moment.timestamp() if moment else None
