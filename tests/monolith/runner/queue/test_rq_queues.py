"""What a push leaves in Redis is what RQ's own `enqueue_call` leaves: an RQ that changes it is noticed here."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import pytest
from redis.connection import AbstractConnection

from monolith.job_types import registry
from monolith.runner.ledger.guarded_update import JobRecord
from monolith.runner.queue import rq_queues
from tests.support.callers import Caller
from tests.support.jobs import new_jobs

pytestmark = pytest.mark.databases

MOMENTS = (b"created_at", b"enqueued_at")


@pytest.fixture
def submit(alice: Caller) -> Callable[..., list[JobRecord]]:
    return lambda number, **wanted: new_jobs(alice.user.id, number=number, **wanted)


def everything_in_redis() -> dict[bytes, tuple[bytes, Any, int]]:
    """Each key with its type, content and time to live; what is compressed is decompressed, moments count by their length alone."""
    redis = rq_queues.connection()
    readers = {b"hash": redis.hgetall, b"list": lambda key: redis.lrange(key, 0, -1), b"set": redis.smembers, b"zset": lambda key: key}
    found = {}
    for key in redis.scan_iter():
        kind = redis.type(key)
        content = readers[kind](key)
        if kind == b"hash":
            content = {name: len(value) if name in MOMENTS else value for name, value in content.items()}
            content[b"data"] = zlib.decompress(content[b"data"])
        found[key] = (kind, content, redis.ttl(key))
    return found


def enqueue_with_rq(job: JobRecord) -> None:
    timeout = registry.find(job.type).timeout + rq_queues.MARGIN_S
    options: dict[str, Any] = {"result_ttl": rq_queues.RESULT_TTL_S, "failure_ttl": rq_queues.FAILURE_TTL_S, "description": "job"}
    options["meta"] = {"share": job.owner_id}
    rq_queues.queue(job.rq_queue).enqueue_call(rq_queues.FUNCTION, args=(job.id,), job_id=job.id, timeout=timeout, **options)


@pytest.mark.parametrize(("number", "priority"), [(1, "normal"), (3, "high")])
def test_a_push_leaves_in_redis_what_rq_itself_leaves(submit, number, priority):
    jobs = submit(number, priority=priority)
    ours = everything_in_redis()
    shares = f"rq:shares:default.{priority}:ordinary"
    assert (ours.pop(shares.encode())[0], rq_queues.connection().zrange(shares, 0, -1)) == (b"zset", [str(jobs[0].owner_id).encode()])
    assert ours.pop(f"{shares}:{jobs[0].owner_id}".encode())[1] == [job.id.encode() for job in jobs]
    rq_queues.connection().flushall()
    for job in jobs:
        enqueue_with_rq(job)
    assert ours == everything_in_redis()
    assert len(ours) == number + 2  # a hash for each, the queue, the set of queues


def test_jobs_of_several_queues_are_pushed_in_order_with_one_round_trip(submit, monkeypatch):
    sent = []
    send = AbstractConnection.send_packed_command
    monkeypatch.setattr(AbstractConnection, "send_packed_command", lambda self, *args, **how: sent.append(1) or send(self, *args, **how))
    jobs = [*submit(2), *submit(2, priority="low")]
    assert len(sent) == 2  # one for each submission
    rq_queues.connection().flushall()
    sent.clear()
    rq_queues.push(jobs)
    assert len(sent) == 1
    for name, ids in (("default.normal", jobs[:2]), ("default.low", jobs[2:])):
        assert rq_queues.queue(name).get_job_ids() == [job.id for job in ids]


def test_an_error_reply_in_the_middle_of_a_push_leaves_no_reply_for_the_next_command(submit):
    redis = rq_queues.connection()
    redis.set("rq:queues", "not a set")
    jobs = submit(1)  # adding its queue to the set is refused; a reply follows that one
    assert not rq_queues.cooldown.is_active  # the other queues can be pushed to
    assert redis.get("rq:queues") == b"not a set"
    redis.delete("rq:queues")
    assert rq_queues.push(jobs)
