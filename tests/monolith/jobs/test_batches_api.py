"""Batches through the API: several documents and jobs in one submission, on each database."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Document, Job
from monolith.documents import submission
from monolith.jobs.schemas import MAX_DOCUMENTS
from monolith.runner.ledger.batches import Batch, BatchItem
from monolith.runner.scheduler import retention
from monolith.runner.worker import execute
from tests.support.callers import Caller

pytestmark = pytest.mark.databases

TEXTS = [{"text": "# One\nFirst."}, {"text": "# Two\nSecond.", "tags": ["b"]}, {"url": "https://does-not-exist.invalid/"}]
BINARY = (b"\x00\x01binary", "holiday.txt")


def post(caller: Caller, documents: list[Any] | None = None, jobs: Any = ("analyze", "trial_echo"), **options: Any) -> Any:
    body = {"documents": TEXTS if documents is None else documents, "jobs": list(jobs)}
    return caller.post("/api/v1/batches", json=body, **options)


def files(*given: tuple[bytes, str], **fields: Any) -> dict[str, Any]:
    return {"files": [(io.BytesIO(content), name) for content, name in given], **fields}


def errors(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {one["pointer"]: one["detail"] for one in answer.json["errors"]}


def rows() -> list[int]:
    with read_session() as session:
        return [session.scalar(select(func.count()).select_from(model)) or 0 for model in (Batch, BatchItem, Document, Job)]


def test_documents_and_jobs_are_accepted_as_one(alice: Caller) -> None:
    answer = post(alice)
    batch = answer.json
    assert (answer.status_code, answer.headers["Location"], batch["object"]) == (202, batch["url"], "batch")
    assert [one["title"] for one in batch["documents"]] == ["One", "Two", "https://does-not-exist.invalid/"]
    assert [[job["type"] for job in one["jobs"]] for one in batch["documents"]] == [["analyze", "trial_echo"]] * 3
    assert [job["id"] for job in batch["jobs"]] == [job["id"] for one in batch["documents"] for job in one["jobs"]]
    assert (batch["counts"]["queued"], sum(batch["counts"].values())) == (6, 6)
    assert (batch["progress"], batch["is_over"], batch["refused"]) == (0, False, [])
    assert "RateLimit" in answer.headers
    assert alice.get(batch["url"]).json["jobs"] == batch["jobs"]


def test_a_wrong_file_is_refused_with_its_reason_and_the_others_are_accepted(alice: Caller) -> None:
    given = files((b"first", "one.txt"), BINARY, (b"x", "song.mp3"), (b"second", "two.md"), jobs='["analyze", {"type": "trial_echo"}]')
    answer = alice.post("/api/v1/batches", data=given)
    assert answer.status_code == 202
    assert [one["title"] for one in answer.json["documents"]] == ["one.txt", "two.md"]
    refused = answer.json["refused"]
    assert [(one["name"], one["pointer"]) for one in refused] == [("holiday.txt", "/files/1"), ("song.mp3", "/files/2")]
    assert "This is not text" in refused[0]["detail"] and "not supported" in refused[1]["detail"]
    assert alice.get(answer.json["url"]).json["refused"] == refused
    assert rows() == [1, 4, 2, 4]


def test_a_wrong_document_of_json_is_named_by_its_place(alice: Caller) -> None:
    given = [{"text": "ok"}, {}, {"url": "ftp://x"}, "text", {"text": "a", "kind": "poem"}, {"text": "a", "jobs": ["analyze"]}]
    answer = post(alice, given, ["analyze"])
    assert answer.status_code == 202 and len(answer.json["documents"]) == 1
    pointers = ["/documents/1/text", "/documents/2/url", "/documents/3", "/documents/4/kind", "/documents/5/jobs"]
    assert [one["pointer"] for one in answer.json["refused"]] == pointers


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"documents": [], "jobs": ["analyze"]}, "/documents"),
        ({"jobs": ["analyze"]}, "/documents"),
        ({"documents": [{"text": "a"}]}, "/jobs"),
        ({"documents": [{"text": "a"}], "jobs": []}, "/jobs"),
        ({"documents": [{"text": "a"}], "jobs": ["nonsense"]}, "/jobs/0/type"),
        ({"documents": [{"text": "a"}], "jobs": ["analyze", {"type": "analyze", "params": {"x": 1}}]}, "/jobs/1/params/x"),
        ({"documents": [{"text": " "}], "jobs": ["analyze"]}, "/documents/0/text"),
        ({"documents": [{"text": "a"}] * (MAX_DOCUMENTS + 1), "jobs": ["analyze"]}, "/documents"),
        ({"documents": [{"text": "a"}] * 300, "jobs": ["analyze"] * 4}, "/jobs"),
        ({"documents": [{"text": "a"}], "jobs": ["analyze"], "other": 1}, "/other"),
    ],
)
def test_what_is_wrong_for_all_refuses_all(alice: Caller, body: dict[str, Any], pointer: str) -> None:
    assert pointer in errors(alice.post("/api/v1/batches", json=body))
    assert rows() == [0, 0, 0, 0]


def test_when_no_file_can_be_taken_nothing_is_accepted(alice: Caller) -> None:
    assert "/files/0" in errors(alice.post("/api/v1/batches", data=files(BINARY, jobs="analyze")))
    assert "/files" in errors(alice.post("/api/v1/batches", data={"jobs": "analyze"}, content_type="multipart/form-data"))
    assert rows() == [0, 0, 0, 0]


def test_progress_is_over_all_and_what_failed_is_retried(alice: Caller) -> None:
    batch = post(alice, TEXTS[:2], ["trial_echo", "trial_permanent"]).json
    by_type = {kind: [job["id"] for job in batch["jobs"] if job["type"] == kind] for kind in ("trial_echo", "trial_permanent")}
    execute.run(by_type["trial_echo"][0])
    half = alice.get(batch["url"]).json
    assert (half["progress"], half["counts"]["finished"], half["is_over"]) == (25.0, 1, False)
    for job_id in (by_type["trial_echo"][1], *by_type["trial_permanent"]):
        execute.run(job_id)
    done = alice.get(f"{batch['url']}?wait=20")
    assert (done.json["progress"], done.json["is_over"], done.json["counts"]["failed"]) == (100.0, True, 2)
    assert alice.get(batch["url"], headers={"If-None-Match": done.headers["ETag"]}).status_code == 304
    again = alice.post(batch["links"]["retry"])
    assert (again.status_code, again.json["requeued"], again.json["counts"]["queued"], again.json["counts"]["finished"]) == (200, 2, 2, 2)
    assert alice.get(f"/api/v1/jobs/{by_type['trial_permanent'][0]}").json["attempt"] == 0
    assert alice.post(batch["links"]["retry"]).json["requeued"] == 0


def test_a_job_at_work_counts_in_part_and_a_pruned_one_as_done(alice: Caller) -> None:
    batch = post(alice, TEXTS[:2], ["trial_echo"]).json
    first, second = (job["id"] for job in batch["jobs"])
    with write_session() as session:
        session.execute(update(Job).where(Job.id == first).values({"status": "started", "progress": 100.0}))
    assert alice.get(batch["url"]).json["progress"] == 50.0
    with write_session() as session:
        session.execute(update(Job).where(Job.id == second).values({"status": "started", "progress": 100.0}))
    assert alice.get(batch["url"]).json["progress"] == 99.9  # 100 is for what is over
    for one in batch["documents"]:
        with write_session() as session:
            session.execute(update(Job).values({"status": "finished"}))
        assert alice.delete(one["links"]["self"]).status_code == 204
    gone = alice.get(batch["url"]).json
    assert (gone["counts"]["pruned"], gone["progress"], gone["is_over"], gone["documents"]) == (2, 100.0, True, [])


def test_a_batch_is_forgotten_when_nothing_of_it_is_left(alice: Caller, intray_settings: Callable[..., None]) -> None:
    kept, emptied = post(alice, TEXTS[:1], ["trial_echo"]).json, post(alice, TEXTS[:1], ["trial_echo"]).json
    assert alice.delete(emptied["documents"][0]["links"]["self"]).status_code == 204
    list(retention.prune())
    assert alice.get(emptied["url"]).status_code == 200  # it is not old
    with write_session() as session:
        session.execute(update(Batch).values(created_at=now() - 30 * 86400))
    list(retention.prune())
    assert (alice.get(emptied["url"]).status_code, alice.get(kept["url"]).status_code) == (404, 200)
    assert rows()[:2] == [1, 1]


def test_others_do_not_see_it_and_admins_do(alice: Caller, bob: Caller, admin: Caller) -> None:
    batch = post(alice).json
    assert [bob.get(batch["url"]).status_code, bob.post(batch["links"]["retry"]).status_code] == [404, 404]
    assert bob.get("/api/v1/batches").json["data"] == []
    assert [bob.get(f"/batches/{batch['id']}").status_code, bob.get(f"/batches/{batch['id']}/live").status_code] == [404, 404]
    assert admin.get(batch["url"]).json["id"] == batch["id"]
    assert alice.client.get(batch["url"]).status_code == 401


def test_they_are_listed_the_newest_first_page_by_page(alice: Caller) -> None:
    made = [post(alice, TEXTS[:1]).json["id"] for _ in range(3)]
    page = alice.get("/api/v1/batches?limit=2")
    assert ([one["id"] for one in page.json["data"]], page.json["has_more"]) == (made[:0:-1], True)
    assert set(page.json["data"][0]) == {"object", "id", "url", "created_at", "is_over", "progress", "counts", "refused", "links"}
    following = alice.get(page.headers["Link"].partition(">")[0].strip("<"))
    assert [one["id"] for one in following.json["data"]] == made[:1]


def test_sent_again_with_its_key_it_makes_nothing_new(alice: Caller) -> None:
    key = {"Idempotency-Key": "one"}
    first, again = post(alice, headers=key), post(alice, headers=key)
    assert (again.status_code, again.headers["Idempotency-Replayed"], again.json["id"]) == (200, "true", first.json["id"])
    assert post(alice, TEXTS[:1], headers=key).status_code == 422
    assert rows() == [1, 6, 3, 6]


def test_ten_at_once_with_one_key_make_one_batch(alice: Caller) -> None:
    def send(_: int) -> Any:
        own = Caller(alice.client.application.test_client(), alice.user, alice.token)
        return post(own, headers={"Idempotency-Key": "raced"})

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(send, range(10)))
    assert sorted(one.status_code for one in answers) == [200] * 9 + [202]
    assert len({one.json["id"] for one in answers}) == 1 and rows() == [1, 6, 3, 6]


def test_a_batch_for_which_there_is_no_room_is_refused_whole(alice: Caller, intray_settings: Callable[..., None]) -> None:
    intray_settings(MAX_QUEUED_PER_USER="5")
    answer = post(alice)
    assert (answer.status_code, answer.json["code"]) == (429, "too_many_jobs") and "Retry-After" in answer.headers
    assert rows() == [0, 0, 0, 0]
    assert post(alice, TEXTS[:2]).status_code == 202


def test_a_unique_job_that_lives_already_is_shared_and_shown(alice: Caller) -> None:
    unique = [{"type": "trial_echo", "unique": True}]
    first = post(alice, TEXTS[:2], unique).json
    second = post(alice, [TEXTS[0], {"text": "another"}], unique)
    assert second.headers["Intray-Deduplicated"] == "true"
    assert second.json["jobs"][0]["id"] == first["jobs"][0]["id"]
    assert sum(second.json["counts"].values()) == 2
    twice = post(alice, [{"text": "same"}, {"text": "same"}], unique).json
    assert (len(twice["documents"]), len(twice["jobs"]), twice["counts"]["queued"]) == (2, 1, 1)


def test_a_batch_that_loses_a_race_for_a_unique_job_is_accepted_with_the_winners(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    unique = [{"type": "trial_echo", "unique": True}]
    winner = post(alice, TEXTS[:1], unique).json
    seen: list[Any] = []
    look = submission._existing_jobs

    def look_too_early(user: Any, wanted: Any) -> dict[str, str]:
        seen.append(wanted)
        return {} if len(seen) == 1 else look(user, wanted)

    monkeypatch.setattr(submission, "_existing_jobs", look_too_early)
    answer = post(alice, TEXTS[:2], unique)
    assert (answer.status_code, len(seen)) == (202, 2), answer.text
    assert [one["title"] for one in answer.json["documents"]] == ["One", "Two"]
    assert answer.json["jobs"][0]["id"] == winner["jobs"][0]["id"]
