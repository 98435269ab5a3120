"""Limits on running jobs, and rates, with two real workers at once: what the ledger says of them afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from monolith.db.engine import read_session
from monolith.db.models import Job, JobEvent
from tests.support.callers import Caller
from tests.support.jobs import new_jobs, stored
from tests.support.processes import Intray, until

pytestmark = pytest.mark.databases


@pytest.fixture
def start(new_intray: Callable[..., Intray], database_url: str, redis_url: str, intray_settings: object) -> Callable[..., Intray]:
    """Start two workers with these settings."""

    def workers(**settings: str) -> Intray:
        shared = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "JOB_PACKAGES": "jobs,tests.trial_jobs"}
        intray = new_intray(**shared, WORKER_CONCURRENCY="4", SHUTDOWN_GRACE="1", **settings)
        for _ in range(2):
            intray.spawn("worker")
        return intray

    return workers


def submit(owner: Caller, number: int, seconds: float, name: str = "trial_sleep") -> list[str]:
    return [job.id for job in new_jobs(owner.user.id, name, number, {"seconds": seconds})]


def finished(job_ids: list[str], intray: Intray, within: float = 60) -> None:
    """Wait until all are finished."""

    def left() -> int:
        with read_session() as session:
            return session.scalar(select(func.count()).where(Job.id.in_(job_ids), Job.status != "finished")) or 0

    until(lambda: left() == 0, within, lambda: f"{left()} left; {intray.output()[-3000:]}")


def most_at_once(job_ids: list[str]) -> int:
    """How many ran at once at most, by the events: each run lasts from its claim to the event that ended it."""
    steps = {"started": 1, "finished": -1, "interrupted": -1, "returned": -1}
    with read_session() as session:
        events = session.execute(select(JobEvent.at, JobEvent.name).where(JobEvent.job_id.in_(job_ids), JobEvent.name.in_(steps))).all()
    running = most = 0
    for step in (steps[name] for _, name in sorted(events, key=lambda event: (event.at, event.name == "started"))):
        running += step
        most = max(most, running)
    return most


def started_at(job_ids: list[str]) -> list[float]:
    """When each was claimed, in the order of the submission."""
    return [next(event.at for event in stored(job_id).events if event.name == "started") for job_id in job_ids]


def test_two_workers_never_run_more_than_the_limit_and_each_end_starts_the_next_without_a_clock(start, alice):
    intray = start(TRIAL_SLEEP_MAX_RUNNING="2")
    jobs = submit(alice, 16, 0.2)
    finished(jobs, intray)
    assert most_at_once(jobs) == 2
    in_order = started_at(jobs)
    assert all(later > earlier for earlier, later in zip(in_order, in_order[2:], strict=False))


def test_a_limit_for_each_user_leaves_room_for_others(start, alice, bob):
    intray = start(MAX_RUNNING_PER_USER="1")
    own, others = submit(alice, 8, 0.2), submit(bob, 2, 0.2)
    finished([*own, *others], intray)
    assert (most_at_once(own), most_at_once(others)) == (1, 1)
    assert max(started_at(others)) < max(started_at(own))


def test_nothing_is_stuck_after_a_worker_was_killed(start, alice):
    intray = start(TRIAL_SLEEP_MAX_RUNNING="2")
    intray.spawn("clock")
    jobs = submit(alice, 12, 1)
    until(lambda: most_at_once(jobs) == 2, 40)
    killed = intray.spawned[0]
    killed.send_signal(signal.SIGKILL)
    killed.wait(20)
    finished(jobs, intray, 120)
    assert most_at_once(jobs) == 2


def test_two_workers_never_start_more_than_the_rate_in_any_window_and_keep_the_order(start, alice):
    intray = start(TRIAL_PACED_RATE="300/m")
    intray.spawn("clock")
    jobs = submit(alice, 60, 0, "trial_paced")
    finished(jobs, intray, 90)
    moments = sorted(started_at(jobs))
    for begin, first in enumerate(moments):  # 5 in a second, and 5 % of a minute's: 4 % may start at once, and a start may come late
        for end in range(begin, len(moments)):
            assert end - begin + 1 <= 5 * (moments[end] - first) + 15 + 1
    with read_session() as session:
        held_until = session.scalar(select(func.max(JobEvent.at)).where(JobEvent.name == "held"))
        again = select(JobEvent.job_id).where(JobEvent.name == "queued", JobEvent.at > held_until).order_by(JobEvent.id)
        in_order = [jobs.index(job_id) for job_id in session.scalars(again)]
    assert in_order
    assert in_order == sorted(in_order)
