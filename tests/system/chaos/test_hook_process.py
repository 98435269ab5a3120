"""The hook process is killed, frozen, or its socket is full, at each point between a claim and the answer that the end is recorded."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.chaos.fleet import Fleet, new_fleet
from tests.support.chaos.ledger import Pages, runs_in
from tests.support.chaos.oracle import judge
from tests.support.chaos.workers import CLAIMED, FULL, POINTS, REACHED, RUN
from tests.support.databases import has_postgresql
from tests.support.processes import until

FAULTS = ("killed", "frozen", "its socket full")
LARGE = 3  # jobs whose endings the socket cannot hold together


@dataclass
class Installation:
    """A fleet of one worker that waits at a point, and what was submitted to it."""

    fleet: Fleet
    folder: Path
    accepted: dict[str, str] = field(default_factory=dict)

    @property
    def hooks(self) -> int:
        return self.fleet.hook_process_of(self.fleet.posts["worker-0"])

    def submit(self, name: str, **params: str) -> str:
        job_id = self.fleet.submit(name, **params)
        self.accepted[job_id] = name
        return job_id

    def has_run(self, job_id: str) -> bool:
        return any(job == job_id for job, _ in runs_in(self.folder / "runs"))

    def wait_for(self, name: str) -> None:
        until((self.fleet.points / name).exists, 30, lambda: self.fleet.intray.output()[-3000:])


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    if request.param == "postgresql" and not has_postgresql():
        pytest.skip("PostgreSQL is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    waiting = "tests.support.chaos.workers.WaitingWorker"
    with new_fleet(folder, request.param, workers=1, clocks=1, WORKER_CLASS=waiting, WORKER_CONCURRENCY=str(LARGE + 1)) as fleet:
        yield Installation(fleet, folder)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("point", POINTS)
def test_a_fault_of_the_hook_process_loses_doubles_and_interrupts_nothing(installation: Installation, point: str, fault: str) -> None:
    """Beside the job at the point, jobs run that report large endings meanwhile, and another is submitted."""
    points = installation.fleet.points
    large = [installation.submit("chaos_large", until=str(points / "finish")) for _ in range(LARGE)]
    until(lambda: all(map(installation.has_run, large)), 60, lambda: installation.fleet.intray.output()[-3000:])
    (points / point).touch()
    at_the_point = installation.submit("chaos_quick")
    installation.wait_for(REACHED)
    hooks = installation.hooks
    if fault != "its socket full" or point == RUN:
        os.kill(hooks, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    (points / "finish").touch()
    if fault == "its socket full":
        installation.wait_for(FULL)
        os.kill(hooks, signal.SIGCONT)
    installation.submit("chaos_quick")
    (points / REACHED).unlink()

    pages = installation.fleet.when_over(60)
    (points / "finish").unlink()
    (points / FULL).unlink(missing_ok=True)
    assert (installation.hooks == hooks) == (fault == "its socket full")
    runs = runs_in(installation.folder / "runs")
    assert judge(pages, installation.accepted, runs).wrong == {}
    assert sorted(job for job, _ in runs) == sorted(pages.jobs)  # each once
    assert {(job.interruptions, job.crashes) for job in pages.jobs.values()} == {(0, 0)}
    was_returned = point == CLAIMED and fault != "its socket full"
    assert _claims(pages, at_the_point) == (["started", "returned", "started"] if was_returned else ["started"])
    installation.fleet.intray.checked("ledger")  # fails unless the imbalance is 0
    until(lambda: not _held_in_redis(installation.fleet), 10, lambda: str(_held_in_redis(installation.fleet)))


def _claims(pages: Pages, job_id: str) -> list[str]:
    return [name for _, name, _, _ in pages.events[job_id] if name in ("started", "returned", "interrupted")]


def _held_in_redis(fleet: Fleet) -> list[bytes]:
    """What Redis has of jobs that wait or run."""
    return [key for pattern in ("rq:worker:*:executions", "rq:wip:*", "rq:queue:*") for key in fleet.redis.keys(pattern)]
