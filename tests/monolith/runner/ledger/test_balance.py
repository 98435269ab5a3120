"""Every accepted job is somewhere: the balance, under load and when something vanished; on each database."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from click.testing import CliRunner
from sqlalchemy import delete, func, select, update
from structlog.testing import capture_logs

import manage
from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job, Sample, Tally
from monolith.job_types import registry
from monolith.runner.ledger import balance, counts, lifecycle
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.scheduler import retention
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import new_jobs

pytestmark = pytest.mark.databases

THREADS, ROUNDS = 4, 15


@pytest.fixture
def submit(alice: Caller) -> Callable[..., list[Job]]:
    return lambda name="trial_echo", number=1, **wanted: new_jobs(alice.user.id, name, number, **wanted)


def work_off(steps: object) -> None:
    for _ in steps:
        pass


def tallies() -> int:
    with read_session() as session:
        return session.scalar(select(func.count()).select_from(Tally))


def test_the_sides_are_equal_through_the_life_of_jobs(submit):
    done, failed, _waiting, _later = (*submit(), *submit("trial_permanent"), *submit(), *submit(delay=60))
    follows = submit("trial_follow")[0]  # accepts another one when it ends
    for job in (done, failed, follows):
        execute.run(job.id)
    found = balance.balance()
    assert found.statuses == {"queued": 2, "scheduled": 1, "started": 0, "finished": 2, "failed": 1, "stopped": 0, "canceled": 0}
    assert (found.accepted, found.pruned, found.imbalance) == (6, 0, 0)


def test_a_submission_that_is_rolled_back_is_not_counted(submit):
    job = submit()[0]
    with pytest.raises(Exception, match="(?i)unique"):
        lifecycle.submit(job.owner_id, [JobSpec(registry.find("trial_echo"), {}, id=job.id)])
    assert (balance.balance().accepted, balance.balance().imbalance) == (1, 0)


def test_a_row_that_vanished_shows_and_is_an_alert(submit):
    jobs = submit(number=3)
    with write_session() as session:
        session.execute(delete(Job).where(Job.id == jobs[0].id))
    assert balance.balance().imbalance == 1
    with capture_logs() as logged:
        balance.imbalance()
    assert [(one["event"], one["log_level"], one["imbalance"]) for one in logged] == [("ledger_imbalance", "error", 1)]


def test_a_balanced_ledger_is_no_alert(submit):
    submit()
    with capture_logs() as logged:
        balance.imbalance()
    assert logged == []


def test_a_document_that_is_deleted_counts_its_jobs_as_pruned(alice):
    answer = alice.post("/api/v1/documents", json={"text": "mine", "jobs": ["analyze", "analyze"]})
    assert answer.status_code == 201, answer.text
    assert alice.delete(f"/api/v1/documents/{answer.get_json()['document']['id']}").status_code == 204
    assert (balance.balance().accepted, balance.balance().pruned, balance.balance().imbalance) == (2, 2, 0)


def test_a_document_with_a_running_job_is_not_deleted_and_nothing_is_counted(alice):
    given = alice.post("/api/v1/documents", json={"text": "mine", "jobs": ["analyze"]}).get_json()
    lifecycle.claim(given["jobs"][0]["id"], "w")
    assert alice.delete(f"/api/v1/documents/{given['document']['id']}").status_code == 409
    assert (balance.balance().pruned, balance.balance().imbalance) == (0, 0)


def test_folding_leaves_the_sums_and_few_rows(submit, monkeypatch):
    monkeypatch.setattr(balance, "FOLDED_AT_ONCE", 4)
    for _ in range(10):
        submit()
    with write_session() as session:
        balance.record_pruned(session, [])
    work_off(balance.fold())
    work_off(balance.fold())
    assert (balance.balance().accepted, balance.balance().imbalance) == (10, 0)
    assert tallies() < 4


def test_a_busy_ledger_is_balanced_at_every_moment(submit):
    """Submitting, running, pruning and folding at once: each look sees one moment."""
    seen, troubles, over = [], [], threading.Event()

    def load() -> None:
        try:
            for _ in range(ROUNDS):
                job_id = submit(number=3)[0].id
                execute.lifecycle.cancel(job_id)
                with write_session() as session:
                    session.execute(update(Job).where(Job.id == job_id).values(ended_at=now() - 15 * 24 * 3600))
                work_off(retention._prune_jobs("canceled", "trial_echo", 4e9))
                work_off(balance.fold())
        except Exception as error:
            troubles.append(error)

    def look() -> None:
        while not over.is_set():
            seen.append(balance.balance().imbalance)

    workers = [threading.Thread(target=load) for _ in range(THREADS)]
    watcher = threading.Thread(target=look)
    for thread in (watcher, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    over.set()
    watcher.join()
    assert troubles == []
    assert set(seen) == {0}
    assert (balance.balance().accepted, balance.balance().pruned, balance.balance().imbalance) == (
        THREADS * ROUNDS * 3,
        THREADS * ROUNDS,
        0,
    )


def test_the_command_prints_the_equation_and_fails_when_it_does_not_hold(submit):
    jobs = submit(number=2)
    held = CliRunner().invoke(manage.main, ["ledger"])
    assert held.exit_code == 0
    assert [line.split()[-2:] for line in held.output.splitlines()][:2] == [["accepted", "2"], ["queued", "2"]]
    with write_session() as session:
        session.execute(delete(Job).where(Job.id == jobs[0].id))
    broken = CliRunner().invoke(manage.main, ["ledger", "--json"])
    assert broken.exit_code == 1
    assert (json.loads(broken.output)["accepted"], json.loads(broken.output)["imbalance"]) == (2, 1)


def test_a_minute_is_sampled_once_with_what_waits_and_what_ended_in_it(submit):
    done, failed, _ = (*submit(), *submit("trial_permanent"), *submit())
    for job in (done, failed):
        execute.run(job.id)
    with write_session() as session:
        minute = session.scalar(select(now())) // 60 * 60
        times = {"queued_at": minute - 40, "started_at": minute - 30, "ended_at": minute - 10}
        session.execute(update(Job).where(Job.ended_at.is_not(None)).values(times))
        session.execute(update(Job).where(Job.status == "queued").values(queued_at=minute - 100))
    work_off(counts.sample())
    work_off(counts.sample())
    with read_session() as session:
        rows = session.scalars(select(Sample)).all()
    assert sorted(one.type for one in rows) == ["trial_echo", "trial_permanent"]
    samples = {one.type: one for one in rows}
    echo, permanent = samples["trial_echo"], samples["trial_permanent"]
    assert (echo.queued, echo.finished, echo.failed, permanent.failed) == (1, 1, 0, 1)
    assert (round(echo.mean_wait_s), round(echo.mean_run_s)) == (10, 20)
    assert echo.oldest_waiting_s >= 100
