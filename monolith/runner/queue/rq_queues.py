"""Access to RQ's queues in Redis. They hold only job ids: if Redis loses all, the clock pushes the ids again from the ledger."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Protocol
from uuid import uuid4

import structlog
from redis import BlockingConnectionPool, Redis, RedisError
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, ResponseError
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

from monolith.config import settings
from monolith.db.models import rq_queue_of
from monolith.job_types import registry
from monolith.linux.fork_lock import ForkLock
from monolith.runner.queue.redis_client import RedisCooldown, options_of

PRIORITIES = registry.PRIORITIES
# The only function that messages name. By its name until 0.9, which workers of the release before accept too, so that a rolling
# deploy delays nothing; from 0.10 on by NEW_FUNCTION, which workers accept already.
FUNCTION = "monolith.runner.running.run"
NEW_FUNCTION = "monolith.runner.worker.execute.run"
MAX_CONNECTIONS = 3  # of one process: two web dynos with two processes each leave enough on a plan with 20 connections
REDIS_TIMEOUT_S = 0.5
MARGIN_S = 3  # the worker kills a job this long after the limit that the job's own process enforces
RESULT_TTL_S = 60
FAILURE_TTL_S = 600
OF_ONE_MESSAGE = ("created_at", "enqueued_at", "data", "meta")  # the fields that differ from one message of a job type to the next
INCARNATION = "intray:incarnation"
IDS_PER_PAGE = 10_000  # Redis answers nobody else while it returns them

# Set in a worker's children: small plans allow 20 connections in all, so the children share one at a time and keep none.
push_lock: ForkLock | None = None

cooldown = RedisCooldown()
log = structlog.get_logger()


@cache
def connection() -> Redis:
    """This process's Redis client, with short timeouts and no retries: a submission never waits long for Redis."""
    ours = {
        "max_connections": MAX_CONNECTIONS,
        "timeout": REDIS_TIMEOUT_S,
        "socket_timeout": REDIS_TIMEOUT_S,
        "socket_connect_timeout": REDIS_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    return Redis(connection_pool=BlockingConnectionPool(**{**options_of(settings().redis_url), **ours}))


@cache
def queue(name: str) -> Queue:
    return Queue(name, connection=connection(), serializer=JSONSerializer)


class Pushed(Protocol):
    """A job that can be pushed: any record of a row of the ledger."""

    @property
    def id(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def rq_queue(self) -> str: ...

    @property
    def crashes(self) -> int: ...

    @property
    def owner_id(self) -> int: ...


class InlinePool(Protocol):
    """What replaces Redis when jobs run in this process; see `scheduler.inline_runner`."""

    def push(self, jobs: Iterable[Pushed]) -> None: ...

    def waiting_ids(self, queue: str) -> set[str]: ...


_pools: list[InlinePool] = []


def use_pool(pool: InlinePool) -> None:
    """From now on, push to this pool in the same process."""
    _pools[:] = [pool]


def pool() -> InlinePool | None:
    return _pools[0] if _pools else None


def is_inline() -> bool:
    return settings().queue_mode == "inline"


def names() -> list[str]:
    """All RQ queues, the most urgent first: the order in which a worker takes from them."""
    return [rq_queue_of(name, priority) for priority in PRIORITIES for name in registry.queues()]


def push(jobs: Iterable[Pushed]) -> bool:
    """Push the ids of those jobs that are queued, in one round trip. False when Redis is away: the clock pushes them later."""
    queued = [job for job in jobs if job.status == "queued"]
    if not queued:
        return True
    if is_inline():  # a process without the pool, such as a command, leaves its jobs to the clock of the process with it
        if (inline := pool()) is not None:
            inline.push(queued)
        return inline is not None
    if cooldown.is_active:
        return False
    try:
        if push_lock is None:
            _push(queued)
        else:
            with push_lock.acquire(REDIS_TIMEOUT_S):
                try:
                    _push(queued)
                finally:
                    connection().connection_pool.disconnect()
    except (RedisError, TimeoutError) as error:
        if "WRONGTYPE" in str(error):  # of one key: the other queues can be pushed to
            log.error("push_refused", error=str(error), waiting=len(queued))
            return False
        cooldown.start()
        log.warning("redis_away", error=str(error), waiting=len(queued))
        return False
    return True


def _push(jobs: list[Pushed]) -> None:
    """Leave in Redis what `Queue.enqueue_call` leaves for each job, in one round trip and with a tenth of its work.

    Beside it goes what the worker's script serves shares by (see `prefork.redis_script`): the share of a job is its owner's id.
    """
    ids: dict[str, list[str]] = {}
    shares: dict[tuple[str, int], list[str]] = {}
    commands: list[Sequence[Any]] = []
    for job in jobs:
        is_io_bound, message = _message(job)
        ids.setdefault(job.rq_queue, []).append(job.id)
        shares.setdefault((_shares_key(job.rq_queue, is_io_bound), job.owner_id), []).append(job.id)
        key = RqJob.key_for(job.id)
        commands += [("HSET", key, *message), ("PERSIST", key)]  # the hash of an earlier run may be about to expire
    for name, of_queue in ids.items():
        commands += [("SADD", Queue.redis_queues_keys, queue(name).key), ("RPUSH", queue(name).key, *of_queue)]
    for (key, owner_id), of_owner in shares.items():
        commands += [("RPUSH", f"{key}:{owner_id}", *of_owner), ("ZADD", key, "NX", 0, owner_id)]
    _send(commands)


def _send(commands: list[Sequence[Any]]) -> None:
    """Send commands together and read all their replies. A pipeline of redis-py does the same in twice the time."""
    pool = connection().connection_pool
    link = pool.get_connection()
    try:
        link.send_packed_command(link.pack_commands(commands))
        for _ in commands:
            link.read_response()
    except BaseException:
        link.disconnect()  # replies that were not read must not answer the next commands
        raise
    finally:
        pool.release(link)


def _shares_key(queue_name: str, is_io_bound: bool) -> str:
    return f"rq:shares:{queue_name}:{'io_bound' if is_io_bound else 'ordinary'}"


def _message(job: Pushed) -> tuple[bool, tuple[Any, ...]]:
    """Whether the job is I/O-bound, and the fields and values of the hash that RQ keeps for it."""
    job_type = registry.discover().get(job.type)
    timeout = job_type.timeout if job_type else MARGIN_S
    # A job whose process died runs alone from then on: if its process dies again, no other job can be the reason.
    io_bound = job_type is not None and job_type.is_io_bound and not job.crashes
    moment = utcformat(rq_now())
    call: tuple[Any, ...] = (FUNCTION, None, (job.id,), {})
    values = moment, moment, _compressed(JSONSerializer.dumps(call)), _meta(job.owner_id, io_bound)
    own = zip(OF_ONE_MESSAGE, values, strict=True)
    return io_bound, (*_message_template(job.rq_queue, timeout), *chain.from_iterable(own))


def _meta(owner_id: int, io_bound: bool) -> bytes:
    meta = {"share": owner_id} | ({"io_bound": True, "waits": True} if io_bound else {})  # `waits`: for workers before 0.9; until 0.10
    written: bytes = JSONSerializer.dumps(meta)
    return written


def _compressed(content: bytes) -> bytes:
    """The content in the format of `zlib.compress`, with the smallest buffers: its own 256 kB take it ten times as long."""
    compressor = zlib.compressobj(wbits=9, memLevel=1)
    return compressor.compress(content) + compressor.flush()


@cache
def _message_template(queue_name: str, timeout: int) -> tuple[Any, ...]:
    """The fields that all messages of a queue and a time limit share, as RQ itself writes them."""
    message = queue(queue_name).create_job(
        FUNCTION,
        timeout=timeout + MARGIN_S,
        result_ttl=RESULT_TTL_S,
        failure_ttl=FAILURE_TTL_S,
        description="job",
        status=JobStatus.QUEUED,
    )
    fields = {name: value for name, value in message.to_dict().items() if name not in OF_ONE_MESSAGE}
    return tuple(part for field in fields.items() for part in field)


def withdraw(job_ids: Collection[str]) -> None:
    """Delete the messages of jobs that were cancelled, so that they cost their owner no turn. Their ids are dropped when they are taken."""
    if is_inline() or not job_ids or cooldown.is_active:
        return
    try:
        connection().delete(*map(RqJob.key_for, job_ids))
    except RedisError as error:
        cooldown.start()
        log.warning("messages_not_withdrawn", jobs=len(job_ids), error=str(error))


def is_reachable() -> bool:
    """Whether Redis answers, or is not needed."""
    if is_inline():
        return True
    try:
        return bool(connection().ping())
    except RedisError:
        return False


def lengths(queue_names: list[str]) -> dict[str, int]:
    """The number of messages in each queue. Raises RedisError when Redis is away."""
    if is_inline():
        return {name: len(waiting_ids(name)) for name in queue_names}
    with connection().pipeline(transaction=False) as pipeline:
        for name in queue_names:
            pipeline.llen(queue(name).key)
        return dict(zip(queue_names, pipeline.execute(), strict=True))


def incarnation() -> str:
    """A text that changes when Redis was restarted or emptied, so its messages may be lost. Raises RedisError when Redis is away."""
    if is_inline():
        return ""
    with connection().pipeline(transaction=False) as pipeline:
        pipeline.set(INCARNATION, uuid4().hex, nx=True)
        pipeline.get(INCARNATION)
        pipeline.info("server")
        _, mark, server = pipeline.execute(raise_on_error=False)
    if isinstance(mark, ResponseError):  # somebody has written something of another type there
        connection().delete(INCARNATION)
        return ""
    for answer in (mark, server):
        if isinstance(answer, RedisError) and not isinstance(answer, NoPermissionError):
            raise answer
    run_id = server.get("run_id") if isinstance(server, dict) else ""  # a Redis user without the right to INFO has the mark alone
    return f"{run_id} {os.fsdecode(mark or b'')}"


def waiting_ids(name: str) -> set[str]:
    """The ids of the jobs in the queue. Raises RedisError when Redis is away."""
    return {job_id for page in waiting_pages(name) for job_id in page}


def waiting_pages(name: str) -> Iterator[Collection[str]]:
    """The ids of the jobs in the queue, in pages from its end: workers take from its front, which shifts no page. Ids may repeat."""
    if is_inline():
        yield inline.waiting_ids(name) if (inline := pool()) else ()
        return
    place, page = 0, [""] * IDS_PER_PAGE
    while len(page) == IDS_PER_PAGE:
        place -= IDS_PER_PAGE
        page = [os.fsdecode(one) for one in connection().lrange(queue(name).key, place, place + IDS_PER_PAGE - 1)]
        yield page


def listened() -> set[str]:
    """The queues that at least one live worker listens to. Raises RedisError when Redis is away."""
    if is_inline():
        return set(names())
    return {name for _, fields in worker_hashes() for name in fields.get("queues", "").split(",") if name}


def worker_hashes() -> list[tuple[str, dict[str, str]]]:
    """The name and hash of each registered worker, in two round trips. That of a worker that was killed is empty. Raises RedisError.

    A hash that somebody has replaced by something else is left out.
    """
    client = connection()
    keys = sorted(map(os.fsencode, client.smembers(Worker.redis_workers_keys)))
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hgetall(key)
        found = pipeline.execute(raise_on_error=False) if keys else []
    prefix = Worker.redis_worker_namespace_prefix
    return [
        (key.decode(errors="replace").removeprefix(prefix), {_text(name): _text(value) for name, value in fields.items()})
        for key, fields in zip(keys, found, strict=True)
        if isinstance(fields, dict)
    ]


def _text(found: bytes) -> str:
    return found.decode(errors="replace")


def stop(job_id: str) -> None:
    """Tell the worker that runs the job to end it. While Redis is away, the worker notices at its next heartbeat or the job's next step."""
    if is_inline():
        return
    try:
        send_stop_job_command(connection(), job_id, serializer=JSONSerializer)
    except (RedisError, NoSuchJobError, InvalidJobOperation) as error:
        log.warning("stop_not_sent", job_id=job_id, error=str(error))


FEW = 10  # so many ids are removed from a queue without reading it first


REGISTRIES = (FailedJobRegistry, FinishedJobRegistry, CanceledJobRegistry)


def forget(jobs: Mapping[str, str], unclaimed: Collection[str]) -> None:
    """Delete everything about these jobs from Redis. Raises RedisError when Redis is away.

    jobs: id to RQ queue. unclaimed: the ids of those that may still be in their queue; looking for one reads the whole list.
    """
    if is_inline() or not jobs:
        return
    client = connection()
    with client.pipeline(transaction=False) as pipeline:
        for name in set(jobs.values()):
            ids = {one for one in jobs if jobs[one] == name}
            waiting = ids.intersection(unclaimed)
            for job_id in waiting & waiting_ids(name) if len(waiting) > FEW else waiting:  # each LREM reads the list again
                pipeline.lrem(queue(name).key, 0, job_id)
            for registry in REGISTRIES:
                pipeline.zrem(registry(name, connection=client).key, *ids)
        pipeline.delete(*(RqJob.key_for(one) for one in jobs), *(Result.get_key(one) for one in jobs))
        pipeline.execute()
