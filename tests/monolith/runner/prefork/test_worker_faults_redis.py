"""Redis goes away, forgets, freezes or hangs up: the worker lives, registers itself again and goes on with new jobs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rq.command import send_stop_job_command

from tests.support.command_server import Forked
from tests.support.processes import until
from tests.support.servers import RedisServer
from tests.support.worker import jobs_for_workers as jobs
from tests.support.worker.trial import Trial

pytestmark = pytest.mark.slow

FROZEN_S = 5
BACK_S = 30


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    one = RedisServer(tmp_path)
    yield one
    one.kill()


@pytest.fixture
def trial(server: RedisServer, tmp_path: Path) -> Iterator[Trial]:
    one = Trial(server.url, tmp_path)
    yield one
    one.end()


def restarts_empty(server: RedisServer, trial: Trial) -> None:
    server.kill()
    time.sleep(1)  # the outage
    server.start()


def is_flushed(server: RedisServer, trial: Trial) -> None:
    trial.connection.flushall()


def freezes(server: RedisServer, trial: Trial) -> None:
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(FROZEN_S)  # the outage
    server.process.send_signal(signal.SIGCONT)


def hangs_up(server: RedisServer, trial: Trial) -> None:
    for client in trial.connection.client_list():
        trial.connection.client_kill_filter(_id=client["id"], skipme=True)


FAULTS = pytest.mark.parametrize("fault", [restarts_empty, is_flushed, freezes, hangs_up], ids=lambda fault: fault.__name__)
Fault = Callable[[RedisServer, Trial], None]


@FAULTS
def test_an_idle_worker_goes_on_after_redis(trial: Trial, server: RedisServer, fault: Fault) -> None:
    worker = trial.start(queues=("default", "low"))
    fault(server, trial)
    _goes_on(trial, worker)


@FAULTS
def test_a_busy_worker_goes_on_after_redis(trial: Trial, server: RedisServer, fault: Fault) -> None:
    worker = trial.start(queues=("default", "low"), WORKER_CONCURRENCY="2")
    job = trial.push(jobs.wait_for)
    trial.begun(job)
    fault(server, trial)
    trial.open()
    until(lambda: trial.count(f"end {job}") == 1)
    _goes_on(trial, worker)
    assert trial.count(f"begin {job}") == 1


def _goes_on(trial: Trial, worker: Forked) -> None:
    job = trial.push(jobs.nap, 0, on="low")
    trial.wait_for("finished", job, within=BACK_S)
    until(trial.is_registered, BACK_S)
    until(lambda: trial.connection.hget("rq:worker:w1", "queues") == b"default,low", BACK_S)
    assert worker.poll() is None
    assert trial.count(f"end {job}") == 1
    assert trial.stop(worker) == 0


def test_a_worker_hears_commands_again_after_redis_hung_up(trial: Trial, server: RedisServer) -> None:
    trial.start()
    hangs_up(server, trial)
    job = trial.push(jobs.sleep_loop)
    trial.begun(job, within=BACK_S)
    until(lambda: trial.connection.pubsub_numsub("rq:pubsub:w1") == [(b"rq:pubsub:w1", 1)], BACK_S)
    send_stop_job_command(trial.connection, job)
    trial.wait_for("stopped", job)


def test_a_job_that_is_deleted_while_it_runs_stays_deleted(trial: Trial) -> None:
    """Stock writes it anew when it ends."""
    trial.start()
    job = trial.push(jobs.wait_for)
    trial.begun(job)
    trial.job(job).delete()
    trial.open()
    trial.wait_for("finished", trial.push(jobs.nap, 0))
    until(lambda: trial.state() == "idle")
    assert trial.status(job) == "gone"
    assert job not in trial.places()
