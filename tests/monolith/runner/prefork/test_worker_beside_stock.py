"""A stock worker and the one under test on the same queues at the same time; and several idle ones."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from redis import Redis

from tests.support.worker import jobs_for_workers as jobs
from tests.support.worker.trial import STOCK, Trial

pytestmark = pytest.mark.slow

QUEUES = ("high", "low")
IDLE_S = 5


def test_a_stock_worker_and_ours_share_a_queue_and_each_job_runs_once(trial: Trial) -> None:
    pushed = [trial.push(jobs.ran) for _ in range(300)]
    workers = [trial.start("--burst", "--quiet", worker_class=one) for one in (STOCK, trial.worker_class)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert Counter(trial.effects()) == {f"ran {job}": 1 for job in pushed}
    assert {trial.status(job) for job in pushed} == {"finished"}
    assert set(trial.places()) == set(pushed)


def test_five_idle_workers_on_two_queues_run_each_job_once(trial: Trial) -> None:
    for _ in range(5):
        trial.start("--quiet", queues=QUEUES, listens=False)
    for number in range(1, 6):
        trial.until_state("idle", name=f"w{number}")
    pushed = [trial.push(jobs.ran, on=QUEUES[number % 2]) for number in range(500)]
    trial.wait_for("finished", *pushed, within=60)
    assert Counter(trial.effects()) == {f"ran {job}": 1 for job in pushed}


def test_an_idle_worker_leaves_redis_in_peace(trial: Trial) -> None:
    others = len(trial.connection.client_list())
    trial.start(queues=QUEUES)
    assert len(trial.connection.client_list()) - others <= 3
    before = _commands(trial.connection)
    time.sleep(IDLE_S)  # what is measured
    assert _commands(trial.connection) - before < 2 * IDLE_S


def _commands(connection: Redis) -> int:
    """How many commands this Redis has run, without our own looking."""
    found = connection.info("commandstats")
    return sum(one["calls"] for name, one in found.items() if name != "cmdstat_info")
