"""The worker is told to stop: no job is lost, none counts as failed, and the processes are gone in time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from contextlib import suppress

import pytest
from rq import Retry

from tests.support.command_server import Forked
from tests.support.processes import until
from tests.support.worker import jobs_for_workers as jobs
from tests.support.worker.trial import Trial

pytestmark = pytest.mark.slow

QUEUES = ("high", "low")
ROUNDS = range(10)


@pytest.mark.parametrize("seed", ROUNDS)
def test_a_plain_sigterm_under_load_loses_no_job_and_runs_none_twice(trial: Trial, seed: int) -> None:
    """Stock loses one now and then: it stops between the pop and the note that it has popped."""
    pushed = trial.push_many(600, jobs.nap, 0.001, on=QUEUES)
    worker = trial.start("--quiet", queues=QUEUES)
    some = random.Random(seed).randrange(1, 25)
    until(lambda: len(trial.effects()) >= some, in_vain=lambda: worker.poll() is not None)
    assert trial.stop(worker) == 0
    places = trial.places()
    assert {job: places.get(job) for job in pushed if len(places.get(job, [])) != 1} == {}
    assert {places[job][0] for job in pushed} <= {"rq:queue:high", "rq:queue:low", "rq:finished:high", "rq:finished:low"}
    finished = [job for job, status in trial.statuses(pushed).items() if status == "finished"]
    assert sorted(trial.effects()) == sorted(f"{word} {job}" for job in finished for word in ("begin", "end"))


def test_two_signals_within_a_millisecond_end_an_idle_worker(trial: Trial) -> None:
    """Stock's thread that hears commands takes them off the main thread, which sleeps on."""
    for _ in range(2):
        workers = [trial.start("--quiet", queues=QUEUES, listens=False, WORKER_CONCURRENCY="1") for _ in range(8)]
        for number in range(len(trial.workers) - 7, len(trial.workers) + 1):
            trial.until_state("idle", name=f"w{number}")
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGINT)
        assert [_exit_code(worker, within=5) for worker in workers] == [0] * 8
    assert trial.processes() == []


def _exit_code(worker: Forked, within: float) -> int | None:
    with suppress(subprocess.TimeoutExpired):
        worker.wait(within)
    return worker.returncode


@pytest.mark.parametrize("whom", ["the worker", "all its processes"])
def test_a_job_that_outlasts_the_grace_goes_back_to_the_front_of_its_queue(trial: Trial, whom: str) -> None:
    """Hosts such as Heroku signal every process; stock then marks the job as failed."""
    worker = trial.start(SHUTDOWN_GRACE="1", WORKER_CONCURRENCY="1")
    long = trial.push(jobs.nap, 60, retry=Retry(max=2))
    trial.begun(long)
    behind = [trial.push(jobs.nap, 0) for _ in range(2)]
    for pid in [worker.pid] if whom == "the worker" else trial.processes():
        os.kill(pid, signal.SIGTERM)
    assert _exit_code(worker, within=25) == 0
    assert [one.decode() for one in trial.connection.lrange("rq:queue:default", 0, -1)] == [long, *behind]
    assert trial.status(long) == "queued"
    assert trial.job(long).retries_left == 2
    assert trial.places() == {job: ["rq:queue:default"] for job in (long, *behind)}
    assert trial.processes() == []


@pytest.mark.parametrize("whom", ["the worker", "all its processes"])
def test_a_job_that_ends_within_the_grace_is_finished(trial: Trial, whom: str) -> None:
    worker = trial.start(SHUTDOWN_GRACE="15", WORKER_CONCURRENCY="2")
    job = trial.push(jobs.wait_for)
    trial.begun(job)
    for pid in [worker.pid] if whom == "the worker" else trial.processes():
        os.kill(pid, signal.SIGTERM)
    trial.open()
    assert _exit_code(worker, within=20) == 0
    assert trial.status(job) == "finished"


def test_an_interrupted_job_runs_whole_in_the_next_worker(trial: Trial) -> None:
    worker = trial.start(SHUTDOWN_GRACE="0", WORKER_CONCURRENCY="1")
    job = trial.push(jobs.wait_for)
    trial.begun(job)
    assert trial.stop(worker) == 0
    trial.open()
    trial.burst()
    assert trial.status(job) == "finished"
    assert trial.effects() == [f"begin {job}", f"begin {job}", f"end {job}"]
