"""I/O-bound jobs, marked in their `meta`, run many at once in threads of one child; each fails alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rq.command import send_stop_job_command

from tests.support.processes import until
from tests.support.worker import jobs_for_workers as jobs
from tests.support.worker.trial import Trial

LATEST_S = 10
NEIGHBOURS = 6


def push(trial: Trial, function: Callable[..., Any], *args: Any, **options: Any) -> str:
    return trial.push(function, *args, meta={"io_bound": True}, **options)


def push_neighbours(trial: Trial) -> list[str]:
    """Jobs that run until the test opens their gate, all begun."""
    neighbours = [push(trial, jobs.wait_for) for _ in range(NEIGHBOURS)]
    trial.begun(*neighbours)
    return neighbours


def most_at_once(effects: list[str]) -> int:
    """How many jobs were running at the busiest moment."""
    running = most = 0
    for line in effects:
        running += 1 if line.startswith("begin") else -1
        most = max(most, running)
    return most


@pytest.mark.parametrize("children", [1, 2])
def test_io_bound_jobs_run_side_by_side(trial: Trial, children: int) -> None:
    pushed = [push(trial, jobs.nap, 1) for _ in range(32)]
    trial.start(WORKER_CONCURRENCY=str(children))
    trial.wait_for("finished", *pushed)
    assert most_at_once(trial.effects()) >= 12
    assert sorted(trial.effects()) == sorted(f"{word} {job}" for job in pushed for word in ("begin", "end"))


def test_the_old_name_of_the_mark_is_accepted(trial: Trial) -> None:
    """Messages of the release before this one say `waits`."""
    pushed = [trial.push(jobs.nap, 1, meta={"waits": True}) for _ in range(4)]
    trial.start(WORKER_CONCURRENCY="1")
    trial.wait_for("finished", *pushed)
    assert most_at_once(trial.effects()) == 4


def test_io_bound_jobs_do_not_keep_the_others_out(trial: Trial) -> None:
    trial.start(WORKER_CONCURRENCY="2")
    neighbours = push_neighbours(trial)
    trial.wait_for("finished", *[trial.push(jobs.nap, 0) for _ in range(10)])
    trial.open()
    trial.wait_for("finished", *neighbours)


@pytest.mark.parametrize("function", [jobs.sleep_loop, jobs.fail])
def test_an_io_bound_job_that_fails_does_so_alone(trial: Trial, function: Callable[..., Any]) -> None:
    trial.start(WORKER_CONCURRENCY="1")
    neighbours = push_neighbours(trial)
    failing = push(trial, function, timeout=1)
    trial.wait_for("failed", failing, within=LATEST_S)
    assert {trial.status(job) for job in neighbours} == {"started"}
    assert trial.failure(failing).strip().split("\n")[-1].startswith(("rq.timeouts.JobTimeoutException", "ValueError: on purpose"))
    _all_end_once(trial, neighbours)
    assert {trial.count(f"begin {job}") for job in neighbours} == {1}


@pytest.mark.parametrize("function", [jobs.consume, jobs.swallow])
def test_an_io_bound_job_stuck_past_its_limit_ends_with_its_child_and_the_neighbours_run_again(
    trial: Trial, function: Callable[..., Any]
) -> None:
    trial.start(WORKER_CONCURRENCY="1")
    neighbours = push_neighbours(trial)
    stuck = push(trial, function, timeout=1)
    trial.begun(stuck)
    trial.wait_for("failed", stuck, within=LATEST_S)
    assert trial.count(f"begin {stuck}") == 1
    _all_end_once(trial, neighbours)


def test_an_io_bound_job_is_stopped_alone(trial: Trial) -> None:
    trial.start(WORKER_CONCURRENCY="1")
    neighbours = push_neighbours(trial)
    job = push(trial, jobs.sleep_loop)
    trial.begun(job)
    send_stop_job_command(trial.connection, job)
    trial.wait_for("stopped", job)
    _all_end_once(trial, neighbours)
    assert {trial.count(f"begin {one}") for one in neighbours} == {1}
    assert trial.count(f"end {job}") == 0


def test_an_io_bound_job_that_kills_its_process_fails_when_it_has_done_so_alone(trial: Trial) -> None:
    """Any of those that ran in it may have been the culprit, so each runs again alone."""
    trial.start(WORKER_CONCURRENCY="1")
    neighbours = push_neighbours(trial)
    culprit = push(trial, jobs.crash)
    trial.begun(culprit)
    trial.open()
    trial.wait_for("failed", culprit, within=LATEST_S)
    assert "Work-horse terminated unexpectedly" in trial.failure(culprit)
    _all_end_once(trial, neighbours)
    assert trial.count(f"begin {culprit}") == 2


def test_io_bound_jobs_that_a_stopping_worker_gives_back_are_in_their_queue(trial: Trial) -> None:
    worker = trial.start(WORKER_CONCURRENCY="1", SHUTDOWN_GRACE="0")
    neighbours = push_neighbours(trial)
    assert trial.stop(worker) == 0
    assert trial.places() == {job: ["rq:queue:default"] for job in neighbours}
    assert trial.processes() == []


def test_io_bound_jobs_know_who_they_are(trial: Trial) -> None:
    """get_current_job and save_meta are of the thread."""
    pushed = [push(trial, jobs.save_meta) for _ in range(20)]
    trial.burst(WORKER_CONCURRENCY="1")
    assert [trial.job(job).return_value() for job in pushed] == pushed
    assert {str(trial.job(job).get_meta()) for job in pushed} == {str({"io_bound": True, "seen": [1, 2]})}


def _all_end_once(trial: Trial, neighbours: list[str]) -> None:
    trial.open()
    trial.wait_for("finished", *neighbours)
    until(lambda: {trial.count(f"end {job}") for job in neighbours} == {1})
