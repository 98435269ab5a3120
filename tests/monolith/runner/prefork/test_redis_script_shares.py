"""Who takes turns: the order in which the worker's script takes jobs that name a share, on a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count

import pytest
from redis import Redis
from rq import Queue

from monolith.runner.prefork.redis_script import FreeSlots, RedisScript
from monolith.runner.prefork.task import Ending, Task

ORDINARY, IO_BOUND = "ordinary", "io_bound"


class Jobs:
    """A queue on an empty Redis, and the script of one worker. The id of a job is its share's letter and a number."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.queue = Queue("default", connection=redis)
        self.script = RedisScript(redis, "w", 100, 30, 60)
        self._numbers = count(1)

    def push(self, letters: str, kind: str = ORDINARY) -> list[str]:
        """Push a job for each letter, as `rq_queues.push` does."""
        ids = [f"{letter}{next(self._numbers)}" for letter in letters]
        with self.redis.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                self.write(job_id, kind, pipeline)
                pipeline.rpush(self.queue.key, job_id)
                pipeline.rpush(f"rq:shares:default:{kind}:{ord(job_id[0])}", job_id)
                pipeline.zadd(f"rq:shares:default:{kind}", {str(ord(job_id[0])): 0}, nx=True)
            pipeline.execute()
        return ids

    def write(self, job_id: str, kind: str = ORDINARY, client: Redis | None = None) -> None:
        meta = {"share": ord(job_id[0])} | ({"io_bound": True} if kind == IO_BOUND else {})
        (client or self.redis).hset(f"rq:job:{job_id}", mapping={"status": "queued", "origin": "default", "meta": json.dumps(meta)})

    def turn(self, free: int = 1, io_bound: int = 0, endings: list[Ending] | None = None) -> list[Task]:
        return self.script.turn(endings or [], [self.queue], FreeSlots(free, io_bound), "", skips=True).taken

    def take(self, free: int = 1, io_bound: int = 0) -> str:
        """The letters of the jobs that one turn takes."""
        return "".join(task.job_id[0] for task in self.turn(free, io_bound))


@pytest.fixture
def jobs(redis_server: str) -> Iterator[Jobs]:
    with Redis.from_url(redis_server, protocol=2) as redis:
        redis.flushall()
        yield Jobs(redis)
        redis.flushall()


def test_the_shares_take_turns_and_a_share_keeps_its_order(jobs: Jobs) -> None:
    a, b = jobs.push("aaaa"), jobs.push("bb")
    taken = [task.job_id for task in jobs.turn(6)]
    assert [one[0] for one in taken] == ["a", "b", "a", "b", "a", "a"]
    assert [one for one in taken if one[0] == "a"] == a
    assert [one for one in taken if one[0] == "b"] == b


def test_a_share_that_had_nothing_waiting_is_next_whatever_the_backlog(jobs: Jobs) -> None:
    jobs.push("a" * 1000)
    assert jobs.take(10) == "a" * 10
    jobs.push("b")
    assert jobs.take() == "b"
    assert jobs.take(3) == "aaa"


def test_a_share_that_always_comes_back_does_not_hold_up_the_others(jobs: Jobs) -> None:
    jobs.push("a" * 20)
    taken = ""
    for _ in range(20):
        jobs.push("b")
        taken += jobs.take()
    assert 9 <= taken.count("a") <= 11


def test_kinds_of_slots_have_turns_of_their_own(jobs: Jobs) -> None:
    jobs.push("aaa"), jobs.push("aaa", IO_BOUND), jobs.push("b", IO_BOUND)
    assert jobs.take(0, 2) == "ab"
    assert jobs.take(1, 0) == "a"
    assert jobs.take(9, 9) == "aaaa"
    assert jobs.redis.keys("rq:shares:*") == []


def test_jobs_that_are_gone_cost_no_turn(jobs: Jobs) -> None:
    gone = jobs.push("a" * 500)
    jobs.push("a"), jobs.push("bbb")
    jobs.redis.delete(*(f"rq:job:{one}" for one in gone))  # as a cancellation does
    assert jobs.take(2) == "ab"


def test_more_jobs_that_are_gone_than_a_turn_removes_hold_up_nothing(jobs: Jobs) -> None:
    gone = jobs.push("a" * 2500)
    jobs.push("a")
    jobs.redis.delete(*(f"rq:job:{one}" for one in gone))
    assert "".join(jobs.take() for _ in range(4)) == "a"
    assert jobs.redis.exists(jobs.queue.key) == 0


def test_a_job_that_did_not_run_gives_its_turn_back(jobs: Jobs) -> None:
    jobs.push("aaaa"), jobs.push("bbbb")
    for _ in range(3):
        (task,) = jobs.turn()
        assert task.job_id[0] == "a"
        jobs.turn(0, endings=[Ending("pass", task)])
    assert jobs.take(2) in ("ab", "ba")


def test_a_job_that_did_not_run_is_gone_unless_it_was_pushed_again(jobs: Jobs) -> None:
    gone, again = jobs.push("ab")
    tasks = jobs.turn(2)
    jobs.write(again)
    jobs.turn(0, endings=[Ending("pass", task) for task in tasks])
    assert jobs.redis.exists(f"rq:job:{gone}") == 0
    assert (jobs.redis.hget(f"rq:job:{again}", "status"), jobs.redis.ttl(f"rq:job:{again}")) == (b"queued", -1)


def test_a_job_that_the_hooks_have_claimed_is_finished_without_a_result(jobs: Jobs) -> None:
    finished, closed = jobs.push("ab")
    tasks = jobs.turn(2)
    jobs.turn(0, endings=[Ending(how, task) for how, task in zip(("finish", "close"), tasks, strict=True)])
    assert {jobs.redis.hget(f"rq:job:{one}", "status") for one in (finished, closed)} == {b"finished"}
    assert {jobs.redis.ttl(f"rq:job:{one}") for one in (finished, closed)} == {60}
    assert jobs.redis.keys("rq:results:*") == [f"rq:results:{finished}".encode()]


def test_a_job_that_is_put_back_is_the_first_of_its_share_again(jobs: Jobs) -> None:
    a = jobs.push("aaa")
    jobs.push("bbb")
    tasks = jobs.turn(3)
    assert [task.job_id[0] for task in tasks] == ["a", "b", "a"]
    jobs.turn(0, endings=[Ending("requeue", task) for task in reversed([task for task in tasks if task.job_id[0] == "a"])])
    assert [task.job_id for task in jobs.turn(9) if task.job_id[0] == "a"] == a


def test_a_job_that_no_share_knows_is_taken_in_its_turn(jobs: Jobs) -> None:
    """RQ's own requeue, and processes of the version before, push to the queue only."""
    jobs.write("c0")
    jobs.redis.rpush(jobs.queue.key, "c0")
    jobs.push("a" * 100)
    assert "c" in jobs.take(2)
    jobs.redis.lpush(jobs.queue.key, "c1")  # in front
    jobs.write("c1")
    assert "c" in jobs.take(2)


def test_a_job_whose_share_has_no_turn_is_taken(jobs: Jobs) -> None:
    """A push that was cut off, or an older worker that put the job back after the queue was empty."""
    (lost,) = jobs.push("c")
    jobs.redis.delete("rq:shares:default:ordinary")
    jobs.push("a" * 100)
    assert lost in [task.job_id for task in jobs.turn(2)]


def test_jobs_that_name_no_share_have_turns_beside_those_that_do(jobs: Jobs) -> None:
    for number in range(5):
        jobs.redis.hset(f"rq:job:x{number}", "status", "queued")
        jobs.redis.rpush(jobs.queue.key, f"x{number}")
    jobs.push("a" * 100)
    assert "".join(jobs.take() for _ in range(12)).count("x") == 5


def test_an_empty_queue_leaves_nothing_of_its_shares(jobs: Jobs) -> None:
    jobs.push("abcabc")
    jobs.redis.delete(jobs.queue.key)  # as RQ empties it
    assert jobs.take() == ""
    assert jobs.redis.keys("rq:shares:*") == []


@pytest.mark.parametrize("key", ["", ":97", ":turn"])
def test_what_somebody_else_has_put_there_stalls_nothing(jobs: Jobs, key: str) -> None:
    ids = jobs.push("aab")
    jobs.redis.delete(f"rq:shares:default:ordinary{key}")
    jobs.redis.set(f"rq:shares:default:ordinary{key}", "not a number")
    assert {task.job_id for _ in range(6) for task in jobs.turn()} == set(ids)


def test_a_job_that_has_become_ordinary_is_not_started_as_io_bound(jobs: Jobs) -> None:
    (job_id,) = jobs.push("a", IO_BOUND)
    jobs.redis.delete(jobs.queue.key, "rq:shares:default:io_bound")  # an older worker has taken it
    jobs.write(job_id)
    jobs.redis.rpush(jobs.queue.key, job_id)
    jobs.redis.zadd("rq:shares:default:io_bound", {"97": 0})
    assert [(task.job_id, task.io_bound) for task in jobs.turn(1, 1)] == [(job_id, False)]


def test_a_turn_searches_a_long_list_a_few_times_at_most(jobs: Jobs) -> None:
    taken = jobs.push("a" * 100)
    jobs.redis.ltrim(jobs.queue.key, 100, -1)  # another worker has taken them; their hashes are there for a minute
    jobs.push("bb")
    assert jobs.take() == ""
    assert jobs.redis.llen("rq:shares:default:ordinary:97") >= len(taken) - 20
    assert "".join(jobs.take() for _ in range(7)) == "bb"


def test_jobs_that_another_worker_class_has_taken_cost_no_turn(jobs: Jobs) -> None:
    taken = jobs.push("aaa")
    jobs.push("a"), jobs.push("b")
    for job_id in taken:
        assert jobs.redis.lpop(jobs.queue.key) == job_id.encode()
    assert jobs.take(2) == "ab"


def test_jobs_without_a_share_are_taken_in_the_order_of_the_list(jobs: Jobs) -> None:
    for number in range(5):
        jobs.redis.hset(f"rq:job:x{number}", "status", "queued")
        jobs.redis.rpush(jobs.queue.key, f"x{number}")
    assert [task.job_id for task in jobs.turn(5)] == [f"x{number}" for number in range(5)]


def test_a_thousand_shares_have_their_first_job_run_before_the_second_of_anybody(jobs: Jobs) -> None:
    letters = "".join(map(chr, range(1000, 2000)))
    jobs.push("a" * 1000 + letters)
    assert set(jobs.take(1001)) == {"a", *letters}
