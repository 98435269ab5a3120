"""A request that is sent again makes nothing new: `Idempotency-Key`, `unique`, and the pages' forms, on each database."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from sqlalchemy import func, select, update

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Document, IdempotencyKey, Job
from monolith.runner.ledger import idempotency, lifecycle, outcomes
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.requests import pointers, upload

pytestmark = pytest.mark.databases

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
ECHO = {"type": "trial_echo", "params": {"value": "hello"}}


def post(caller: Caller, body: dict[str, Any] = ECHO, key: str = KEY["Idempotency-Key"]) -> Any:
    return caller.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": key})


def count(model: type = Job) -> int:
    with read_session() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


# ---- Idempotency-Key


def test_the_same_key_and_body_answers_the_first_job_again(alice: Caller) -> None:
    first, again = post(alice), post(alice)
    assert (first.status_code, "Idempotency-Replayed" in first.headers) == (202, False)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert (again.json, again.headers["Location"]) == (first.json, first.headers["Location"])
    assert count() == 1


def test_a_replay_shows_the_job_as_it_is_now(alice: Caller) -> None:
    job = post(alice).json
    execute.run(job["id"])
    assert (post(alice).json["status"], post(alice).json["result"]) == ("finished", {"value": "hello"})


def test_the_order_of_fields_and_the_quotes_of_the_key_make_no_difference(alice: Caller) -> None:
    first = post(alice, key="abc")
    again = alice.post(
        "/api/v1/jobs",
        data=b'{ "params": {"value":"hello"}, "type": "trial_echo" }',
        content_type="application/json",
        headers={"Idempotency-Key": '"abc"'},
    )
    assert (again.status_code, again.json["id"]) == (200, first.json["id"])


def test_the_same_key_with_another_request_is_refused(alice: Caller) -> None:
    post(alice)
    other_body = post(alice, {"type": "trial_echo", "params": {"value": "other"}})
    other_path = alice.post("/api/v1/documents", json={"text": "Hello."}, headers=KEY)
    for answer in (other_body, other_path):
        assert (answer.status_code, pointers(answer)) == (422, ["/Idempotency-Key"])
        assert "new key" in answer.json["detail"]
    assert (count(), count(Document)) == (1, 0)


def test_a_key_is_its_users_own(alice: Caller, bob: Caller) -> None:
    assert [post(alice).status_code, post(bob).status_code] == [202, 202]
    assert count() == 2


@pytest.mark.parametrize("key", ["", " ", '""', "a b", "ü", "x" * 256, "tab\there"], ids=repr)
def test_a_key_that_is_no_sane_text_is_refused(alice: Caller, key: str) -> None:
    answer = post(alice, key=key)
    assert (answer.status_code, pointers(answer)) == (400, ["/Idempotency-Key"])
    assert count() == 0


def test_the_longest_key_is_taken(alice: Caller) -> None:
    assert [post(alice, key="~" * 255).status_code for _ in range(2)] == [202, 200]


def test_a_request_that_was_refused_leaves_no_key(alice: Caller) -> None:
    assert post(alice, {"type": "nope"}).status_code == 422
    assert count(IdempotencyKey) == 0
    assert post(alice).status_code == 202


def test_a_job_that_was_deleted_meanwhile_is_said_to_be_gone(alice: Caller) -> None:
    made = alice.post("/api/v1/documents", json={"text": "Hello.", "jobs": ["analyze"]}, headers=KEY)
    alice.delete(made.json["document"]["links"]["self"])
    again = alice.post("/api/v1/documents", json={"text": "Hello.", "jobs": ["analyze"]}, headers=KEY)
    assert (again.status_code, again.json["code"]) == (410, "gone")
    assert "new key" in again.json["detail"]
    assert count(Document) == 0


def test_documents_and_their_jobs_are_made_once(alice: Caller) -> None:
    body = {"text": "Hello.", "jobs": ["analyze", {"type": "analyze", "params": {"name": "Hi"}}]}
    first, again = [alice.post("/api/v1/documents", json=body, headers=KEY) for _ in range(2)]
    assert (first.status_code, again.status_code, again.headers["Idempotency-Replayed"]) == (201, 200, "true")
    assert again.json == first.json
    assert (count(), count(Document)) == (2, 1)


def test_files_are_the_same_by_content_whatever_divides_the_form(alice: Caller) -> None:
    def send(content: bytes, boundary: str) -> Any:
        parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in (("jobs", "analyze"), ("kind", "file"))]
        parts += [f'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n{content.decode()}']
        body = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts) + f"--{boundary}--\r\n"
        content_type = f"multipart/form-data; boundary={boundary}"
        return alice.post("/api/v1/documents", data=body.encode(), content_type=content_type, headers=KEY)

    first, again, other = send(b"one", "first"), send(b"one", "second"), send(b"two", "first")
    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 422]
    assert again.json == first.json
    assert alice.get(first.json["document"]["links"]["content"]).data == b"one"


def test_several_files_are_replayed_as_several(alice: Caller) -> None:
    first, again = [
        alice.post("/api/v1/documents", data=upload((b"x", "a.txt"), (b"y", "b.md"), jobs="analyze"), headers=KEY) for _ in range(2)
    ]
    assert (again.status_code, again.json) == (200, first.json)
    assert len(again.json["documents"]) == 2


def test_a_key_is_kept_for_a_day_and_then_forgotten(alice: Caller) -> None:
    post(alice, key="old")
    with write_session() as session:
        session.execute(update(IdempotencyKey).values(created_at=now() - 25 * 3600))
    post(alice, key="new")
    with write_session() as session:
        assert idempotency.forget_old(session) == 1
    assert [post(alice, key="new").status_code, post(alice, key="old").status_code] == [200, 202]


def test_a_repeat_of_an_accepted_request_is_answered_even_when_its_job_type_is_gone(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    from monolith.job_types import registry

    first = post(alice)
    monkeypatch.delitem(registry.discover(), "trial_echo")
    assert (post(alice).status_code, post(alice).json["id"]) == (200, first.json["id"])
    assert post(alice, key="another").status_code == 422


# ---- unique


UNIQUE = {**ECHO, "unique": True}


@pytest.mark.parametrize("first", [{}, {"delay": 60}, {"unique": True}, {"priority": "low"}], ids=str)
def test_a_unique_job_is_the_one_that_waits_already(alice: Caller, first: dict[str, Any]) -> None:
    waiting = alice.post("/api/v1/jobs", json={**ECHO, **first})
    answer = alice.post("/api/v1/jobs", json=UNIQUE)
    assert (answer.status_code, answer.headers["Intray-Deduplicated"]) == (200, "true")
    assert answer.json == waiting.json


def test_a_unique_job_is_the_one_that_runs_already_and_a_new_one_when_that_is_over(alice: Caller) -> None:
    first = alice.post("/api/v1/jobs", json=UNIQUE)
    assert (first.status_code, "Intray-Deduplicated" in first.headers) == (202, False)
    claim = lifecycle.claim(first.json["id"], worker="tests")
    assert alice.post("/api/v1/jobs", json=UNIQUE).json["id"] == first.json["id"]
    lifecycle.succeed(claim, outcomes.Outcome({}))
    again = alice.post("/api/v1/jobs", json=UNIQUE)
    assert (again.status_code, again.json["id"] == first.json["id"]) == (202, False)


def test_other_params_another_type_and_another_user_are_other_content(alice: Caller, bob: Caller) -> None:
    answers = [
        alice.post("/api/v1/jobs", json=UNIQUE),
        alice.post("/api/v1/jobs", json={**UNIQUE, "params": {"value": "other"}}),
        alice.post("/api/v1/jobs", json={"type": "trial_raise", "unique": True}),
        bob.post("/api/v1/jobs", json=UNIQUE),
    ]
    assert [answer.status_code for answer in answers] == [202] * 4


def test_without_unique_two_alike_are_two_jobs(alice: Caller) -> None:
    assert [alice.post("/api/v1/jobs", json=ECHO).status_code for _ in range(2)] == [202, 202]
    assert count() == 2


def test_two_documents_with_the_same_content_share_a_unique_job(alice: Caller) -> None:
    body = {"text": "The same words.", "jobs": [{"type": "analyze", "unique": True}]}
    first, second = [alice.post("/api/v1/documents", json=body) for _ in range(2)]
    assert (second.status_code, second.headers["Intray-Deduplicated"]) == (201, "true")
    assert [job["id"] for job in second.json["jobs"]] == [job["id"] for job in first.json["jobs"]]
    assert (count(), count(Document)) == (1, 2)
    spec = {"type": "analyze", "document_id": second.json["document"]["id"], "unique": True}
    assert alice.post("/api/v1/jobs", json=spec).json["id"] == first.json["jobs"][0]["id"]


def test_pages_that_are_not_fetched_yet_are_not_alike(alice: Caller) -> None:
    body = {"url": "https://example.org/", "jobs": [{"type": "analyze", "unique": True}]}
    assert len({alice.post("/api/v1/documents", json=body).json["jobs"][0]["id"] for _ in range(2)}) == 2


def test_files_alike_in_one_request_share_a_unique_job(alice: Caller) -> None:
    form = upload((b"same", "a.txt"), (b"same", "b.txt"), (b"other", "c.txt"), jobs='{"type": "analyze", "unique": true}')
    answer = alice.post("/api/v1/documents", data=form)
    assert (answer.status_code, len(answer.json["documents"]), len(answer.json["jobs"])) == (201, 3, 2)


def test_a_unique_job_that_failed_cannot_start_again_beside_its_living_twin(alice: Caller) -> None:
    old = alice.post("/api/v1/jobs", json=UNIQUE).json
    alice.post(f"/api/v1/jobs/{old['id']}/cancel")
    twin = alice.post("/api/v1/jobs", json=UNIQUE).json
    answer = alice.post(f"/api/v1/jobs/{old['id']}/requeue")
    assert (answer.status_code, answer.json["code"]) == (409, "conflict")
    assert "same type and content" in answer.json["detail"]
    alice.post(f"/api/v1/jobs/{twin['id']}/cancel")
    assert alice.post(f"/api/v1/jobs/{old['id']}/requeue").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/api/v1/jobs", {**ECHO, "unique": "perhaps"}, "/unique"),
        ("/api/v1/documents", {"text": "x", "jobs": [{"type": "analyze", "unique": 1}]}, "/jobs/0/unique"),
    ],
)
def test_unique_is_true_or_false(alice: Caller, path: str, body: dict[str, Any], pointer: str) -> None:
    answer = alice.post(path, json=body)
    assert (answer.status_code, pointers(answer)) == (422, [pointer])


def test_a_replay_of_what_was_shared_names_the_shared_job(alice: Caller) -> None:
    shared = alice.post("/api/v1/jobs", json=UNIQUE).json["id"]
    first, again = post(alice, UNIQUE), post(alice, UNIQUE)
    assert (first.status_code, first.headers["Intray-Deduplicated"], first.json["id"]) == (200, "true", shared)
    assert (again.status_code, again.headers["Idempotency-Replayed"], again.json["id"]) == (200, "true", shared)


# ---- the pages


def filled(page: str, **fields: Any) -> dict[str, Any]:
    """What a browser sends of the form on this page."""
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    assert {"once", "csrf_token"} <= set(hidden)
    return {**hidden, **fields}


def test_a_page_that_is_submitted_twice_makes_one_job(alice: Caller) -> None:
    form = filled(alice.get("/").text, text="Hello.", job="analyze", priority="normal")
    answers = [alice.post("/submit", data={**form, "file": (io.BytesIO(b""), "")}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert answers[0].headers["Location"] == answers[1].headers["Location"]
    assert (count(), count(Document)) == (1, 1)


def test_a_form_that_is_mended_or_rendered_anew_makes_another_job(alice: Caller) -> None:
    form = filled(alice.get("/").text, text="Hello.", job="analyze")
    alice.post("/submit", data=form)
    alice.post("/submit", data={**form, "text": "Hello again."})
    alice.post("/submit", data=filled(alice.get("/").text, text="Hello.", job="analyze"))
    assert count() == 3


def test_a_form_that_was_refused_and_mended_makes_one_job(alice: Caller) -> None:
    refused = alice.post("/submit", data=filled(alice.get("/").text, text="", job="analyze"))
    assert refused.status_code == 422
    mended = filled(refused.text, text="Hello.", job="analyze")
    assert [alice.post("/submit", data=mended).status_code for _ in range(2)] == [303, 303]
    assert count() == 1


def test_more_is_done_with_a_document_once(alice: Caller) -> None:
    document = alice.post("/api/v1/documents", json={"text": "Hello."}).json["document"]["id"]
    form = filled(alice.get(f"/documents/{document}").text, job="analyze")
    places = {alice.post(f"/documents/{document}/jobs", data=form).headers["Location"] for _ in range(2)}
    assert (len(places), count()) == (1, 1)
