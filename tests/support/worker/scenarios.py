"""What a worker may meet, one function each: it pushes jobs, and a worker runs them in burst mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError
from rq import Callback, Queue, Repeat, Retry
from rq.exceptions import DuplicateJobError
from rq.group import Group
from rq.job import Dependency
from rq.rate_limit import RateLimit

from tests.support.worker import jobs_for_workers as jobs
from tests.support.worker.trial import Trial

JOBS = jobs.__name__


@dataclass(frozen=True)
class Scenario:
    """`in_any_order`: its state does not depend on which job ran first, so it must hold with several children as well."""

    name: str
    run: Callable[[Trial], Any]
    in_any_order: bool = True


ALL: list[Scenario] = []


def burst(
    *options: str, queues: tuple[str, ...] = ("default",), in_any_order: bool = True
) -> Callable[[Callable[[Trial], Any]], Callable[[Trial], Any]]:
    """Declare a scenario: what the function pushes is run with these options."""

    def declare(push: Callable[[Trial], Any]) -> Callable[[Trial], Any]:
        def run(trial: Trial) -> None:
            push(trial)
            trial.burst(*options, queues=queues)

        ALL.append(Scenario(push.__name__, run, in_any_order))
        return push

    return declare


# ---- ends


@burst()
def success(trial: Trial) -> None:
    trial.push(jobs.add, 1, 2)
    trial.push(jobs.echo, "a", {"b": [1, None]}, kwargs={"c": 3, "timeout": 4})
    trial.push(jobs.nothing)
    trial.push(jobs.origin)
    trial.push("operator.add", 1, 2)
    trial.push(jobs.add, 1, timeout=-1)


@burst()
def meta_saved_by_the_job(trial: Trial) -> None:
    trial.push(jobs.save_meta, meta={"given": True})


@burst()
def exception(trial: Trial) -> None:
    trial.push(jobs.fail)
    trial.push(jobs.fail, failure_ttl=100)
    trial.push(jobs.quit_python)


@burst()
def retries(trial: Trial) -> None:
    trial.push(jobs.fail_first, 1, retry=Retry(max=2))
    trial.push(jobs.fail, retry=Retry(max=2))
    trial.push(jobs.fail, retry=Retry(max=2, interval=[60, 120]))
    trial.push(jobs.crash, retry=Retry(max=1))


@burst(in_any_order=False)
def retry_at_the_front(trial: Trial) -> None:
    trial.push(jobs.fail_first, 1, retry=Retry(max=2, enqueue_at_front=True))
    trial.push(jobs.note, "behind")


@burst()
def retry_that_the_job_returned(trial: Trial) -> None:
    trial.push(jobs.ask_for_retry)


@burst()
def timeout(trial: Trial) -> None:
    trial.push(jobs.sleep_loop, timeout=1)
    trial.push(jobs.sleep_loop, timeout=1, on_failure=Callback(jobs.on_failure))


@burst()
def crash(trial: Trial) -> None:
    trial.push(jobs.crash)
    first = trial.push(jobs.crash, on_failure=Callback(jobs.on_failure))
    trial.push(jobs.add, 1, depends_on=Dependency([first], allow_failure=True))


# ---- callbacks


@burst()
def callbacks(trial: Trial) -> None:
    trial.push(jobs.add, 1, 2, on_success=Callback(jobs.on_success), on_failure=Callback(jobs.on_failure, timeout=5))


@burst()
def failure_callback(trial: Trial) -> None:
    trial.push(jobs.fail, on_success=Callback(jobs.on_success), on_failure=Callback(jobs.on_failure))
    trial.push(jobs.fail, retry=Retry(max=1), on_failure=Callback(jobs.on_failure))


@burst()
def callbacks_that_raise(trial: Trial) -> None:
    trial.push(jobs.add, 1, 2, on_success=Callback(jobs.on_any_raise))
    trial.push(jobs.fail, on_failure=Callback(jobs.on_any_raise))
    trial.push(jobs.add, 1, on_success=Callback(jobs.on_any_raise), on_failure=Callback(jobs.on_failure))


# ---- what follows


@burst()
def dependents(trial: Trial) -> None:
    first = trial.push(jobs.add, 1, 2)
    second = trial.push(jobs.add, 3, depends_on=first)
    trial.push(jobs.add, 4, depends_on=[first, second])


@burst()
def dependents_of_a_failure(trial: Trial) -> None:
    first = trial.push(jobs.fail)
    trial.push(jobs.add, 1, depends_on=first)
    trial.push(jobs.add, 2, depends_on=Dependency([first], allow_failure=True))


@burst(queues=("default", "other"))
def dependents_on_another_queue(trial: Trial) -> None:
    trial.push(jobs.add, 2, on="other", depends_on=trial.push(jobs.add, 1))


@burst(in_any_order=False)
def dependent_at_the_front(trial: Trial) -> None:
    first = trial.push(jobs.note, "first")
    trial.push(jobs.note, "second")
    trial.push(jobs.note, "dependent", depends_on=Dependency([first], enqueue_at_front=True))


@burst()
def repeats(trial: Trial) -> None:
    trial.push(jobs.note, "again", repeat=Repeat(times=2))
    trial.push(jobs.note, "later", repeat=Repeat(times=2, interval=[60, 90]))


@burst()
def group(trial: Trial) -> None:
    members = [Queue.prepare_data(jobs.add, (number,), job_id=f"member{number}") for number in range(3)]
    Group.create(trial.connection, name="all").enqueue_many(trial.queue(), members)


@burst()
def rate_limits(trial: Trial) -> None:
    for _ in range(3):
        trial.push(jobs.ran, rate_limit=RateLimit("few", 1))
    trial.push(jobs.fail, rate_limit=RateLimit("few", 1))
    trial.push(jobs.add, 1, rate_limit=RateLimit("few", 1))


# ---- results


@burst()
def unserialisable_result(trial: Trial) -> None:
    trial.push(jobs.unserialisable)
    trial.push(jobs.unserialisable, on_success=Callback(jobs.on_any_raise))


@burst("--serializer", "json")
def unserialisable_result_in_json(trial: Trial) -> None:
    trial.push(jobs.unserialisable, serializer="json")


@burst("--serializer", "json")
def json(trial: Trial) -> None:
    trial.push(jobs.echo, "ä", [1.5, {"b": None}], serializer="json", meta={"given": True})
    trial.push(jobs.save_meta, serializer="json")
    trial.push(jobs.fail, serializer="json", retry=Retry(max=1), on_failure=Callback(jobs.on_failure))
    trial.push(jobs.crash, serializer="json")


@burst()
def lifetimes(trial: Trial) -> None:
    for seconds in (0, 10, -1):
        trial.push(jobs.add, 1, result_ttl=seconds)
    trial.push(jobs.add, 1, ttl=300)
    trial.push(jobs.fail, result_ttl=0, failure_ttl=-1)
    trial.push(jobs.add, 2, depends_on=trial.push(jobs.add, 1, result_ttl=0))


@burst("--results-ttl", "77")
def lifetime_given_to_the_worker(trial: Trial) -> None:
    trial.push(jobs.add, 1)


@burst()
def large_arguments_and_results(trial: Trial) -> None:
    trial.push(jobs.blob, 300_000)
    trial.push(jobs.length, "y" * 300_000)


# ---- what is wrong before it begins


@burst()
def missing_function(trial: Trial) -> None:
    trial.push(f"{JOBS}.no_such_function")
    trial.push("no_such_module.function", on_failure=Callback(jobs.on_failure))
    trial.push(jobs.nothing, 1, 2)


@burst(queues=("default", "other"))
def corrupt_data(trial: Trial) -> None:
    damaged = trial.push(jobs.add, 1)
    trial.connection.hset(f"rq:job:{damaged}", "data", b"garbage")
    trial.push(jobs.add, 2)


@burst(queues=("default", "other"))
def job_that_vanished(trial: Trial) -> None:
    """On two queues: with one, stock leaves the id in its intermediate queue for maintenance to find."""
    trial.connection.delete(f"rq:job:{trial.push(jobs.add, 1)}")
    trial.push(jobs.add, 2)


@burst(queues=("default", "other"))
def canceled_job_still_in_its_queue(trial: Trial) -> None:
    canceled = trial.push(jobs.ran)
    trial.job(canceled).cancel()
    trial.connection.rpush("rq:queue:default", canceled)
    trial.push(jobs.ran)


# ---- order


@burst(in_any_order=False)
def at_the_front(trial: Trial) -> None:
    for word in ("first", "second"):
        trial.push(jobs.note, word)
    trial.push(jobs.note, "before them", at_front=True)


@burst(queues=("high", "default", "low"), in_any_order=False)
def queues_in_strict_order(trial: Trial) -> None:
    for name in ("low", "default", "high", "low", "default", "high"):
        trial.push(jobs.note, name, on=name)


@burst("--dequeue-strategy", "round_robin", queues=("high", "default", "low"), in_any_order=False)
def queues_in_turn(trial: Trial) -> None:
    for name in ("low", "default", "high", "low", "high", "high"):
        trial.push(jobs.note, name, on=name)


@burst("--max-jobs", "2", in_any_order=False)
def max_jobs(trial: Trial) -> None:
    for word in "abcd":
        trial.push(jobs.note, word)


@burst()
def unique(trial: Trial) -> None:
    trial.queue().enqueue_call(jobs.ran, job_id="only", unique=True)
    try:
        trial.queue().enqueue_call(jobs.ran, job_id="only", unique=True)
    except (DuplicateJobError, RedisError):
        trial.push(jobs.note, "refused")


@burst("--disable-default-exception-handler", "--exception-handler", f"{JOBS}.on_error")
def exception_handler(trial: Trial) -> None:
    trial.push(jobs.fail)
