"""What Redis has of jobs that are deleted for good: their messages, and what RQ's registries and results hold."""

from __future__ import annotations

from collections.abc import Mapping

from rq.job import Job as RqJob
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.results import Result

from monolith.runner import queues

REGISTRIES = (FailedJobRegistry, FinishedJobRegistry, CanceledJobRegistry)


def forget(jobs: Mapping[str, str]) -> None:
    """Delete all that Redis has of these jobs, given with their RQ queues. Raises RedisError when Redis is away."""
    if queues.is_inline() or not jobs:
        return
    connection = queues.connection()
    waiting = {name: jobs.keys() & queues.waiting_ids(name) for name in set(jobs.values())}  # seldom any; LREM reads the whole list
    with connection.pipeline(transaction=False) as pipeline:
        for name, ids in waiting.items():
            for job_id in ids:
                pipeline.lrem(queues.queue(name).key, 0, job_id)
            for registry in REGISTRIES:
                pipeline.zrem(registry(name, connection=connection).key, *(one for one in jobs if jobs[one] == name))
        pipeline.delete(*(RqJob.key_for(one) for one in jobs), *(Result.get_key(one) for one in jobs))
        pipeline.execute()
