"""Starting what failed again: some at once, or a whole cause at a rate that stops by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import event, func, select, update

from monolith.db.engine import read_session, write_session
from monolith.db.models import Job
from monolith.job_types import registry
from monolith.job_types.registry import fixed
from monolith.runner.admin import bulk_retry
from monolith.runner.admin.bulk_retry import JUDGED, PROBE, BulkRetry
from monolith.runner.ledger import lifecycle, outcomes
from monolith.runner.ledger.audit import AuditEntry
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.lifecycle import Failure
from monolith.runner.queue import rq_queues
from monolith.runner.worker import execute
from tests.support.callers import Caller

pytestmark = pytest.mark.databases

Fail = Callable[..., list[str]]
TRACE = 'Traceback (most recent call last):\n  File "/srv/app/jobs/analyze.py", line 12, in read\n    raise ValueError\nValueError'


@pytest.fixture
def fail(alice: Caller) -> Fail:
    """Make jobs that have failed with these messages."""

    def some(*messages: str, name: str = "trial_echo", error: str = "ValueError", trace: str = TRACE) -> list[str]:
        jobs = lifecycle.submit(alice.user.id, [JobSpec(registry.find(name), {"value": 1}) for _ in messages])
        for job, message in zip(jobs, messages, strict=True):
            claim = lifecycle.claim(job.id, "w")
            assert claim and lifecycle.fail(claim, Failure(error, message, trace, permanent=True), fixed(1))
        return [job.id for job in jobs]

    return some


@pytest.fixture
def tick() -> Callable[[float], None]:
    """Let the clock advance the requeues as if so many seconds had passed since it last did."""

    def one(seconds: float) -> None:
        with write_session() as session:
            session.execute(update(BulkRetry).values(stepped_at=BulkRetry.stepped_at - seconds))
        for _ in bulk_retry.advance():
            pass

    return one


def counts() -> dict[str, int]:
    with read_session() as session:
        return dict(session.execute(select(Job.status, func.count()).group_by(Job.status)).all())


def the_only(admin: Caller) -> dict[str, object]:
    (one,) = admin.get("/api/v1/queues/requeues").json["data"]
    return one


def queued() -> Iterator[str]:
    with read_session() as session:
        yield from session.scalars(select(Job.id).where(Job.status == "queued"))


# ---- some at once


def test_failed_jobs_start_again_by_type_by_error_and_at_most_so_many(admin: Caller, fail: Fail) -> None:
    fail("the site answered 503", "the site answered 504", "no such page")
    fail("the site answered 500", name="trial_raise", error="OSError")
    for body, number in (
        ({"error": "KeyError"}, 0),
        ({"error": "OSError", "type": "trial_echo"}, 0),
        ({"error": "site ANSWERED", "limit": 2}, 2),
        ({"error": "ValueError", "type": "trial_echo"}, 2),
        ({}, 0),
    ):
        assert admin.post("/api/v1/queues/requeue", json=body).json == {"object": "requeued", "requeued": number}
    assert counts() == {"queued": 4}
    assert len(rq_queues.waiting_ids("default.normal")) == 4


def test_one_whose_twin_lives_is_left(alice: Caller, admin: Caller) -> None:
    body = {"type": "analyze", "params": {"description": "A tool that sorts mail."}, "unique": True}
    for _ in range(2):
        claim = lifecycle.claim(alice.post("/api/v1/jobs", json=body).json["id"], "w")
        assert claim and lifecycle.fail(claim, Failure("ValueError", "no", permanent=True), fixed(1))
    assert admin.post("/api/v1/queues/requeue", json={}).json["requeued"] == 1
    assert admin.post("/api/v1/queues/requeue", json={}).json["requeued"] == 0
    assert counts() == {"queued": 1, "failed": 1}


# ---- causes


def test_failures_are_grouped_by_type_message_and_place(admin: Caller, fail: Fail) -> None:
    same = fail(
        "https://a.example/1 answered 503 to 'me' after 0.4 s",
        "https://b.example/?q=2 answered 502 to 'you' after 30 s",
        "http://10.0.0.1:80/ answered 500 to 'them' after 1 s",
    )
    other = TRACE.replace("in read", "in summarise").replace("line 12", "line 99")
    fail("https://a.example/1 answered 503 to 'me' after 0.4 s", trace=other)
    fail("https://a.example/1 answered 503 to 'me' after 0.4 s", error="OSError", name="trial_raise")
    first, *others = admin.get("/api/v1/queues/failures").json["data"]
    assert (first["count"], first["types"], first["example"]) == (3, {"trial_echo": 3}, same[-1])
    assert (first["error_type"], first["place"]) == ("ValueError", "jobs/analyze.py in read")
    assert first["message"] == "<address> answered <n> to ‘…’ after <n> s"
    assert sorted((one["error_type"], one["place"], one["count"]) for one in others) == [
        ("OSError", "jobs/analyze.py in read", 1),
        ("ValueError", "jobs/analyze.py in summarise", 1),
    ]
    assert admin.post("/api/v1/queues/requeue", json={"error": first["cause"]}).json["requeued"] == 3
    assert [one["count"] for one in admin.get("/api/v1/queues/failures").json["data"]] == [1, 1]


def test_of_jobs_that_failed_in_the_same_moment_one_is_read(admin: Caller, fail: Fail) -> None:
    """Each brings its traceback: the page took half a minute beside 60,000 of them."""
    same = fail(*(f"no {number}" for number in range(30)))
    with write_session() as session:
        session.execute(update(Job).values(ended_at=session.scalar(select(func.max(Job.ended_at)))))
    read: list[str] = []

    def note(job: Job, _: object) -> None:
        read.append(job.id)

    event.listen(Job, "load", note)
    try:
        (found,) = admin.get("/api/v1/queues/failures").json["data"]
        assert admin.get("/admin/failures").status_code == 200
    finally:
        event.remove(Job, "load", note)
    assert (found["count"], found["example"] in same) == (30, True)
    assert read == [found["example"]] * 2


def test_what_runs_for_real_has_its_cause_and_loses_it_when_it_succeeds(admin: Caller, alice: Caller) -> None:
    jobs = lifecycle.submit(alice.user.id, [JobSpec(registry.find("trial_permanent")) for _ in range(2)])
    for job in jobs:
        execute.run(job.id)
    (found,) = admin.get("/api/v1/queues/failures").json["data"]
    assert (found["count"], found["error_type"], found["place"]) == (2, "permanent", "tests/trial_jobs/trials.py in trial_permanent")
    lifecycle.requeue(jobs[0].id)
    claim = lifecycle.claim(jobs[0].id, "w")
    assert claim and lifecycle.succeed(claim, outcomes.Outcome({}))
    assert admin.get("/api/v1/queues/failures").json["data"][0]["count"] == 1
    with read_session() as session:
        assert session.scalar(select(Job.error_group).where(Job.id == jobs[0].id)) is None


def start(admin: Caller, per_minute: int) -> dict[str, object]:
    cause = admin.get("/api/v1/queues/failures").json["data"][0]["cause"]
    answer = admin.post(f"/api/v1/queues/failures/{cause}/requeue", json={"per_minute": per_minute})
    assert answer.status_code == 202, answer.text
    return answer.json


def finish(*job_ids: str) -> None:
    for job_id in job_ids:
        claim = lifecycle.claim(job_id, "w")
        assert claim and lifecycle.succeed(claim, outcomes.Outcome({}))


def fail_again(*job_ids: str) -> None:
    for job_id in job_ids:
        claim = lifecycle.claim(job_id, "w")
        assert claim and lifecycle.fail(claim, Failure("ValueError", "no 1", TRACE, permanent=True), fixed(1))


def test_a_cause_is_requeued_at_its_rate_until_all_were(admin: Caller, fail: Fail, tick: Callable[[float], None]) -> None:
    fail(*(f"no {number}" for number in range(12)))
    fail("something else")
    begun = start(admin, per_minute=60)
    assert (begun["total"], begun["per_minute"], begun["title"]) == (12, 60, "ValueError: no <n>")
    tick(3)
    assert 3 <= counts()["queued"] <= 4
    tick(600)  # the clock was away: it does not make up for all of it
    assert counts()["queued"] <= 10
    finish(*queued())
    while "outcome" not in the_only(admin) or the_only(admin)["outcome"] is None:
        tick(5)
        finish(*queued())
    tick(5)
    assert counts() == {"finished": 12, "failed": 1}
    found = the_only(admin)
    assert (found["requeued"], found["finished"], found["failed"], found["outcome"]) == (12, 12, 0, "All jobs were retried.")


def test_it_stops_by_itself_when_more_than_a_fifth_fail_again(admin: Caller, fail: Fail, tick: Callable[[float], None]) -> None:
    fail(*(f"no {number}" for number in range(30)))
    start(admin, per_minute=6000)
    with write_session() as session:
        session.execute(update(BulkRetry).values(per_minute=120))
    tick(5)
    first = list(queued())
    assert len(first) >= JUDGED
    fail_again(*first[: JUDGED - 1])
    tick(1)
    assert the_only(admin)["outcome"] is None  # too few to judge by
    fail_again(first[JUDGED - 1])
    before = counts()
    tick(5)
    tick(5)
    found = the_only(admin)
    assert found["outcome"] == "Stopped automatically: 10 of 10 finished jobs failed again (100 %)."
    assert counts() == before
    assert acts()[-1] == ("clock", "requeue_ended", found["requeued"])


def test_one_in_ten_that_fails_again_does_not_stop_it_and_is_not_started_twice(
    admin: Caller, fail: Fail, tick: Callable[[float], None]
) -> None:
    fail(*(f"no {number}" for number in range(20)))
    start(admin, per_minute=600)
    for _ in range(6):
        tick(1)
        ids = list(queued())
        fail_again(*ids[:1])
        finish(*ids[1:])
    found = the_only(admin)
    assert found["outcome"] == "All jobs were retried."
    assert (found["requeued"], found["finished"] + found["failed"]) == (20, 20)
    assert counts()["failed"] == found["failed"] > 0


def test_until_the_first_have_ended_only_few_are_let_out(admin: Caller, fail: Fail, tick: Callable[[float], None]) -> None:
    fail(*(f"no {number}" for number in range(PROBE + 20)))
    start(admin, per_minute=6000)
    for _ in range(3):
        tick(5)
    assert counts()["queued"] == PROBE
    finish(*list(queued())[:JUDGED])
    tick(5)
    assert counts() == {"queued": PROBE + 20 - JUDGED, "finished": JUDGED}


def test_it_can_be_stopped_and_only_one_goes_on_at_a_time(admin: Caller, fail: Fail, tick: Callable[[float], None]) -> None:
    fail(*(f"no {number}" for number in range(5)))
    number = start(admin, per_minute=60)["id"]
    cause = the_only(admin)["cause"]
    assert admin.post(f"/api/v1/queues/failures/{cause}/requeue", json={}).status_code == 409
    tick(2)
    before = counts()
    assert admin.post(f"/api/v1/queues/requeues/{number}/stop").status_code == 204
    tick(5)
    assert counts() == before
    assert the_only(admin)["outcome"] == "Stopped by admin@example.org."
    assert admin.post(f"/api/v1/queues/requeues/{number}/stop").status_code == 404
    assert start(admin, per_minute=60)["total"] == before["failed"]


def test_it_survives_a_clock_that_ends(admin: Caller, fail: Fail, tick: Callable[[float], None]) -> None:
    """All of its state is in the ledger: whoever leads next goes on."""
    fail("no 1", "no 2")
    start(admin, per_minute=60)
    steps = bulk_retry.advance()
    next(steps, None)
    steps.close()
    tick(1)
    tick(1)
    assert counts() == {"queued": 2}


@pytest.mark.parametrize("body", [{"per_minute": 0}, {"per_minute": 6001}, {"per_minute": "fast"}, {"rate": 1}], ids=str)
def test_a_rate_that_is_none_is_refused(admin: Caller, fail: Fail, body: dict[str, object]) -> None:
    fail("no 1")
    cause = admin.get("/api/v1/queues/failures").json["data"][0]["cause"]
    assert admin.post(f"/api/v1/queues/failures/{cause}/requeue", json=body).status_code == 422
    assert admin.post("/api/v1/queues/failures/0123456789abcdef/requeue", json={}).status_code == 404


def test_submitters_are_refused_and_viewers_may_look(alice: Caller, admin: Caller, caller: Callable[..., Caller], fail: Fail) -> None:
    fail("no 1")
    cause = admin.get("/api/v1/queues/failures").json["data"][0]["cause"]
    viewer = caller("viewer@example.org", is_viewer=True)
    for one in (alice, viewer):
        for path in ("requeue", f"failures/{cause}/requeue", "requeues/1/stop"):
            assert one.post(f"/api/v1/queues/{path}", json={}).status_code == 403
    for path in ("failures", "requeues"):
        assert (alice.get(f"/api/v1/queues/{path}").status_code, viewer.get(f"/api/v1/queues/{path}").status_code) == (403, 200)
    assert counts() == {"failed": 1}


def acts() -> list[tuple[str, str, int | None]]:
    with read_session() as session:
        return [(one.actor, one.act, one.count) for one in session.scalars(select(AuditEntry).order_by(AuditEntry.id))]
