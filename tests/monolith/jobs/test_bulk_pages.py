"""What the lists' pages do with many rows at once, and what the submit page says of limits, as a browser asks for it."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import submit_text


def ids_in(page: str) -> list[str]:
    return re.findall(r'<input type="hidden" name="id" value="([^"]+)"', page)


def archive_of(answer: Any) -> zipfile.ZipFile:
    assert (answer.status_code, answer.mimetype) == (200, "application/zip"), answer.text
    content = answer.data
    answer.close()
    return zipfile.ZipFile(io.BytesIO(content))


def test_a_question_says_how_many_and_which_and_changes_nothing(alice: Caller) -> None:
    made = [submit_text(alice, f"text {number}", title=f"Title {number}")["document"]["id"] for number in range(12)]
    asked = alice.post("/documents/selected?q=text", data={"act": "delete", "id": made})
    assert asked.status_code == 200 and "Delete 12 documents?" in asked.text and "and 4 more" in asked.text and "Title 0" in asked.text
    assert ids_in(asked.text) == made
    assert len(alice.get("/api/v1/documents").json["data"]) == 12
    done = alice.post("/documents/selected?q=text", data={"act": "delete", "id": made[:3], "sure": "yes"})
    assert (done.status_code, done.headers["Location"]) == (303, "/documents?q=text")
    assert len(alice.get("/api/v1/documents").json["data"]) == 9


def test_all_that_the_search_finds_can_be_meant(alice: Caller, bob: Caller) -> None:
    for number in range(30):
        submit_text(alice, f"whale {number}", jobs=[{"type": "analyze", "delay": 60}])
    submit_text(alice, "mouse", jobs=[{"type": "analyze", "delay": 60}])
    submit_text(bob, "whale", jobs=[{"type": "analyze", "delay": 60}])
    asked = alice.post("/jobs/selected?q=whale", data={"act": "cancel", "all": "yes"})
    assert "Cancel 30 jobs?" in asked.text and len(ids_in(asked.text)) == 30
    alice.post("/jobs/selected?q=whale", data={"act": "cancel", "id": ids_in(asked.text), "sure": "yes"})
    left = alice.get("/api/v1/jobs?status=scheduled").json["data"]
    assert len(left) == 1 and len(bob.get("/api/v1/jobs?status=scheduled").json["data"]) == 1


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"act": "delete"}, "Nothing is selected"),
        ({"act": "download"}, "Nothing is selected"),
        ({"act": "delete", "id": ["x"] * 1 + [f"{number}" for number in range(500)]}, "501 items are selected; the limit is 500 at once"),
        ({"act": "explode", "id": ["x"]}, "Unknown action"),
    ],
    ids=["none", "none-to-download", "too-many", "unknown-act"],
)
def test_a_wrong_selection_leads_back_with_the_reason(alice: Caller, form: dict[str, Any], said: str) -> None:
    answer = alice.post("/documents/selected?tag=a", data=form)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/documents?tag=a")
    assert said in alice.get("/documents").text


@pytest.mark.parametrize("path", ["/documents/selected", "/jobs/selected"])
@pytest.mark.parametrize("act", ["delete", "requeue", "cancel", "stop", "download"])
def test_what_is_somebody_elses_is_not_touched(alice: Caller, bob: Caller, path: str, act: str) -> None:
    made = submit_text(alice, "hers", title="Hers only", jobs=["analyze"])
    form = {"act": act, "id": [made["document"]["id"], made["jobs"][0]["id"]]}
    for sure in ({}, {"sure": "yes"}):
        assert "Hers only" not in bob.post(path, data={**form, **sure}).text
    assert alice.get(made["jobs"][0]["links"]["self"]).json["status"] == "queued"


def test_originals_come_as_they_were_each_by_a_name_of_its_own(alice: Caller) -> None:
    names = ("a.txt", "a.txt", "b.md", "../c.csv")
    made = [alice.post("/api/v1/documents", data={"file": (io.BytesIO(name.encode()), name)}).json["document"]["id"] for name in names]
    page = alice.post("/api/v1/documents", json={"url": "https://does-not-exist.invalid/"}).json["document"]["id"]
    archive = archive_of(alice.post("/documents/selected", data={"act": "download", "id": [*made, page]}))
    assert archive.namelist() == ["a.txt", "a (2).txt", "b.md", "c.csv"]
    assert archive.read("a (2).txt") == b"a.txt"
    alone = alice.post("/documents/selected", data={"act": "download", "id": [page]})
    assert alone.status_code == 303 and "None of these documents has an original yet" in alice.get("/documents").text


def test_results_come_with_their_files(alice: Caller) -> None:
    job = submit_text(alice, "Marlin is a tool. It is fast.", title="Marlin", jobs=["generate_docs", "analyze"])["jobs"]
    execute.run(job[0]["id"])
    archive = archive_of(alice.post("/jobs/selected", data={"act": "download", "id": [one["id"] for one in job]}))
    names = archive.namelist()
    assert names[0] == "Marlin generate_docs.json" and "Marlin generate_docs documentation.md" in names
    assert json.loads(archive.read(names[0])) == alice.get(job[0]["links"]["result"]).json


def test_what_is_too_much_for_one_zip_is_said(alice: Caller, intray_settings: Callable[..., None]) -> None:
    made = [submit_text(alice, str(number) * 600_000)["document"]["id"] for number in range(3)]
    intray_settings(MAX_REQUEST_BYTES=str(1024 * 1024))
    answer = alice.post("/documents/selected", data={"act": "download", "id": made})
    assert answer.status_code == 303 and "exceed 1 MB. Select fewer" in alice.get("/documents").text
    assert len(archive_of(alice.post("/documents/selected", data={"act": "download", "id": made[:1]})).namelist()) == 1


def test_the_submit_page_says_how_much_may_be_submitted(alice: Caller, intray_settings: Callable[..., None]) -> None:
    assert "You can submit" not in alice.get("/").text
    intray_settings(MAX_QUEUED_PER_USER="2", MAX_UPLOAD_BYTES=str(3 * 1024 * 1024), MAX_REQUEST_BYTES=str(9 * 1024 * 1024))
    page = alice.get("/").text
    assert "You can submit 2 more jobs right now." in page and "up to 3 MB each, 9 MB in total" in page
    submit_text(alice, "x", jobs=["analyze", "trial_echo"])
    assert "You can’t submit more jobs right now" in alice.get("/").text


def test_a_form_that_is_too_large_altogether_is_told_the_limit(alice: Caller, intray_settings: Callable[..., None]) -> None:
    alice.client.application.config["MAX_CONTENT_LENGTH"] = 256 * 1024
    answer = alice.post("/submit", data={"file": [(io.BytesIO(b"x" * 150_000), "a.txt"), (io.BytesIO(b"y" * 150_000), "b.txt")]})
    assert answer.status_code == 413 and "larger than 0.25 MB. Send less" in answer.text


def test_files_that_the_page_did_not_send_are_refused_with_the_others(alice: Caller) -> None:
    form = {
        "job": "analyze",
        "left_out": ["5 a.mp3", "99999999999 big.txt", "0 empty.md", "7 fine.txt", "x <b>", "nonsense", "8 ../../up.exe"],
    }
    answer = alice.post("/submit", data={**form, "file": (io.BytesIO(b"good"), "good.txt")})
    assert answer.status_code == 303 and "/batches/" in answer.headers["Location"]
    batch = alice.get(f"/api/v1{answer.headers['Location']}").json
    assert [one["title"] for one in batch["documents"]] == ["good.txt"]
    reasons = {one["name"]: one["detail"] for one in batch["refused"]}
    assert "not supported" in reasons["a.mp3"] and "the limit is 10 MB" in reasons["big.txt"] and "empty" in reasons["empty.md"]
    assert "Submit it separately" in reasons["fine.txt"] and len(reasons) == 7
    assert "<b>" not in alice.get(answer.headers["Location"]).text


def test_without_a_job_the_refused_files_are_named_once(alice: Caller) -> None:
    given = {"file": [(io.BytesIO(b"good"), "good.txt"), (io.BytesIO(b"also"), "also.txt"), (io.BytesIO(b"\0"), "bad.txt")]}
    answer = alice.post("/submit", data=given)
    assert answer.headers["Location"] == "/documents"
    page = alice.get("/documents").text
    assert "2 documents were accepted" in page and "Rejected: bad.txt: This is not text" in page
    assert "Rejected" not in alice.get("/documents").text
