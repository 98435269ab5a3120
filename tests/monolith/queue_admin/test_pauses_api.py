"""Pausing everything, a queue or a job type: who may, what it says, and what it holds back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DatabaseError

from monolith.db import models
from monolith.db.engine import get_engine, read_session, write_session
from monolith.runner.ledger import lifecycle, pauses
from monolith.runner.ledger.audit import AuditEntry
from monolith.runner.ledger.clock_lease import lead
from monolith.runner.ledger.pauses import Pause
from monolith.runner.queue import rq_queues
from monolith.runner.scheduler.clock import Clock
from tests.support.callers import Caller
from tests.support.jobs import submit_job
from tests.support.processes import until

PARAMS = {"description": "A tool that sorts mail."}
SCOPES = ["all", "queue:default", "type:analyze"]


@pytest.mark.databases
@pytest.mark.parametrize("scope", SCOPES)
def test_a_pause_holds_claims_back_and_not_submissions(alice: Caller, admin: Caller, scope: str) -> None:
    before = submit_job(alice, "analyze", params=PARAMS)["id"]
    paused = admin.put(f"/api/v1/pauses/{scope}", json={"reason": "The model is being changed."})
    assert paused.status_code == 200
    assert (paused.json["scope"], paused.json["paused_by"], paused.json["until"]) == (scope, "admin@example.org", None)
    during = submit_job(alice, "analyze", params=PARAMS)["id"]
    for job_id in (before, during):
        assert lifecycle.claim(job_id, "w") is None
        job = alice.get(f"/api/v1/jobs/{job_id}").json
        assert (job["status"], job["waiting_reason"]) == ("queued", "Paused: The model is being changed.")
    assert admin.delete(f"/api/v1/pauses/{scope}").status_code == 204
    for job_id in (before, during):
        assert lifecycle.claim(job_id, "w") is not None


def test_a_pause_of_something_else_holds_nothing_back(alice: Caller, admin: Caller) -> None:
    for scope in ("queue:mail", "type:report"):
        if scope in pauses.scopes():
            assert admin.put(f"/api/v1/pauses/{scope}", json={"reason": "Not now."}).status_code == 200
    assert lifecycle.claim(submit_job(alice, "analyze", params=PARAMS)["id"], "w") is not None


@pytest.mark.databases
def test_a_pause_ends_by_itself_and_says_when(alice: Caller, admin: Caller) -> None:
    job_id = submit_job(alice, "analyze", params=PARAMS)["id"]
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    admin.put("/api/v1/pauses/all", json={"reason": "Maintenance", "until": until})
    assert alice.get(f"/api/v1/jobs/{job_id}").json["waiting_reason"] == f"Paused: Maintenance. Resumes at {until[11:19]} UTC."
    with write_session() as session:
        session.execute(update(Pause).values(until=time.time() - 1))
    assert lifecycle.claim(job_id, "w") is not None
    pauses.forget_ended()
    pauses.active_in.cache_clear()
    assert admin.get("/api/v1/pauses").json["data"] == []
    assert acts() == ["pause", "pause_ended"]


def test_the_message_of_a_paused_job_may_be_lost_and_comes_back_when_it_is_over(alice: Caller, admin: Caller) -> None:
    job_id = submit_job(alice, "analyze", params=PARAMS)["id"]
    clock = Clock(lambda: False, "tests")
    assert lead("tests")
    admin.put("/api/v1/pauses/all", json={"reason": "Maintenance"})
    rq_queues.connection().flushall()  # as if a worker had taken it and left it
    with write_session() as session:
        session.execute(update(models.Job).values(queued_at=models.Job.queued_at - 10))
    resume = next(task for task in clock._repairs if task.name == "resume")
    until(lambda: clock.tick() or resume.status()["ago_s"] is not None)  # a tick has little time for each task, and a busy machine less
    assert not any(rq_queues.waiting_ids(name) for name in rq_queues.names())
    admin.delete("/api/v1/pauses/all")
    resume.due_at = 0.0
    assert lead("tests")  # its lease may have expired on a busy machine
    clock.tick()
    assert {one for name in rq_queues.names() for one in rq_queues.waiting_ids(name)} == {job_id}


@pytest.mark.parametrize(
    ("scope", "body", "status", "pointer"),
    [
        ("nothing", {"reason": "x"}, 404, None),
        ("queue:", {"reason": "x"}, 404, None),
        ("type:nope", {"reason": "x"}, 404, None),
        ("all", {}, 422, "/reason"),
        ("all", {"reason": ""}, 422, "/reason"),
        ("all", {"reason": "   "}, 422, "/reason"),
        ("all", {"reason": "x" * 301}, 422, "/reason"),
        ("all", {"reason": 1}, 422, "/reason"),
        ("all", {"reason": "x", "until": "soon"}, 422, "/until"),
        ("all", {"reason": "x", "until": "2020-01-01T00:00:00Z"}, 422, "/until"),
        ("all", {"reason": "x", "by": "me"}, 422, "/by"),
    ],
    ids=str,
)
def test_a_wrong_pause_is_refused_with_the_mend(admin: Caller, scope: str, body: dict[str, Any], status: int, pointer: str | None) -> None:
    answer = admin.put(f"/api/v1/pauses/{scope}", json=body)
    assert answer.status_code == status
    assert [one["pointer"] for one in answer.json["errors"]] == ([pointer] if pointer else [])
    assert admin.get("/api/v1/pauses").json["data"] == []


def test_what_is_not_paused_cannot_be_resumed(admin: Caller) -> None:
    assert admin.delete("/api/v1/pauses/all").status_code == 404


def test_submitters_and_viewers_cannot_pause(alice: Caller, caller: Callable[..., Caller]) -> None:
    viewer = caller("viewer@example.org", is_viewer=True)
    for one in (alice, viewer):
        assert one.put("/api/v1/pauses/all", json={"reason": "x"}).status_code == 403
        assert one.delete("/api/v1/pauses/all").status_code == 403
    assert (alice.get("/api/v1/pauses").status_code, viewer.get("/api/v1/pauses").status_code) == (403, 200)


def test_pausing_is_written_down_with_before_and_after(admin: Caller) -> None:
    admin.put("/api/v1/pauses/all", json={"reason": "One"}, headers={"X-Request-Id": "request-1"})
    admin.put("/api/v1/pauses/all", json={"reason": "Two"})
    admin.delete("/api/v1/pauses/all")
    with read_session() as session:
        first, second, third = session.scalars(select(AuditEntry).order_by(AuditEntry.id))
    assert (first.actor, first.act, first.subject, first.address, first.request_id, first.before) == (
        *("admin@example.org", "pause", "all", "127.0.0.1", "request-1", None),
    )
    assert (second.before["reason"], second.after["reason"], second.before["since"]) == ("One", "Two", second.after["since"])
    assert (third.act, third.before["reason"], third.after) == ("resume", "Two", None)


@pytest.mark.databases
def test_the_database_refuses_to_change_the_audit_trail(admin: Caller) -> None:
    admin.put("/api/v1/pauses/all", json={"reason": "One"})
    for statement in (update(AuditEntry).values(actor="nobody"), delete(AuditEntry)):
        with pytest.raises(DatabaseError, match="append-only"), get_engine().begin() as connection:
            connection.execute(statement)
    assert acts() == ["pause"]


def acts() -> list[str]:
    with read_session() as session:
        return list(session.scalars(select(AuditEntry.act).order_by(AuditEntry.id)))
