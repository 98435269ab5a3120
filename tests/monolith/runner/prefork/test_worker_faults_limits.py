"""Jobs that do not end by themselves, and processes that do not end with their job."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rq.command import send_stop_job_command

from tests.support.processes import until
from tests.support.worker import jobs_for_workers as jobs
from tests.support.worker.trial import Trial

pytestmark = pytest.mark.slow

LATEST_S = 10  # a limit of 1 s, the 5 s that are promised, and what a busy machine takes; stock needs 61 s
ENDLESS = [jobs.sleep_loop, jobs.swallow, jobs.backtrack, jobs.consume, jobs.shell_tree]


@pytest.mark.parametrize("children", [1, 2])
@pytest.mark.parametrize("function", ENDLESS, ids=lambda function: function.__name__)
def test_a_job_past_its_limit_ends_with_all_it_started(trial: Trial, function: Callable[[], None], children: int) -> None:
    trial.start(WORKER_CONCURRENCY=str(children))
    at_rest = len(trial.processes())
    job = trial.push(function, timeout=1)
    trial.begun(job)
    trial.wait_for("failed", job, within=LATEST_S)
    until(lambda: len(trial.processes()) <= at_rest, LATEST_S, lambda: f"{len(trial.processes())} instead of {at_rest}")
    assert "JobTimeoutException" in trial.failure(job) or "Work-horse terminated" in trial.failure(job)
    trial.wait_for("finished", trial.push(jobs.nap, 0))


def test_a_daemon_that_a_job_leaves_behind_does_not_outlive_it(trial: Trial) -> None:
    trial.start(WORKER_CONCURRENCY="2")
    trial.wait_for("finished", trial.push(jobs.nap, 0))
    at_rest = len(trial.processes())
    trial.wait_for("finished", *[trial.push(jobs.leave_behind) for _ in range(3)])
    until(lambda: len(trial.processes()) <= at_rest, LATEST_S, lambda: f"{len(trial.processes())} instead of {at_rest}")


def test_a_neighbour_in_another_child_is_unharmed_by_a_limit(trial: Trial) -> None:
    trial.start(WORKER_CONCURRENCY="2")
    neighbour = trial.push(jobs.wait_for)
    trial.begun(neighbour)
    stuck = trial.push(jobs.consume, timeout=1)
    trial.wait_for("failed", stuck, within=LATEST_S)
    trial.open()
    trial.wait_for("finished", neighbour)
    assert trial.count(f"begin {neighbour}") == 1


def test_a_stopped_job_ends_with_all_it_started(trial: Trial) -> None:
    trial.start(WORKER_CONCURRENCY="1")
    at_rest = len(trial.processes())
    job = trial.push(jobs.shell_tree)
    trial.begun(job)
    until(lambda: len(trial.processes()) > at_rest)
    send_stop_job_command(trial.connection, job)
    trial.wait_for("stopped", job)
    until(lambda: len(trial.processes()) <= at_rest, LATEST_S, lambda: f"{len(trial.processes())} instead of {at_rest}")


def test_a_child_that_is_replaced_ends_although_the_scheduler_has_inherited_its_inbox(trial: Trial) -> None:
    trial.start("--with-scheduler", WORKER_CONCURRENCY="1", CHILD_MAX_JOBS="1")
    at_rest = set(trial.processes())
    trial.wait_for("finished", *[trial.push(jobs.nap, 0) for _ in range(3)])
    until(lambda: len(set(trial.processes()) & at_rest) < len(at_rest), LATEST_S, lambda: "the first child is still there")
    until(lambda: len(trial.processes()) <= len(at_rest), LATEST_S)
