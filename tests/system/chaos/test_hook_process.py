"""The hook process is killed, frozen, or its socket is full, at each point between a claim and the answer that the end is recorded."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import requests

from monolith.runner.prefork.hooks import LEAVING_S
from tests.support.chaos.fleet import Fleet, new_fleet
from tests.support.chaos.ledger import Pages, runs_in
from tests.support.chaos.oracle import judge
from tests.support.chaos.workers import CLAIMED, FEW, FULL, LOOP, POINTS, REACHED, REPORTED, RUN, SOON_S
from tests.support.databases import has_postgresql
from tests.support.processes import until

FAULTS = ("killed", "frozen", "its socket full")
BESIDE = ("chaos_large", "chaos_large", "chaos_unrecordable")  # the socket cannot hold their endings together
QUEUE = "rq:queue:default.normal"


@dataclass
class Installation:
    """A fleet of one worker that waits at a point, and what a test has submitted to it."""

    fleet: Fleet
    folder: Path
    accepted: dict[str, str] = field(default_factory=dict)

    @property
    def hooks(self) -> int:
        return self.fleet.hook_process_of(self.fleet.posts["worker-0"])

    @property
    def runs(self) -> Counter[tuple[str, int]]:
        return runs_in(self.folder / "runs")

    def submit(self, name: str, **params: str) -> str:
        job_id = self.fleet.submit(name, **params)
        self.accepted[job_id] = name
        return job_id

    def submit_and_hold(self, point: str) -> str:
        """A job that has come to this point, and is held there until `let_go`."""
        (self.fleet.points / point).touch()
        job_id = self.submit("chaos_quick")
        self.wait_for(REACHED)
        return job_id

    def let_go(self) -> None:
        (self.fleet.points / REACHED).unlink()

    def wait_for(self, name: str) -> None:
        until((self.fleet.points / name).exists, 30, lambda: self.fleet.intray.output()[-3000:])

    def wait_for_loops(self) -> None:
        """Wait until the worker has done all that it can do about what has arrived."""
        for _ in range(2):
            (self.fleet.points / LOOP).touch()
            until(lambda: not (self.fleet.points / LOOP).exists(), 30)

    def when_over(self) -> Pages:
        """What the ledger has of the jobs of this test and their follow-ups, once everything is over, in Redis too."""
        pages = self.fleet.when_over(60)
        until(lambda: not self._held_in_redis(), 10, lambda: str(self._held_in_redis()))
        self.fleet.intray.checked("ledger")  # fails unless the imbalance is 0
        return replace(pages, jobs={job.id: job for job in pages.jobs.values() if {job.id, job.parent_id} & self.accepted.keys()})

    def _held_in_redis(self) -> list[bytes]:
        return [key for pattern in ("rq:worker:*:executions", "rq:wip:*", "rq:queue:*") for key in self.fleet.redis.keys(pattern)]

    def assert_each_ran_once(self, pages: Pages) -> None:
        """Each job has ended as its kind demands, with its effects once; it ran once, and no interruption was counted."""
        runs = Counter({run: times for run, times in self.runs.items() if run[0] in pages.jobs})
        assert judge(pages, self.accepted, runs).wrong == {}
        assert sorted(job for job, _ in runs) == sorted(pages.jobs)
        assert {(job.interruptions, job.crashes) for job in pages.jobs.values()} == {(0, 0)}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if request.param == "postgresql" and not has_postgresql():
        pytest.skip("PostgreSQL is not installed")
    waiting, children = "tests.support.chaos.workers.WaitingWorker", str(len(BESIDE) + 1)
    folder = tmp_path_factory.mktemp(request.param)
    with new_fleet(folder, request.param, workers=1, clocks=1, WORKER_CLASS=waiting, WORKER_CONCURRENCY=children) as one:
        yield one


@pytest.fixture
def installation(fleet: Fleet) -> Iterator[Installation]:
    yield Installation(fleet, fleet.home.parent)
    for file in fleet.points.iterdir():
        file.unlink()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("point", POINTS)
def test_a_fault_of_the_hook_process_loses_doubles_and_interrupts_nothing(installation: Installation, point: str, fault: str) -> None:
    """Meanwhile other jobs end, two with large endings and one that cannot be recorded; a message comes twice; a job is submitted."""
    finish = installation.fleet.points / "finish"
    beside = [installation.submit(name, until=str(finish)) for name in BESIDE]
    until(lambda: {job for job, _ in installation.runs} >= set(beside), 60, lambda: installation.fleet.intray.output()[-3000:])
    at_the_point = installation.submit_and_hold(point)
    hooks = installation.hooks
    if fault != "its socket full" or point == RUN:
        os.kill(hooks, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    finish.touch()
    installation.fleet.redis.rpush(QUEUE, at_the_point)
    installation.submit("chaos_quick")
    if fault == "its socket full":
        installation.wait_for(FULL)
        if point != RUN:
            installation.wait_for_loops()
            assert installation.fleet.executions_of(at_the_point)  # nothing is acknowledged yet
        os.kill(hooks, signal.SIGCONT)
    installation.let_go()

    pages = installation.when_over()
    installation.assert_each_ran_once(pages)
    assert (installation.hooks == hooks) == (fault == "its socket full")
    was_returned = point == CLAIMED and fault != "its socket full"
    assert _claims(pages, at_the_point) == (["started", "returned", "started"] if was_returned else ["started"])


@pytest.mark.timeout(120)
def test_a_job_that_is_stopped_while_it_is_claimed_does_not_run(installation: Installation) -> None:
    job_id = installation.submit_and_hold(CLAIMED)
    fleet = installation.fleet
    assert requests.post(f"{fleet.intray.base_url}/api/v1/jobs/{job_id}/stop", headers=fleet.headers, timeout=30).ok
    installation.wait_for_loops()
    installation.let_go()
    assert installation.when_over().jobs[job_id].status == "stopped"
    assert job_id not in {job for job, _ in installation.runs}


@pytest.mark.timeout(120)
def test_a_claimed_job_that_has_not_begun_when_its_worker_stops_goes_back_without_an_interruption(installation: Installation) -> None:
    """Its children are frozen, so that it cannot begin."""
    job_id = installation.submit_and_hold(CLAIMED)
    fleet, worker = installation.fleet, installation.fleet.posts["worker-0"]
    fleet.freeze([pid for pid in fleet.children_of(worker) if pid != installation.hooks], 60)
    worker.signal(signal.SIGTERM)
    installation.wait_for_loops()
    installation.let_go()
    until(lambda: "returned" in _claims(fleet.read(), job_id), 30, lambda: fleet.intray.output()[-3000:])
    fleet.thaw()
    pages = installation.when_over()
    installation.assert_each_ran_once(pages)
    assert _claims(pages, job_id) == ["started", "returned", "started"]


@pytest.mark.timeout(120)
def test_a_hook_process_that_hangs_is_waited_for_and_no_more_jobs_are_taken_than_may_wait(installation: Installation) -> None:
    installation.submit_and_hold(REPORTED)
    hooks, held_at = installation.hooks, time.monotonic()
    fleet = installation.fleet
    for _ in range(FEW):
        installation.submit("chaos_wait")
    until(lambda: sum(map(fleet.redis.scard, fleet.redis.keys("rq:worker:*:executions"))) > FEW, 30)
    installation.submit("chaos_wait")
    until(lambda: time.monotonic() > held_at + SOON_S, 30)
    installation.wait_for_loops()
    assert fleet.redis.llen(QUEUE) == 1
    installation.let_go()
    installation.assert_each_ran_once(installation.when_over())
    assert installation.hooks == hooks


@pytest.mark.timeout(120)
def test_a_worker_that_stops_waits_until_the_end_of_its_job_is_recorded(installation: Installation) -> None:
    job_id = installation.submit_and_hold(REPORTED)
    worker = installation.fleet.posts["worker-0"]
    pid, stopped_at = worker.pid, time.monotonic()
    worker.signal(signal.SIGTERM)
    until(lambda: time.monotonic() > stopped_at + LEAVING_S + 1, 30)
    assert worker.pid == pid
    installation.let_go()
    pages = installation.when_over()
    installation.assert_each_ran_once(pages)
    assert _claims(pages, job_id) == ["started"]


def _claims(pages: Pages, job_id: str) -> list[str]:
    return [name for _, name, _, _ in pages.events[job_id] if name in ("started", "returned", "interrupted")]
