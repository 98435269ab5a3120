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


WRONG = (
    *("rq:queue:low", "rq:wip:default", "rq:finished:default", "rq:failed:low", "rq:workers", "rq:workers:low"),
    *("rq:worker:w1", "rq:worker:w1:executions", "rq:results:job2", "rq:executions:job2", "rq:suspended:x", "rq:job:other"),
)


@pytest.mark.parametrize("is_running", [False, True])
def test_keys_of_a_wrong_type_stop_no_queue(trial: Trial, is_running: bool) -> None:
    """They are set aside when the worker starts, or when it meets them."""
    if is_running:
        trial.start(queues=("default", "low"))
        trial.wait_for("finished", trial.push(jobs.nap, 0))
    else:
        trial.push(jobs.nap, 0)
    for key in WRONG:
        trial.connection.delete(key)
        trial.connection.set(key, "of another type")
    if not is_running:
        trial.start(queues=("default", "low"), listens=False)
    second = trial.push(jobs.nap, 0, on="default")
    trial.wait_for("finished", second, within=BACK_S)
    until(lambda: trial.connection.type("rq:refused:rq:queue:low") == b"string", BACK_S)
    trial.wait_for("finished", trial.push(jobs.nap, 0, on="low"), within=BACK_S)
    until(trial.is_registered, BACK_S)


def test_a_worker_whose_user_has_few_rights_asks_every_second(server: RedisServer, tmp_path: Path) -> None:
    trial = Trial(server.url, tmp_path)
    trial.connection.execute_command("ACL", "SETUSER", "small", "on", ">secret", "~*", "+@all", "-info", "-client", "resetchannels")
    trial.redis_url = server.url.replace("://", "://small:secret@")
    try:
        worker = trial.start()
        job = trial.push(jobs.nap, 0)
        trial.wait_for("finished", job)
        assert trial.stop(worker) == 0
    finally:
        trial.end()


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
