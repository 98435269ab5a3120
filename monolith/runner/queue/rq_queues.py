"""The one door to RQ and Redis. Redis holds only ids: losing all of it loses nothing, the ledger pushes again."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Protocol
from uuid import uuid4

import structlog
from redis import BlockingConnectionPool, Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, Worker
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import now as rq_now
from rq.utils import utcformat
from rq.worker import BaseWorker

from monolith.config import settings
from monolith.db.models import rq_queue_of
from monolith.job_types import registry
from monolith.linux.fork_lock import ForkLock
from monolith.runner.queue.redis_client import RedisCooldown, options_of

PRIORITIES = registry.PRIORITIES
FUNCTION = "monolith.runner.worker.execute.run"  # the only function that a message ever names
MAX_CONNECTIONS = 3  # of one process: two web dynos of two each leave room for the rest on a plan of 20
REDIS_TIMEOUT_S = 0.5
MARGIN_S = 3  # the worker kills a job this much behind the limit that the job's own process holds
RESULT_TTL_S = 60
FAILURE_TTL_S = 600
INCARNATION = "intray:incarnation"
IDS_AT_ONCE = 10_000  # read from Redis, which answers nobody else meanwhile

# In a worker's children, which are many: small plans give 20 connections in all, so they have one among them, and keep none.
turns: ForkLock | None = None

log = structlog.get_logger()


breaker = RedisCooldown()


@cache
def connection() -> Redis:
    """This process's Redis client: short time-outs, no retries, so that a submission never waits for Redis."""
    pool = BlockingConnectionPool(
        **options_of(settings().redis_url),
        max_connections=MAX_CONNECTIONS,
        timeout=REDIS_TIMEOUT_S,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis(connection_pool=pool)


@cache
def queue(name: str) -> Queue:
    return Queue(name, connection=connection(), serializer=JSONSerializer)


class Pushed(Protocol):
    """What a message is made of: a row of the ledger, however it was read."""

    @property
    def id(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def priority(self) -> str: ...

    @property
    def rq_queue(self) -> str: ...

    @property
    def crashes(self) -> int: ...


class InlinePool(Protocol):
    """What stands where Redis would when jobs run in this process; see `inline`."""

    def push(self, jobs: Iterable[Pushed]) -> None: ...

    def waiting_ids(self, queue: str) -> set[str]: ...


_pools: list[InlinePool] = []


def use_pool(pool: InlinePool) -> None:
    """From now on, push to this pool of the same process."""
    _pools[:] = [pool]


def pool() -> InlinePool | None:
    return _pools[0] if _pools else None


def is_inline() -> bool:
    return settings().queue_mode == "inline"


def names() -> list[str]:
    """Every RQ queue there is, the most urgent first: a worker takes from them in this order."""
    queues = sorted({job_type.queue for job_type in registry.discover().values()})
    return [rq_queue_of(name, priority) for priority in PRIORITIES for name in queues]


def push(jobs: Iterable[Pushed]) -> bool:
    """Push the ids of queued jobs in one round trip. False when Redis is away: the clock pushes them when it is back."""
    queued = [job for job in jobs if job.status == "queued"]
    if not queued:
        return True
    if is_inline():
        return _push_inline(queued)
    if breaker.is_open:
        return False
    try:
        _push(queued) if turns is None else _push_in_turn(queued, turns)
    except (RedisError, TimeoutError) as error:
        breaker.open()
        log.warning("redis_away", error=str(error), waiting=len(queued))
        return False
    return True


def _push_inline(jobs: list[Pushed]) -> bool:
    """False in a process without a pool, such as a command's: the clock of the one that has it finds the rows."""
    if (own := pool()) is not None:
        own.push(jobs)
    return own is not None


def _push_in_turn(jobs: list[Pushed], turns: ForkLock) -> None:
    with turns.one(REDIS_TIMEOUT_S):
        try:
            _push(jobs)
        finally:
            connection().connection_pool.disconnect()


def _push(jobs: list[Pushed]) -> None:
    """Leave in Redis what `Queue.enqueue_call` leaves for each, in one round trip and with a tenth of its work."""
    with connection().pipeline(transaction=False) as pipeline:
        for job in jobs:
            pipeline.hset(RqJob.key_for(job.id), mapping=_message(job))
        for name, of_one in _by_queue(jobs).items():
            pipeline.sadd(Queue.redis_queues_keys, queue(name).key)
            pipeline.rpush(queue(name).key, *of_one)
        pipeline.execute()


def _by_queue(jobs: list[Pushed]) -> dict[str, list[str]]:
    """The ids, by the RQ queue they go to."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        found.setdefault(job.rq_queue, []).append(job.id)
    return found


def _message(job: Pushed) -> dict[Any, Any]:
    """The job as RQ keeps it in Redis."""
    moment = utcformat(rq_now())
    call: tuple[Any, ...] = (FUNCTION, None, (job.id,), {})
    own = {"created_at": moment, "enqueued_at": moment, "data": zlib.compress(JSONSerializer.dumps(call))}
    return {**_alike(job.rq_queue, _timeout(job.type), _waits(job)), **own}


@cache
def _alike(queue_name: str, timeout: int, waits: bool) -> dict[str, Any]:
    """What is the same in all messages of a queue and a time limit, as RQ itself writes it."""
    message = queue(queue_name).create_job(
        FUNCTION,
        timeout=timeout + MARGIN_S,
        result_ttl=RESULT_TTL_S,
        failure_ttl=FAILURE_TTL_S,
        description="job",
        meta={"waits": True} if waits else None,
        status=JobStatus.QUEUED,
    )
    written: dict[str, Any] = message.to_dict()
    return written


def _waits(job: Pushed) -> bool:
    """Whether it may run in a thread beside others. One whose process died runs alone from then on: who did it then shows."""
    job_type = registry.discover().get(job.type)
    return job_type is not None and job_type.is_io_bound and not job.crashes


def _timeout(type_name: str) -> int:
    job_type = registry.discover().get(type_name)
    return job_type.timeout if job_type else MARGIN_S


def is_reachable() -> bool:
    """Whether Redis answers now, or is not needed."""
    if is_inline():
        return True
    try:
        return bool(connection().ping())
    except RedisError:
        return False


def lengths(queue_names: list[str]) -> dict[str, int]:
    """How many messages wait in each queue. Raises RedisError when Redis is away."""
    if is_inline():
        return {name: len(waiting_ids(name)) for name in queue_names}
    with connection().pipeline(transaction=False) as pipeline:
        for name in queue_names:
            pipeline.llen(queue(name).key)
        return dict(zip(queue_names, pipeline.execute(), strict=True))


def incarnation() -> str:
    """What changes when Redis is started again or emptied: its messages may be gone then. Raises RedisError when it is away."""
    if is_inline():
        return ""
    with connection().pipeline(transaction=False) as pipeline:
        pipeline.set(INCARNATION, uuid4().hex, nx=True)
        pipeline.get(INCARNATION)
        pipeline.info("server")
        _, mark, server = pipeline.execute()
    return f"{server['run_id']} {mark.decode()}"


def waiting_ids(name: str) -> set[str]:
    """The job ids whose message waits in the queue. Raises RedisError when Redis is away."""
    return {job_id for page in waiting_pages(name) for job_id in page}


def waiting_pages(name: str) -> Iterator[Collection[str]]:
    """The same, page by page from the end: workers take from the front, which moves no page. Some ids may come twice."""
    if is_inline():
        yield own.waiting_ids(name) if (own := pool()) else ()
        return
    place, page = 0, [""] * IDS_AT_ONCE
    while len(page) == IDS_AT_ONCE:
        place -= IDS_AT_ONCE
        page = [os.fsdecode(one) for one in connection().lrange(queue(name).key, place, place + IDS_AT_ONCE - 1)]
        yield page


def listened() -> set[str]:
    """The queues that some living worker listens to. Raises RedisError when Redis is away."""
    if is_inline():
        return set(names())
    return {name for worker in _living() for name in worker.queue_names()}


def stop(job_id: str) -> None:
    """Ask the worker that runs the job to end it now. Where Redis is away, its heartbeat or its next step does."""
    if is_inline():
        return
    try:
        send_stop_job_command(connection(), job_id, serializer=JSONSerializer)
    except (RedisError, NoSuchJobError, InvalidJobOperation) as error:
        log.warning("stop_not_sent", job_id=job_id, error=str(error))


def _living() -> list[BaseWorker]:
    return Worker.all(connection=connection(), serializer=JSONSerializer)


FEW = 10
REGISTRIES = (FailedJobRegistry, FinishedJobRegistry, CanceledJobRegistry)


def forget(jobs: Mapping[str, str]) -> None:
    """Delete all that Redis has of these jobs, given with their RQ queues. Raises RedisError when Redis is away."""
    if is_inline() or not jobs:
        return
    client = connection()
    waiting = {name: {one for one in jobs if jobs[one] == name} for name in set(jobs.values())}
    for name, ids in waiting.items():
        if len(ids) > FEW:  # seldom is one of them in the queue, and each LREM reads the whole list
            ids &= waiting_ids(name)
    with client.pipeline(transaction=False) as pipeline:
        for name, ids in waiting.items():
            for job_id in ids:
                pipeline.lrem(queue(name).key, 0, job_id)
            for registry in REGISTRIES:
                pipeline.zrem(registry(name, connection=client).key, *(one for one in jobs if jobs[one] == name))
        pipeline.delete(*(RqJob.key_for(one) for one in jobs), *(Result.get_key(one) for one in jobs))
        pipeline.execute()
