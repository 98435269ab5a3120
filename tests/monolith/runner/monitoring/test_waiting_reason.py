"""Why is my job not running? Every state of the world has its answer, in the API and on the job's page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import insert, update

from monolith.db.engine import now, write_session
from monolith.db.models import Job, Lease, Sample
from monolith.job_types import registry
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.clock_lease import LEASE_S
from monolith.runner.monitoring import waiting_reason
from monolith.runner.queue import rq_queues
from tests.support.callers import Caller
from tests.support.jobs import submit_job
from tests.support.processes import Intray, until

pytestmark = pytest.mark.databases


@pytest.fixture
def ticking(app: object) -> None:
    """A clock leads, for as long as any test may take."""
    with write_session() as session:
        session.execute(update(Lease).values(holder="tests", expires_at=now() + LEASE_S))


@pytest.fixture
def listening(app: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a worker listened to everything; the rest of Redis is real."""
    monkeypatch.setattr(rq_queues, "listened", lambda: set(rq_queues.names()))
    waiting_reason.conditions_in.cache_clear()


def reason(alice: Caller, job_id: str) -> str:
    waiting_reason.conditions_in.cache_clear()
    return str(alice.get(f"/api/v1/jobs/{job_id}").json["waiting_reason"])


def on_page(alice: Caller, job_id: str) -> str:
    return str(alice.get(f"/jobs/{job_id}").text)


def change(job_id: str, **values: object) -> None:
    with write_session() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def test_its_place_in_line_comes_with_an_estimate_from_the_last_hour(ticking, listening, alice):
    first, *_, last = (submit_job(alice)["id"] for _ in range(6))
    assert reason(alice, last) == "It is number 6 in the queue."
    with write_session() as session:  # two minutes with something done in the last hour: three jobs a minute
        row = {"queue": "default", "type": "trial_echo"}
        session.execute(insert(Sample), [{**row, "at": 0.0, "finished": 500}, {**row, "at": 1.0, "finished": 4}])
        session.execute(update(Sample).where(Sample.at == 1).values(at=now() - 600))
        session.execute(insert(Sample).values(**row, at=now() - 1200, finished=1, failed=1))
    assert reason(alice, first) == "It is next in the queue; it should start in less than a minute, judging by the last hour."
    assert reason(alice, last) == "It is number 6 in the queue; it should start in about 2 minutes, judging by the last hour."
    new = alice.post("/api/v1/jobs", json={"type": "trial_echo"}).json
    assert new["waiting_reason"] == "It is number 7 in the queue; it should start in about 3 minutes, judging by the last hour."
    assert "Number 6 in the queue; it should start in about 2 minutes." in on_page(alice, last)


def test_nobody_listens(ticking, alice):
    job_id = submit_job(alice)["id"]
    assert reason(alice, job_id) == "No worker is running for default.normal. The job starts automatically when one is."
    assert "No worker is running right now" in on_page(alice, job_id)


def test_redis_is_away(ticking, alice, intray_settings):
    job_id = submit_job(alice)["id"]
    intray_settings(REDIS_URL="redis://127.0.0.1:1/0")
    assert reason(alice, job_id) == "The queue server (Redis) is not responding. The job is saved and starts when Redis is back."
    assert "when the queue server is back" in on_page(alice, job_id)


def test_no_clock_runs(listening, alice):
    assert reason(alice, submit_job(alice)["id"]).endswith("No clock is running, so if its message in Redis is lost, it is not sent again.")
    assert reason(alice, submit_job(alice, delay=60)["id"]).endswith("but no clock is running to start it.")


def test_it_is_paused_now_or_will_be_when_it_is_due(ticking, listening, alice, admin):
    waits, later = submit_job(alice)["id"], submit_job(alice, delay=3600)["id"]
    admin.put("/api/v1/pauses/type:trial_echo", json={"reason": "The echo is too loud."})
    assert reason(alice, waits) == "Paused: The echo is too loud."
    assert reason(alice, later).endswith(" It is also paused: The echo is too loud.")
    assert "The echo is too loud" in on_page(alice, waits)


@pytest.mark.parametrize("why", ["OpenAI asked for a pause (429).", "Your budget for the language model, 1 USD a day, is used up."])
def test_it_is_parked_by_a_breaker_or_a_budget(ticking, listening, alice, why):
    job_id = submit_job(alice)["id"]
    claim = lifecycle.claim(job_id, "w")
    assert claim and lifecycle.snooze(claim, 600, why)
    assert reason(alice, job_id).startswith("Snoozed until ") and reason(alice, job_id).endswith(f": {why}")
    assert why in on_page(alice, job_id)


def test_its_worker_has_fallen_silent(listening, alice):
    job_id = submit_job(alice)["id"]
    assert lifecycle.claim(job_id, "w")
    assert alice.get(f"/api/v1/jobs/{job_id}").json["waiting_reason"] is None
    change(job_id, heartbeat_at=now() - 20)
    assert reason(alice, job_id) == "Its worker has not reported for 20 s. No clock is running that could return the job to its queue."
    with write_session() as session:
        session.execute(update(Lease).values(holder="tests", expires_at=now() + LEASE_S))
    assert "After 30 s the job returns to its queue" in reason(alice, job_id)
    assert "is not responding" in on_page(alice, job_id)


def test_its_worker_was_lost_and_it_starts_again(ticking, listening, alice):
    job_id = submit_job(alice)["id"]
    claim = lifecycle.claim(job_id, "w")
    assert claim and lifecycle.interrupt(job_id, claim.number, "its worker died")
    assert reason(alice, job_id) == "A worker stopped while running it, so it starts again. It is next in the queue."
    assert "Interrupted; it will start again." in on_page(alice, job_id)


def test_an_attempt_failed_and_another_one_follows(ticking, listening, alice):
    job_id = submit_job(alice)["id"]
    claim = lifecycle.claim(job_id, "w")
    assert claim and lifecycle.fail(claim, lifecycle.Failure("x", "The site answered 503."), registry.Backoff("fixed", 600))
    assert reason(alice, job_id).startswith("Attempt 1 of 2 failed. Next attempt at ")


def test_all_workers_are_busy(new_intray: Callable[..., Intray], ticking: None, alice: Caller, database_url: str, redis_url: str) -> None:
    """A real worker with one child, which sleeps."""
    settings = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "JOB_PACKAGES": "jobs,tests.trial_jobs"}
    processes = new_intray(**settings, WORKER_CONCURRENCY="1", SHUTDOWN_GRACE="0")
    processes.spawn("worker")
    for _ in range(2):
        last = str(alice.post("/api/v1/jobs", json={"type": "trial_sleep", "params": {"seconds": 45}}).json["id"])
    until(lambda: reason(alice, last).startswith("All workers are busy. It is next in the queue"), 40, lambda: reason(alice, last))
