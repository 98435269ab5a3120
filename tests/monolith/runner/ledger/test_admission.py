"""How much may wait: limits per user and in all, and how a program learns of them, on each database."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from monolith.db.engine import get_engine, now, read_session, write_session
from monolith.db.models import Document, IdempotencyKey, Job
from monolith.job_types.registry import find
from monolith.runner.ledger import admission, lifecycle
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.processes import until
from tests.support.requests import upload

pytestmark = pytest.mark.databases

ECHO = {"type": "trial_echo"}
Limits = Callable[..., None]


@pytest.fixture
def limited(intray_settings: Callable[..., None]) -> Limits:
    """`limited(own=3)` or `limited(all=3)`: the limits from now on."""

    def change(own: int = 0, all: int = 0) -> None:
        intray_settings(MAX_QUEUED_PER_USER=str(own), MAX_QUEUED=str(all))

    return change


def post(caller: Caller, body: dict[str, Any] = ECHO, **options: Any) -> Any:
    return caller.post("/api/v1/jobs", json=body, **options)


def counts() -> list[int]:
    with read_session() as session:
        return [session.scalar(select(func.count()).select_from(model)) or 0 for model in (Job, Document, IdempotencyKey)]


def test_over_the_users_own_limit_is_429_and_others_go_on(limited: Limits, alice: Caller, bob: Caller) -> None:
    limited(own=3)
    assert [post(alice).status_code for _ in range(5)] == [202, 202, 202, 429, 429]
    answer = post(alice, {**ECHO, "delay": 60})
    assert (answer.json["code"], answer.content_type) == ("too_many_jobs", "application/problem+json")
    assert "You have 3 waiting or running jobs" in answer.json["detail"]
    assert 5 <= int(answer.headers["Retry-After"]) <= 300
    assert post(bob).status_code == 202


def test_over_the_limit_of_all_is_503_for_everybody(limited: Limits, alice: Caller, bob: Caller) -> None:
    limited(all=3)
    assert [post(one).status_code for one in (alice, bob, alice, bob, alice)] == [202, 202, 202, 503, 503]
    answer = post(bob)
    assert answer.json["code"] == "busy"
    assert 5 <= int(answer.headers["Retry-After"]) <= 300


def test_nothing_is_kept_of_what_was_refused(limited: Limits, alice: Caller) -> None:
    limited(own=1)
    post(alice)
    key = {"Idempotency-Key": "refused"}
    assert alice.post("/api/v1/documents", json={"text": "Hello.", "jobs": ["analyze"]}, headers=key).status_code == 429
    assert counts() == [1, 0, 0]


def test_a_request_for_more_jobs_than_there_is_room_is_refused_whole(limited: Limits, alice: Caller) -> None:
    limited(own=3)
    two_on_each = ["analyze", "analyze"]
    refused = alice.post("/api/v1/documents", data=upload((b"x", "a.txt"), (b"y", "b.txt"), jobs=two_on_each))
    assert (refused.status_code, counts()) == (429, [0, 0, 0])
    assert alice.post("/api/v1/documents", data=upload((b"x", "a.txt"), jobs=two_on_each)).status_code == 201


def test_documents_without_jobs_are_taken_all_the_same(limited: Limits, alice: Caller) -> None:
    limited(own=1, all=1)
    post(alice)
    assert alice.post("/api/v1/documents", json={"text": "Hello."}).status_code == 201


def test_jobs_that_run_count_and_jobs_that_are_over_do_not(limited: Limits, alice: Caller) -> None:
    limited(own=2)
    ids = [post(alice).json["id"] for _ in range(2)]
    lifecycle.claim(ids[0], worker="tests")
    _count_again()
    assert post(alice).status_code == 429
    execute.run(ids[1])
    _count_again()
    assert [post(alice).status_code for _ in range(2)] == [202, 429]


def _count_again() -> None:
    """As after a second."""
    for count in admission._counts.values():
        count.counted_at -= admission.FRESH_S


def test_a_count_is_used_for_a_second_and_grows_with_what_is_let_in(
    limited: Limits, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FRESH_S", 60)  # a slow machine needs longer than a second
    limited(own=2)
    ids = [post(alice).json["id"] for _ in range(2)]
    for one in ids:
        execute.run(one)
    assert post(alice).status_code == 429
    _count_again()
    assert post(alice).status_code == 202


def test_what_was_rolled_back_takes_up_no_room(limited: Limits, alice: Caller) -> None:
    limited(own=2)
    post(alice)
    with pytest.raises(ZeroDivisionError), write_session() as session, admission.admit(session.connection(), alice.user, 1):
        raise ZeroDivisionError
    assert post(alice).status_code == 202


def test_a_submission_that_is_not_written_yet_counts_when_the_jobs_are_counted_again(limited: Limits, alice: Caller) -> None:
    limited(own=2)
    with admission.admit(None, alice.user, 1):
        _count_again()
        assert [post(alice).status_code for _ in range(2)] == [202, 429]


def test_admins_and_follow_ups_are_never_refused(limited: Limits, admin: Caller, alice: Caller) -> None:
    limited(own=1, all=1)
    assert [post(admin).status_code for _ in range(3)] == [202] * 3
    job = lifecycle.submit(alice.user.id, [JobSpec(find("trial_follow"))])[0]
    execute.run(job.id)
    with read_session() as session:
        assert session.scalar(select(Job.type).where(Job.parent_id == job.id)) == "trial_echo"


def cancelled(caller: Caller, number: int) -> list[str]:
    """Jobs that were submitted and cancelled."""
    ids = [post(caller).json["id"] for _ in range(number)]
    assert caller.post("/api/v1/jobs/cancel", json={"ids": ids}).json["changed"] == number
    _count_again()
    return ids


def live(caller: Caller) -> int:
    with read_session() as session:
        return session.scalar(admission._live_of(caller.user.id)) or 0


def requeue(caller: Caller, job_id: str) -> Any:
    return caller.post(f"/api/v1/jobs/{job_id}/requeue")


def test_what_is_requeued_counts_as_what_is_submitted(limited: Limits, alice: Caller, bob: Caller) -> None:
    limited(own=3)
    first = cancelled(alice, 3)
    second = [post(alice).json["id"] for _ in range(3)]
    refused = requeue(alice, first[0])
    assert (refused.status_code, refused.json["code"], live(alice)) == (429, "too_many_jobs", 3)
    assert "You have 3 waiting or running jobs" in refused.json["detail"] and 5 <= int(refused.headers["Retry-After"]) <= 300
    assert requeue(alice, second[0]).status_code == 409  # that it waits already is the first reason
    assert alice.post(f"/jobs/{first[0]}/requeue").headers["Location"] == f"/jobs/{first[0]}"
    assert "You have 3 waiting or running jobs" in alice.get(f"/jobs/{first[0]}").text
    execute.run(second[0])
    assert [requeue(alice, one).status_code for one in first] == [200, 429, 429]
    assert (post(alice).status_code, live(alice)) == (429, 3)
    assert requeue(bob, cancelled(bob, 1)[0]).status_code == 200


def test_what_is_requeued_counts_for_all(limited: Limits, alice: Caller, bob: Caller) -> None:
    limited(all=3)
    mine = cancelled(alice, 2)
    assert [post(bob).status_code for _ in range(3)] == [202] * 3
    refused = requeue(alice, mine[0])
    assert (refused.status_code, refused.json["code"]) == (503, "busy")


def test_of_a_selection_as_many_are_requeued_as_there_is_room_for(limited: Limits, alice: Caller) -> None:
    limited(own=5)
    mine = cancelled(alice, 5)
    assert [post(alice).status_code for _ in range(3)] == [202] * 3
    done = alice.post("/api/v1/jobs/requeue", json={"ids": mine}).json
    assert (done["changed"], [one["id"] for one in done["left"]], live(alice)) == (2, mine[2:], 5)
    assert {one["detail"] for one in done["left"]} == {
        "You have 5 waiting or running jobs; one more would exceed your limit of 5. Wait until some jobs are done, then try again."
    }
    alice.post("/jobs/selected", data={"act": "requeue", "id": mine[2:], "sure": "yes"})
    page = alice.get("/jobs").text
    assert "0 jobs were retried." in page and "3 not changed: You have 5 waiting or running jobs" in page


def failed_batch(caller: Caller, number: int) -> dict[str, Any]:
    texts = [{"text": f"text {place}"} for place in range(number)]
    batch = caller.post("/api/v1/batches", json={"documents": texts, "jobs": ["trial_permanent"]}).json
    for job in batch["jobs"]:
        execute.run(job["id"])
    _count_again()
    return dict(batch)


def test_of_a_batch_as_many_are_requeued_as_there_is_room_for(limited: Limits, alice: Caller) -> None:
    limited(own=5)
    batch = failed_batch(alice, 5)
    assert [post(alice).status_code for _ in range(2)] == [202] * 2
    retried = alice.post(batch["links"]["retry"]).json
    assert (retried["requeued"], len(retried["left"]), live(alice)) == (3, 2, 5)
    assert "You have 2 waiting or running jobs; 5 more would exceed your limit of 5." in retried["left"][0]["detail"]
    assert retried["counts"]["failed"] == 2
    alice.post(f"/batches/{batch['id']}/retry")
    page = alice.get(f"/batches/{batch['id']}").text
    assert "0 jobs were retried." in page and "2 not changed: You have 5 waiting or running jobs" in page
    limited(own=20)
    assert alice.post(batch["links"]["retry"]).json["requeued"] == 2


def test_what_another_process_has_requeued_since_the_last_count_is_counted(
    limited: Limits, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(own=3)
    mine = [*cancelled(alice, 3), *cancelled(alice, 3)]
    monkeypatch.setattr(admission, "FRESH_S", 60)  # this process counts now, and not again until it must
    assert requeue(alice, mine[0]).status_code == 200
    lifecycle.requeue_jobs(mine[1:3])  # as by another process
    assert [requeue(alice, one).status_code for one in mine[3:]] == [429] * 3
    assert live(alice) == 3


def test_requests_at_the_same_moment_requeue_no_more_than_there_is_room_for(limited: Limits, alice: Caller) -> None:
    limited(own=6)
    batches = [failed_batch(alice, 5) for _ in range(2)]
    is_admitted, may_go_on = threading.Event(), threading.Event()

    def first() -> None:
        ids = [job["id"] for job in batches[0]["jobs"]]
        with write_session() as session, admission.admit_again(alice.user, session.connection(), len(ids)):
            lifecycle.REQUEUE_FAILED.apply(connection=session.connection(), job_ids=ids, requeue_id=None)
            is_admitted.set()
            assert may_go_on.wait(60)
            admission._counts.clear()  # another process knows nothing of what this one has admitted

    def second() -> Any:
        own = Caller(alice.client.application.test_client(), alice.user, alice.token)
        return own.post(batches[1]["links"]["retry"]).json

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert is_admitted.wait(60)
        admission._counts.clear()
        other = pool.submit(second)
        until(_somebody_waits)
        may_go_on.set()
        one.result()
        assert (other.result()["requeued"], live(alice)) == (1, 6)


def _somebody_waits() -> bool:
    """Whether a transaction waits for another one; SQLite does not say, but has one writer at a time."""
    if get_engine().dialect.name == "sqlite":
        return True
    with get_engine().connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_admins_requeue_whatever_the_limits_of_the_owner(limited: Limits, alice: Caller, admin: Caller) -> None:
    limited(own=3, all=3)
    mine = cancelled(alice, 3)
    assert [post(alice).status_code for _ in range(3)] == [202] * 3
    assert requeue(admin, mine[0]).status_code == 200
    assert admin.post("/api/v1/jobs/requeue", json={"ids": mine[1:2]}).json["changed"] == 1
    moved = admin.post("/admin/jobs/act", data={"act": "requeue", "job": mine[2:]})
    assert (moved.status_code, live(alice)) == (303, 6)
    _count_again()
    assert post(alice).status_code == 429


def test_what_comes_back_from_the_trash_does_not_wait(limited: Limits, alice: Caller, admin: Caller) -> None:
    limited(own=2)
    for _ in range(2):
        post(alice)
    cleaning = admin.post("/api/v1/queues/clean", json={"status": "queued", "older_than": 0}).json["cleaning_id"]
    assert admin.post(f"/api/v1/queues/cleanings/{cleaning}/restore").json["restored"] == 2
    assert live(alice) == 0


def test_a_repeat_and_a_shared_job_are_answered_over_the_limit(limited: Limits, alice: Caller) -> None:
    limited(own=1)
    key = {"Idempotency-Key": "first"}
    first = post(alice, headers=key)
    _count_again()
    assert [post(alice).status_code, post(alice, headers=key).status_code] == [429, 200]
    assert post(alice, {**ECHO, "unique": True}).json["id"] == first.json["id"]


def test_the_limits_are_told_on_every_answer(limited: Limits, alice: Caller) -> None:
    limited(own=3)
    answers = [post(alice), alice.post("/api/v1/documents", json={"text": "Hello.", "jobs": ["analyze"]}), post(alice), post(alice)]
    assert [answer.headers["RateLimit-Policy"] for answer in answers] == ['"jobs";q=3'] * 4
    told = [re.fullmatch(r'"jobs";r=(\d+);t=(\d+)', answer.headers["RateLimit"]) for answer in answers]
    assert [int(one[1]) for one in told if one] == [2, 1, 0, 0]
    assert all(5 <= int(one[2]) <= 300 for one in told if one)
    assert "RateLimit" not in alice.get("/api/v1/jobs").headers


def test_what_is_left_is_never_more_than_what_is_left_for_all(limited: Limits, alice: Caller) -> None:
    limited(own=100, all=5)
    assert post(alice).headers["RateLimit"].startswith('"jobs";r=4;')


def test_without_limits_and_for_admins_nothing_is_told(limited: Limits, alice: Caller, admin: Caller) -> None:
    limited()
    assert "RateLimit" not in post(alice).headers
    limited(own=5)
    assert "RateLimit" not in post(admin).headers


def test_who_is_not_signed_in_is_told_nothing(limited: Limits, alice: Caller) -> None:
    limited(own=3)
    answer = alice.client.post("/api/v1/jobs", json=ECHO)
    assert (answer.status_code, "RateLimit" in answer.headers) == (401, False)


@pytest.mark.parametrize(("ended", "over", "seconds"), [(0, 1, 300), (60, 1, 5), (60, 40, 40), (30, 40, 80), (6, 500, 300)])
def test_the_wait_follows_the_rate_at_which_jobs_end(alice: Caller, ended: int, over: int, seconds: int) -> None:
    lifecycle.submit(alice.user.id, [JobSpec(find("trial_echo")) for _ in range(ended + 1)])
    with write_session() as session:
        done = select(Job.id).limit(ended)
        session.execute(
            update(Job).where(Job.id.in_(done)).values(status="finished", ended_at=now() - 30).execution_options(synchronize_session=False)
        )
        long_ago = update(Job).where(Job.ended_at.is_(None)).values(status="finished", ended_at=now() - 90)
        session.execute(long_ago.execution_options(synchronize_session=False))
    _, _, jobs_that_ended = counts = admission._counts_for(alice.user.id)
    admission._refresh(counts)
    assert admission._seconds(over, jobs_that_ended.number) == seconds


def test_counting_is_answered_from_the_index_of_live_jobs(alice: Caller) -> None:
    lifecycle.submit(alice.user.id, [JobSpec(find("trial_echo")) for _ in range(20)])
    mine = str(admission._live_of(alice.user.id).compile(get_engine(), compile_kwargs={"literal_binds": True}))
    is_sqlite = get_engine().dialect.name == "sqlite"
    with get_engine().connect() as connection:
        if not is_sqlite:  # a table this small is read whole, index or not
            connection.execute(text("SET enable_seqscan = off"))
        plan = str(connection.execute(text(("EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN ") + mine)).all())
    assert "jobs_live" in plan
