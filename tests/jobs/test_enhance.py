"""`enhance` through the API on both databases: scores at once, refined later, one job for one story."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobs.tools.analysis import story_scores
from jobs.tools.analysis.story_scores import Story
from monolith.runner.ledger import lifecycle
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.openai_server import OpenAIServer, answer
from tests.support.samples import REFINED, STORY

SCORES = {"hype_score", "ethics_score", "reality_check", "eli5_summary"}


def submit(user: Caller, story: dict[str, Any] = STORY, **more: Any) -> Any:
    return user.post("/api/v1/jobs", json={"type": "enhance", "params": story, **more})


def finished(user: Caller, job: dict[str, Any]) -> dict[str, Any]:
    execute.run(job["id"])
    found: dict[str, Any] = user.get(job["links"]["self"]).json
    assert found["status"] == "finished", found
    return found


# ---- at once


def test_the_first_scores_are_in_the_answer_and_stay(alice: Caller) -> None:
    said = submit(alice)
    preview = said.json["preview"]
    assert (said.status_code, said.json["status"], preview["engine"]) == (202, "queued", "local")
    assert set(preview) == {*SCORES, "engine"}
    assert 0 < preview["hype_score"] < 10 and 0 <= preview["ethics_score"] <= 10
    assert alice.get(said.json["links"]["self"]).json["preview"] == preview
    assert alice.get("/api/v1/jobs").json["data"][0]["preview"] == preview
    done = finished(alice, said.json)
    assert done["preview"] == preview == done["result"]["original"]
    assert {name: done["result"][name] for name in preview} == preview  # without a model they stand
    assert done["result"]["refined"] is None


def test_a_model_refines_them_and_both_are_kept(alice: Caller, intray_settings: Callable[..., None]) -> None:
    with OpenAIServer() as model:
        intray_settings(OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=model.url)
        model.will(answer(REFINED))
        said = submit(alice).json
        assert said["preview"]["engine"] == "local" and model.requests == []
        result = finished(alice, said)["result"]
    assert (result["original"], result["refined"]) == (said["preview"], {**REFINED, "engine": result["engine"]})
    assert {name: result[name] for name in SCORES} == REFINED and result["engine"].startswith("openai:")
    asked = model.requests[0]["messages"][1]["content"]
    assert "Title: Revolutionary scanner" in asked and "Sector: health" in asked and "Impact: privacy, access" in asked


def test_an_answer_out_of_range_is_not_taken(alice: Caller, intray_settings: Callable[..., None]) -> None:
    with OpenAIServer() as model:
        intray_settings(OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=model.url)
        model.will(answer({**REFINED, "hype_score": 11}))
        said = submit(alice).json
        execute.run(said["id"])
    job = alice.get(said["links"]["self"]).json
    assert (job["status"], job["error"]["type"], job["preview"]) == ("scheduled", "BadAnswer", said["preview"])


def test_a_story_that_is_a_document_is_scored_with_its_title_and_tags(alice: Caller) -> None:
    body = {"text": STORY["content"], "title": STORY["title"], "tags": STORY["impact_tags"], "kind": "story"}
    job = alice.post("/api/v1/documents", json={**body, "jobs": [{"type": "enhance", "params": {"sector": "health"}}]}).json["jobs"][0]
    assert job["preview"] == submit(alice).json["preview"]
    assert finished(alice, job)["result"]["story"]["impact_tags"] == STORY["impact_tags"]
    again = alice.post("/api/v1/jobs", json={"type": "enhance", "document_id": job["document_id"], "params": {"sector": "health"}})
    assert (again.status_code, again.json["id"]) == (200, job["id"])
    other = alice.post("/api/v1/jobs", json={"type": "enhance", "document_id": job["document_id"]})
    assert (other.status_code, other.json["preview"]["engine"]) == (202, "local")  # another sector, read from the stored document


def test_a_document_that_a_worker_must_read_first_has_no_first_scores_until_then(alice: Caller) -> None:
    page = f"<html><body><article><p>{STORY['content'] * 3}</p></article></body></html>".encode()
    file = (io.BytesIO(page), "story.html")
    job = alice.post("/api/v1/documents", data={"file": file, "kind": "story", "jobs": "enhance"}).json["jobs"][0]
    assert "preview" not in job
    assert set(finished(alice, job)["result"]["original"]) == {*SCORES, "engine"}


def test_the_page_shows_the_first_scores_while_the_job_waits(alice: Caller) -> None:
    job = submit(alice).json
    headers = {"Authorization": f"Bearer {alice.token}"}
    waiting = alice.client.get(f"/jobs/{job['id']}", headers=headers).text
    assert "Preview: the result may change" in waiting and "Revolutionary scanner" in waiting and "Reality check" in waiting
    finished(alice, job)
    assert "Preview" not in alice.client.get(f"/jobs/{job['id']}", headers=headers).text


# ---- the same story is the same job


def test_the_same_story_is_the_same_job_even_when_it_is_done(alice: Caller) -> None:
    first = submit(alice).json
    for _ in range(2):
        again = submit(alice, {**STORY, "title": f" {STORY['title']}\n", "sector": "Health", "impact_tags": ["access", "privacy"]})
        assert (again.status_code, again.json["id"], again.headers["Intray-Deduplicated"]) == (200, first["id"], "true")
        finished(alice, first)
    assert again.json["preview"] == first["preview"]
    assert len(alice.get("/api/v1/jobs").json["data"]) == 1


@pytest.mark.parametrize("change", [{"title": "x"}, {"content": "x"}, {"sector": "x"}, {"impact_tags": ["x"]}])
def test_a_changed_story_is_another_job(alice: Caller, change: dict[str, Any]) -> None:
    first, second = submit(alice), submit(alice, {**STORY, **change})
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json["id"] != second.json["id"]


def test_the_same_story_of_another_owner_is_another_job_that_neither_sees(alice: Caller, bob: Caller) -> None:
    mine, theirs = submit(alice), submit(bob)
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json["id"] != theirs.json["id"]
    assert alice.get(theirs.json["links"]["self"]).status_code == bob.get(mine.json["links"]["self"]).status_code == 404


def test_it_is_made_again_when_it_was_deleted_and_requeued_when_it_was_cancelled(alice: Caller) -> None:
    body = {"text": STORY["content"], "kind": "story", "jobs": ["enhance"]}
    first = alice.post("/api/v1/documents", json=body).json
    assert alice.delete(first["document"]["links"]["self"]).status_code == 204
    second = alice.post("/api/v1/documents", json=body).json
    assert [job["id"] for job in second["jobs"]] == [job["id"] for job in first["jobs"]]
    job = second["jobs"][0]
    assert alice.post(f"/api/v1/jobs/{job['id']}/cancel").status_code == 200
    assert alice.post("/api/v1/documents", json=body).json["jobs"][0]["status"] == "canceled"
    assert alice.post(f"/api/v1/jobs/{job['id']}/requeue").json["status"] == "queued"


def test_a_request_that_names_it_twice_makes_it_once(alice: Caller) -> None:
    said = alice.post("/api/v1/documents", json={"text": STORY["content"], "jobs": ["enhance", "enhance", {"type": "enhance"}]})
    assert (said.status_code, len(said.json["jobs"])) == (201, 1)


def test_with_an_idempotency_key_a_repeat_is_a_repeat(alice: Caller) -> None:
    submit(alice)
    keyed = [alice.post("/api/v1/jobs", json={"type": "enhance", "params": STORY}, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [one.status_code for one in keyed] == [200, 200]
    assert "Idempotency-Replayed" not in keyed[0].headers and keyed[1].headers["Idempotency-Replayed"] == "true"


def test_many_who_submit_the_same_story_at_once_get_one_job(alice: Caller) -> None:
    def one(_: int) -> Any:
        caller = Caller(alice.client.application.test_client(), alice.user, alice.token)
        return submit(caller)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(one, range(16)))
    assert sorted(said.status_code for said in answers) == [200] * 15 + [202]
    assert len({said.json["id"] for said in answers}) == len(alice.get("/api/v1/jobs").json["data"]) == 1
    assert len({json.dumps(said.json["preview"]) for said in answers}) == 1


# ---- what is refused, and what the words say


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({}, "/document_id"),
        ({"content": ""}, "/document_id"),
        ({"content": "x" * 100_001}, "/params/content"),
        ({"content": "x", "title": "x" * 201}, "/params/title"),
        ({"content": "x", "impact_tags": [""]}, "/params/impact_tags/0"),
        ({"content": "x", "impact_tags": ["x"] * 21}, "/params/impact_tags"),
        ({"content": "x", "sector": 7}, "/params/sector"),
    ],
)
def test_wrong_params_are_refused_with_the_field_named(alice: Caller, params: dict[str, Any], pointer: str) -> None:
    said = submit(alice, params)
    assert (said.status_code, said.json["errors"][0]["pointer"]) == (422, pointer)


def test_a_story_of_nothing_but_space_fails_with_what_to_do(alice: Caller) -> None:
    job = submit(alice, {"content": " \n "}).json
    execute.run(job["id"])
    assert alice.get(job["links"]["self"]).json["error"]["message"].startswith("There is no story.")
    assert not lifecycle.claim(job["id"], "w")


def test_promises_make_hype_and_evidence_takes_it_back() -> None:
    loud = story_scores.scores(Story("Revolutionary AI", "It is groundbreaking, world-first, unprecedented and will replace everyone."))
    sober = story_scores.scores(Story("Scanner", "In a trial with 200 patients it found 91% of tumours. However, the sample was small."))
    assert loud["hype_score"] > 7 > 1 > sober["hype_score"]
    assert "“Revolutionary”" in loud["reality_check"] and "no figures or sources" in loud["reality_check"]


def test_harm_lowers_the_ethics_and_what_is_done_about_it_raises_them() -> None:
    harm = story_scores.scores(Story("", "The cameras use facial recognition and keep personal data.", "policing"))
    answered = story_scores.scores(
        Story("", "The cameras use facial recognition with informed consent, and an audit is published.", "policing")
    )
    assert harm["ethics_score"] < answered["ethics_score"] < story_scores.scores(Story("", "A bridge was painted blue."))["ethics_score"]
    assert "surveillance and privacy, but mentions no safeguards" in harm["reality_check"]


@pytest.mark.parametrize("text", ["x", "!!!", "船は木でできている。", "a\u0000b", "1," * 50_000, "will " * 20_000, "[" * 50_000, "é" * 9])
def test_odd_stories_are_scored_like_any_other(text: str) -> None:
    found = story_scores.scores(Story("", text))
    assert 0 <= found["hype_score"] <= 10 and 0 <= found["ethics_score"] <= 10 and found["reality_check"]
    assert story_scores.scores(Story("", text)) == found
