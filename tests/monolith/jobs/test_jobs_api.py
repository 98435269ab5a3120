"""Jobs and job types through the API, on each database."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select, update

from monolith.db.engine import now, write_session
from monolith.db.models import Job, Lease
from monolith.job_types import registry
from monolith.jobs import schemas
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.clock_lease import LEASE_S
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.monitoring import waiting_reason
from monolith.runner.queue import rq_queues
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.requests import pointers

FIELDS = {
    *("object", "id", "type", "status", "priority", "queue", "progress", "progress_note", "attempt", "max_attempts", "interruptions"),
    *("document_id", "params", "result", "error", "waiting_reason", "run_at", "created_at", "started_at", "ended_at", "cost"),
    *("artifacts", "parent_id", "links"),
}


def echo(caller: Caller, value: Any = "hello", **wanted: Any) -> dict[str, Any]:
    answer = caller.post("/api/v1/jobs", json={"type": "trial_echo", "params": {"value": value}, **wanted})
    assert answer.status_code == 202, answer.text
    return answer.json


def test_a_job_is_accepted_with_where_to_find_it_and_when_to_ask(alice: Caller) -> None:
    answer = alice.post("/api/v1/jobs", json={"type": "trial_echo"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (202, "1")
    assert answer.headers["Location"] == answer.json["links"]["self"]
    assert set(answer.json) == FIELDS
    assert (answer.json["object"], answer.json["status"], answer.json["attempt"]) == ("job", "queued", 0)
    assert answer.json["created_at"].endswith("Z")


def test_a_finished_job_has_its_result_and_its_files(alice: Caller) -> None:
    job = echo(alice, {"nested": [1, 2.5, None, "ü"]})
    assert alice.get(job["links"]["result"]).status_code == 409
    execute.run(job["id"])
    done = alice.get(job["links"]["self"]).json
    assert (done["status"], done["progress"], done["waiting_reason"]) == ("finished", 100, None)
    assert done["result"] == alice.get(job["links"]["result"]).json == {"value": {"nested": [1, 2.5, None, "ü"]}}
    (file,) = done["artifacts"]
    assert (file["name"], file["media_type"], file["size"]) == ("echo.txt", "text/plain", len(alice.get(file["url"]).data))


def test_a_failed_job_answers_200_with_its_error_and_no_trace(alice: Caller) -> None:
    job = alice.post("/api/v1/jobs", json={"type": "trial_permanent"}).json
    execute.run(job["id"])
    answer = alice.get(job["links"]["self"])
    assert (answer.status_code, answer.json["status"]) == (200, "failed")
    assert answer.json["error"] == {"type": "permanent", "message": "The file is broken. Export it again."}
    assert "Traceback" not in answer.text
    assert alice.get(job["links"]["result"]).status_code == 409


PRIORITIES = [(1, "low"), (3, "low"), (4, "normal"), (6, "normal"), (7, "high"), (9, "high"), (10, "critical"), ("10", "critical")]


@pytest.mark.parametrize(("given", "name"), [*PRIORITIES, ("high", "high"), (None, "normal")])
def test_a_priority_is_a_name_or_a_number(admin: Caller, given: Any, name: str) -> None:
    assert echo(admin, priority=given)["priority"] == name


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/type"),
        ({"type": "nope"}, "/type"),
        ({"type": 7}, "/type"),
        ({"type": "trial_echo", "priority": "urgent"}, "/priority"),
        ({"type": "trial_echo", "priority": 11}, "/priority"),
        ({"type": "trial_echo", "priority": True}, "/priority"),
        ({"type": "trial_echo", "delay": -1}, "/delay"),
        ({"type": "trial_echo", "delay": 1e9}, "/delay"),
        ({"type": "trial_echo", "params": {"x": 1}}, "/params/x"),
        ({"type": "trial_echo", "params": [1]}, "/params"),
        ({"type": "trial_echo", "status": "finished"}, "/status"),
        ({"type": "analyze"}, "/document_id"),
        ({"type": "analyze", "params": {"url": "file:///etc/passwd"}}, "/params/url"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(alice: Caller, body: dict[str, Any], pointer: str) -> None:
    answer = alice.post("/api/v1/jobs", json=body)
    assert (answer.status_code, pointers(answer)) == (422, [pointer])


@pytest.mark.databases
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[" * 100_000,
        b"[" * 50_000 + b"]" * 50_000,
        b'{"type": "trial_echo", "delay": NaN}',
        b'{"type": "trial_echo", "delay": 1e999}',
        b'{"type": "trial_echo", "params": {"value": 9223372036854775808}}',
        b'{"type": "trial_echo", "params": {"value": ' + b"9" * 5000 + b"}}",
        b'{"type": "trial_echo", "type": "analyze"}',
        b'{"type": "trial_echo", "params": {"value": "\\ud800"}}',
        b'{"type": "trial_echo", "params": {"value": [["\\u0000"]]}}',
        '{"type": "trial_echo"}'.encode("utf-16"),
        b"\xff\xfe{}",
    ],
    ids=lambda body: str(body[:40]),
)
def test_json_that_could_break_something_later_is_refused(alice: Caller, body: bytes) -> None:
    answer = alice.post("/api/v1/jobs", data=body, content_type="application/json")
    assert (answer.status_code, answer.json["code"]) == (400, "bad_request")


def test_a_body_that_is_not_json_says_what_to_send(alice: Caller) -> None:
    answer = alice.post("/api/v1/jobs", data="type=trial_echo", content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json["detail"]


def test_a_body_over_the_limit_of_json_is_refused(alice: Caller) -> None:
    answer = alice.post("/api/v1/jobs", json={"type": "trial_echo", "params": {"value": "x" * 300_000}})
    assert answer.status_code == 413


@pytest.mark.databases
def test_jobs_are_listed_by_status_type_and_document(alice: Caller) -> None:
    document = alice.post("/api/v1/documents", json={"text": "x", "jobs": ["analyze"]}).json["document"]
    first, second = echo(alice, 1), echo(alice, 2)
    execute.run(first["id"])

    def ids(query: str) -> list[str]:
        return [job["id"] for job in alice.get(f"/api/v1/jobs?{query}").json["data"]]

    assert ids("status=finished") == [first["id"]]
    assert ids("type=trial_echo") == [second["id"], first["id"]]
    assert len(ids(f"document_id={document['id']}")) == 1
    assert ids("type=nope") == []
    assert alice.get("/api/v1/jobs?status=nope").status_code == 422


def test_a_job_of_somebody_else_is_not_there(alice: Caller, bob: Caller, admin: Caller) -> None:
    job = echo(alice)
    execute.run(job["id"])
    for path in (job["links"]["self"], job["links"]["result"], f"{job['links']['self']}/artifacts/echo.txt"):
        assert bob.get(path).status_code == 404
        assert admin.get(path).status_code == 200
    assert bob.get("/api/v1/jobs").json["data"] == []


def test_an_unchanged_job_answers_304_to_its_etag_and_a_changed_one_does_not(alice: Caller) -> None:
    job = echo(alice)
    etag = alice.get(job["links"]["self"]).headers["ETag"]
    assert alice.get(job["links"]["self"], headers={"If-None-Match": etag}).status_code == 304
    execute.run(job["id"])
    assert alice.get(job["links"]["self"], headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.databases("postgresql")
def test_a_request_that_meets_a_locked_row_is_refused_soon_and_others_are_not(alice: Caller) -> None:
    locked, other = (echo(alice)["id"] for _ in range(2))
    with write_session() as somebody:
        somebody.execute(select(Job.id).where(Job.id == locked).with_for_update())
        refused = alice.post(f"/api/v1/jobs/{locked}/cancel")
        assert (refused.status_code, "locked" in refused.json["detail"], "Retry-After" in refused.headers) == (503, True, True)
        assert alice.post(f"/api/v1/jobs/{other}/cancel").status_code == 200
    assert alice.post(f"/api/v1/jobs/{locked}/cancel").status_code == 200


def finish(job_id: str) -> None:
    """What a worker does, but for the time limit, which only a main thread can hold."""
    claim = lifecycle.claim(job_id, "tests")
    assert claim and lifecycle.succeed(claim, Outcome({"value": "done"}))


@pytest.mark.databases
@pytest.mark.parametrize("how", [{"query_string": {"wait": 20}}, {"headers": {"Prefer": "wait=20"}}], ids=["query", "header"])
def test_a_long_poll_answers_when_the_job_is_over(alice: Caller, how: dict[str, Any]) -> None:
    job = echo(alice)
    with_worker = threading.Thread(target=finish, args=(job["id"],))
    with_worker.start()
    assert alice.get(job["links"]["self"], **how).json["status"] == "finished"
    with_worker.join()


def test_job_types_are_listed_with_all_they_declare(alice: Caller) -> None:
    answer = alice.get("/api/v1/job-types").json
    analyze = next(one for one in answer["data"] if one["name"] == "analyze")
    assert set(analyze) >= {
        "name",
        "title",
        "description",
        "queue",
        "takes",
        "max_attempts",
        "backoff",
        "timeout",
        "schema",
        "available",
        "unavailable_reason",
    }
    assert analyze["available"] is True and analyze["unavailable_reason"] is None
    assert analyze["schema"]["properties"]["url"]["description"]
    assert alice.get("/api/v1/job-types/analyze").json == analyze
    assert alice.get("/api/v1/job-types/nope").status_code == 404


def test_a_waiting_job_says_why_it_waits(alice: Caller) -> None:
    assert echo(alice)["waiting_reason"] == "No worker is running for default.normal. The job starts automatically when one is."
    assert "no clock is running" in echo(alice, delay=60)["waiting_reason"]


def test_a_person_cancels_stops_and_requeues_a_job_and_is_told_when_the_state_forbids_it(alice: Caller, bob: Caller) -> None:
    job = echo(alice)
    own = job["links"]["self"]
    assert bob.post(f"{own}/cancel").status_code == 404
    refused = alice.post(f"{own}/stop")
    assert (refused.status_code, refused.json["detail"][:18]) == (409, "The job is queued.")
    assert alice.post(f"{own}/cancel").json["status"] == "canceled"
    assert alice.post(f"{own}/cancel").status_code == 409
    assert alice.post(f"{own}/requeue").json["status"] == "queued"
    lifecycle.claim(job["id"], "tests")
    assert alice.post(f"{own}/stop").json["status"] == "stopped"
    assert alice.post(f"{own}/requeue").json["attempt"] == 0


@pytest.mark.databases
@pytest.mark.parametrize("path", ["/api/v1/jobs/%00", "/api/v1/jobs?type=%00", "/api/v1/jobs?starting_after=%00", "/api/v1/documents/%00"])
def test_a_nul_in_the_address_is_refused(alice: Caller, path: str) -> None:
    assert alice.get(path).status_code == 400


@pytest.mark.databases
def test_an_error_with_characters_that_no_database_keeps_is_recorded_all_the_same(alice: Caller) -> None:
    job = echo(alice)
    claim = lifecycle.claim(job["id"], "tests")
    assert lifecycle.fail(claim, lifecycle.Failure("x", "a\0b\ud800", "trace \0", permanent=True), registry.fixed(1))
    assert alice.get(job["links"]["self"]).json["error"]["message"] == "a\ufffdb\ufffd"


def test_the_answer_to_a_submission_is_what_is_read_later(alice: Caller) -> None:
    for wanted in ({}, {"priority": 9}, {"delay": 60}):
        job = echo(alice, {"a": [1, "ü", None]}, **wanted)
        assert job == alice.get(job["links"]["self"]).json


def test_answers_have_the_fields_that_openapi_says(alice: Caller) -> None:
    answer = alice.post("/api/v1/documents", json={"text": "Hello.", "jobs": ["trial_echo"]}).json
    execute.run(answer["jobs"][0]["id"])
    done = alice.get(answer["jobs"][0]["links"]["self"]).json
    assert list(done) == [name for name in schemas.JobSchema().fields if name != "preview"]  # there for types that have one
    assert list(done["artifacts"][0]) == list(schemas.ArtefactSchema().fields)
    assert list(done["cost"]) == list(schemas.CostSchema().fields)
    assert list(answer["document"]) == list(schemas.DocumentSchema().fields)


@pytest.mark.databases
def test_five_hundred_jobs_are_submitted_at_once_and_stand_in_line_one_after_the_other(alice: Caller, monkeypatch) -> None:
    monkeypatch.setattr(rq_queues, "listened", lambda: set(rq_queues.names()))
    with write_session() as session:
        session.execute(update(Lease).values(holder="tests", expires_at=now() + LEASE_S))
    waiting_reason.conditions_in.cache_clear()
    answer = alice.post("/api/v1/documents", json={"text": "Hello.", "jobs": ["trial_echo"] * 500})
    assert answer.status_code == 201
    jobs = answer.json["jobs"]
    assert [jobs[place]["waiting_reason"] for place in (0, 1, 499)] == [
        "It is next in the queue.",
        "It is number 2 in the queue.",
        "It is number 500 in the queue.",
    ]
    assert rq_queues.queue("default.normal").get_job_ids() == [job["id"] for job in jobs]
    assert echo(alice)["waiting_reason"] == "It is number 501 in the queue."
    assert echo(alice, priority=9)["waiting_reason"] == "It is next in the queue."
    assert alice.get(jobs[1]["links"]["self"]).json["waiting_reason"] == "It is number 3 in the queue."
    assert alice.post("/api/v1/documents", json={"text": "Hello.", "jobs": ["trial_echo"] * 501}).status_code == 422
