"""Processes of the worker are killed: what they held is neither lost nor run beside itself."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.processes import until
from tests.support.worker import jobs_for_workers as jobs
from tests.support.worker.trial import Trial

pytestmark = pytest.mark.slow

KILLED = "Work-horse terminated unexpectedly"


@pytest.mark.parametrize("queues", [("default",), ("default", "low")], ids=len)
def test_a_killed_worker_with_scheduler_leaves_nobody_who_takes_the_next_job(trial: Trial, queues: tuple[str, ...]) -> None:
    """Stock's scheduler child holds the dead worker's connection open, and Redis gives the next job to it."""
    worker = trial.start("--with-scheduler", queues=queues)
    worker.kill()
    worker.wait()
    job = trial.push(jobs.nap, 0)
    trial.start(queues=queues)
    trial.wait_for("finished", job, within=10)
    assert trial.effects() == [f"begin {job}", f"end {job}"]


@pytest.mark.parametrize("function", [jobs.sleep_loop, jobs.consume, jobs.shell_tree])
def test_a_killed_worker_takes_its_children_and_their_jobs_along(trial: Trial, function: object) -> None:
    """Stock's go on as orphans, beside the second run of the same job."""
    worker = trial.start(WORKER_CONCURRENCY="2")
    job = trial.push(function)  # type: ignore[arg-type]
    trial.begun(job)
    worker.kill()
    worker.wait()
    until(lambda: trial.processes() == [], 5, lambda: f"{len(trial.processes())} are left")


@pytest.mark.parametrize("queues", [("default",), ("default", "low")], ids=len)
def test_a_job_that_an_idle_worker_was_killed_over_is_in_one_place(trial: Trial, queues: tuple[str, ...]) -> None:
    """Stopped, it cannot read what Redis pops for it: stock loses the job, or leaves it in the intermediate queue."""
    worker = trial.start(queues=queues)
    worker.send_signal(signal.SIGSTOP)
    pushed = [trial.push(jobs.nap, 0) for _ in range(5)]
    worker.kill()
    worker.wait()
    assert set(pushed) == set(trial.places())
    assert {tuple(places) for places in trial.places().values()} <= {("rq:queue:default",), ("rq:wip:default",)}


@pytest.mark.parametrize("queues", [("default",), ("default", "low")], ids=len)
def test_jobs_that_a_busy_worker_was_killed_over_are_in_one_place(trial: Trial, queues: tuple[str, ...]) -> None:
    pushed = [trial.push(jobs.nap, 0.01) for _ in range(100)]
    worker = trial.start("--quiet", queues=queues)
    until(lambda: len(trial.effects()) > 20)
    worker.kill()
    worker.wait()
    until(lambda: trial.processes() == [])
    assert set(pushed) == set(trial.places())
    assert {tuple(places) for places in trial.places().values()} <= {
        ("rq:queue:default",),
        ("rq:wip:default",),
        ("rq:finished:default",),
    }


@pytest.mark.parametrize("children", [1, 2])
def test_a_job_that_kills_its_process_fails_alone(trial: Trial, children: int) -> None:
    """What merely waited behind it in the same child is not blamed."""
    before = [trial.push(jobs.nap, 0.01) for _ in range(25)]
    culprit = trial.push(jobs.crash)
    after = [trial.push(jobs.nap, 0.01) for _ in range(25)]
    trial.burst("--quiet", WORKER_CONCURRENCY=str(children))
    assert trial.status(culprit) == "failed"
    assert KILLED in trial.failure(culprit)
    assert {trial.status(job) for job in (*before, *after)} == {"finished"}
    counted = Counter(trial.effects())
    assert {job for job in (*before, *after) if counted[f"end {job}"] != 1} == set()
    assert counted[f"begin {culprit}"] == 1


def test_a_job_that_forks_and_comes_back_twice_has_ended_once_and_harms_no_other(trial: Trial) -> None:
    forking = [trial.push(jobs.fork_and_return_twice, leaving, meta=meta) for leaving in (False, True) for meta in ({}, {"io_bound": True})]
    after = [trial.push(jobs.nap, 0.01) for _ in range(10)]
    trial.burst("--quiet", WORKER_CONCURRENCY="1")
    assert {trial.status(job) for job in (*forking, *after)} == {"finished"}
    assert [trial.job(job).return_value() for job in forking] == [0, 0, 3, 3]
    assert {trial.count(f"ran {job} fork") for job in forking[:2]} == {1}
    assert {trial.count(f"begin {job}") for job in after} == {1}


def test_a_job_that_writes_to_our_sockets_fails_alone(trial: Trial) -> None:
    culprit, *after = trial.push(jobs.write_to_every_socket), *(trial.push(jobs.nap, 0.01) for _ in range(3))
    trial.burst("--quiet", WORKER_CONCURRENCY="1")
    assert [trial.status(job) for job in (culprit, *after)] == ["failed", *["finished"] * 3]


@pytest.mark.parametrize("is_io_bound", [False, True])
def test_what_a_job_changes_in_its_process_is_not_there_for_the_next_one(trial: Trial, is_io_bound: bool) -> None:
    """An ordinary child puts it back; one for I/O-bound jobs is replaced, because its other jobs may rely on it."""
    meta = {"io_bound": True} if is_io_bound else {}
    trial.start("--quiet", WORKER_CONCURRENCY="1")
    states = []
    for function in (jobs.process_state, jobs.spoil_from_a_thread if is_io_bound else jobs.spoil_the_process, jobs.process_state):
        job = trial.push(function, meta=meta)
        trial.wait_for("finished", job)
        states.append(trial.job(job).return_value())
    before, _, after = states
    pids = [int(state.partition(" ")[0]) for state in (before, after)]
    assert [state.partition(" ")[2] for state in (before, after)] == [before.partition(" ")[2]] * 2
    assert (pids[0] == pids[1]) == (not is_io_bound)


def test_a_guard_that_was_killed_is_replaced_and_does_its_work(trial: Trial) -> None:
    worker = trial.start(WORKER_CONCURRENCY="1")
    job = trial.push(jobs.shell_tree)
    trial.begun(job)
    before = _guards(worker.pid)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: _guards(worker.pid) and _guards(worker.pid) != before, 10)
    worker.kill()
    worker.wait()
    until(lambda: trial.processes() == [], 10, lambda: f"{len(trial.processes())} are left")


def _guards(worker: int) -> list[int]:
    """The guards of this worker: its children that run the guard's program."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_guard = b"orphan_guard.py" in (path / "cmdline").read_bytes()
            if is_guard and int((path / "stat").read_text().rpartition(")")[2].split()[1]) == worker:
                found.append(int(path.name))
    return found


def test_several_jobs_that_kill_their_processes_fail_each_alone(trial: Trial) -> None:
    jobs_pushed = [trial.push(jobs.crash if number % 10 == 5 else jobs.ran) for number in range(60)]
    trial.burst("--quiet", WORKER_CONCURRENCY="3")
    statuses = [trial.status(job) for job in jobs_pushed]
    assert statuses == ["failed" if number % 10 == 5 else "finished" for number in range(60)]
    assert Counter(trial.effects()).most_common(1)[0][1] == 1
