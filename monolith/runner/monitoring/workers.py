"""The workers as they are seen: what each says of itself in Redis, and what the ledger says that it runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from redis import RedisError
from rq.defaults import RQ_KEY_PREFIX
from rq.utils import as_text, utcparse
from sqlalchemy import select
from sqlalchemy.orm import Session

from monolith.db.models import Job
from monolith.runner.queue import rq_queues

MOST_RUNNING = 1000  # jobs shown as running


@dataclass(frozen=True)
class SeenJob:
    """A job that runs, by the ledger."""

    id: str
    type: str
    started_at: float


@dataclass
class SeenChild:
    """A process of a worker: bytes of memory, whether it runs several waiting jobs at once, and what it runs."""

    pid: int
    memory: int | None
    waits: bool
    jobs: list[SeenJob] = field(default_factory=list)


@dataclass
class SeenWorker:
    """One living worker. `jobs` are those it runs of which its last report says nothing yet, or which it runs without children."""

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
    children: list[SeenChild] = field(default_factory=list)
    jobs: list[SeenJob] = field(default_factory=list)

    @property
    def total_memory(self) -> int:
        return (self.memory or 0) + sum(child.memory or 0 for child in self.children)

    @property
    def running(self) -> list[SeenJob]:
        """All it runs, the oldest first."""
        found = [job for child in self.children for job in child.jobs] + self.jobs
        return sorted(found, key=lambda job: job.started_at)


def seen(session: Session) -> list[SeenWorker]:
    """Every living worker with what it runs, and whoever else the ledger knows to run something. Raises RedisError when Redis is away."""
    running = _running(session)
    workers = [_worker(name, told, running.pop(name, [])) for name, told in _hashes() if told]
    return workers + _of_ledger_alone(running)


def seen_or_none(session: Session) -> list[SeenWorker] | None:
    """The same; None while Redis is away."""
    try:
        return seen(session)
    except RedisError:
        return None


def _of_ledger_alone(running: dict[str, list[SeenJob]]) -> list[SeenWorker]:
    """Who runs something and is not in Redis: it died, or Redis has forgotten it, or it is the web process itself."""
    return [SeenWorker(name, state="busy", jobs=jobs) for name, jobs in sorted(running.items())]


def names() -> list[str]:
    """The names of the living workers. Raises RedisError when Redis is away."""
    return [name for name, told in _hashes() if told]


def busy_queues() -> set[str]:
    """The queues whose listeners all have their hands full, as they last said. Raises RedisError when Redis is away."""
    busy, free = set[str](), set[str]()
    for _, told in _hashes():
        (free if _has_room(told) else busy).update(_queues(told))
    return busy - free


def _has_room(told: dict[str, str]) -> bool:
    """Whether one of its processes has nothing to do; those in which jobs wait are started when they are needed."""
    ordinary = [one for one in _listed(told.get("children")) if not _is_io_bound(one)]
    return any(not one["jobs"] for one in ordinary) if ordinary else told.get("state") != "busy"


def _running(session: Session) -> dict[str, list[SeenJob]]:
    rows = select(Job.worker, Job.id, Job.type, Job.started_at).where(Job.status == "started").limit(MOST_RUNNING)
    found: dict[str, list[SeenJob]] = defaultdict(list)
    for worker, job_id, type_name, started_at in session.execute(rows):
        found[worker or "unknown"].append(SeenJob(job_id, type_name, started_at or 0.0))
    return found


def _hashes() -> Iterable[tuple[str, dict[str, str]]]:
    """The hash of each registered worker, in two round trips; one that died without a word leaves an empty one."""
    if rq_queues.is_inline():
        return []
    redis = rq_queues.connection()
    keys = sorted(as_text(key) for key in redis.smembers(f"{RQ_KEY_PREFIX}:workers"))
    with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hgetall(key)
        found = pipeline.execute() if keys else []
    texts = [{name.decode(): value.decode(errors="replace") for name, value in one.items()} for one in found]
    return zip((key.removeprefix(f"{RQ_KEY_PREFIX}:worker:") for key in keys), texts, strict=True)


def _worker(name: str, told: dict[str, str], running: list[SeenJob]) -> SeenWorker:
    jobs = {job.id: job for job in running}
    children = [
        SeenChild(one["pid"], one["memory"], _is_io_bound(one), [jobs.pop(job_id) for job_id in one["jobs"] if job_id in jobs])
        for one in _listed(told.get("children"))
    ]
    return SeenWorker(
        name=name,
        host=told.get("hostname", ""),
        pid=_number(told.get("pid")),
        state=told.get("state", ""),
        queues=_queues(told),
        born_at=_moment(told.get("birth")),
        heartbeat_at=_moment(told.get("last_heartbeat")),
        finished=_number(told.get("successful_job_count")) or 0,
        failed=_number(told.get("failed_job_count")) or 0,
        memory=_number(told.get("memory")),
        children=children,
        jobs=list(jobs.values()),
    )


def _queues(told: dict[str, str]) -> list[str]:
    return [one for one in told.get("queues", "").split(",") if one]


def _listed(text: str | None) -> list[dict[str, Any]]:
    """What a worker says of its children; nothing where it is a stock one, which has none."""
    try:
        return list(json.loads(text or "[]"))
    except ValueError:
        return []


def _is_io_bound(child: dict[str, Any]) -> bool:
    """Whether it runs I/O-bound jobs; workers of the release before this one say `waits`."""
    return bool(child.get("io_bound", child.get("waits")))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _moment(text: str | None) -> float | None:
    try:
        moment: datetime | None = utcparse(text) if text else None
    except ValueError:
        return None
    return moment.timestamp() if moment else None
