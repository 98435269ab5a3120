"""Documents through the API, on each database."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.archives import tarred, zipped
from tests.support.callers import Caller
from tests.support.requests import pointers, upload


def test_a_text_is_accepted_with_the_jobs_it_asks_for(alice: Caller) -> None:
    answer = alice.post(
        "/api/v1/documents",
        json={"text": "# Intray\nRuns jobs.", "tags": ["readme"], "jobs": ["analyze", {"type": "analyze", "priority": 9, "delay": 60}]},
    )
    assert answer.status_code == 201
    document, jobs = answer.json["document"], answer.json["jobs"]
    assert (document["object"], document["title"], document["kind"], document["tags"]) == ("document", "Intray", "text", ["readme"])
    assert document["size"] == 19 and len(document["sha256"]) == 64
    assert [(job["status"], job["priority"], job["document_id"]) for job in jobs] == [
        ("queued", "normal", document["id"]),
        ("scheduled", "high", document["id"]),
    ]
    assert alice.get(document["links"]["content"]).data == b"# Intray\nRuns jobs."


def test_a_url_is_accepted_without_being_fetched(alice: Caller) -> None:
    answer = alice.post("/api/v1/documents", json={"url": "https://does-not-exist.invalid/page"})
    document = answer.json["document"]
    assert (document["kind"], document["source_url"], document["size"]) == ("page", "https://does-not-exist.invalid/page", 0)
    assert alice.get(document["links"]["content"]).status_code == 409


@pytest.mark.databases
def test_one_file_and_several_files_are_accepted_and_downloaded_as_they_were(alice: Caller) -> None:
    one = alice.post("/api/v1/documents", data=upload((b"a,b\n1,2\n", "Zahlen für März.csv"), jobs="analyze"))
    assert (one.status_code, one.json["document"]["media_type"], len(one.json["jobs"])) == (201, "text/csv", 1)
    content = alice.get(one.json["document"]["links"]["content"])
    assert content.data == b"a,b\n1,2\n"
    assert content.headers["Content-Disposition"].startswith("attachment;")
    assert content.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in content.headers["Content-Security-Policy"]
    several = alice.post("/api/v1/documents", data=upload((b"x", "a.txt"), (b"y", "b.md"), jobs=["analyze", '{"type": "analyze"}']))
    assert [document["title"] for document in several.json["documents"]] == ["a.txt", "b.md"]
    assert len(several.json["jobs"]) == 4


@pytest.mark.parametrize(
    ("content", "name", "media_type"),
    [
        (zipped({"a.py": "x"}), "p.zip", "application/zip"),
        (tarred(("a.py", b"x")), "p-1.0.tar.gz", "application/gzip"),
        (tarred(("a.py", b"x")), "P.TGZ", "application/gzip"),
        (tarred(("a.py", b"x"), mode="w"), "p.tar", "application/x-tar"),
    ],
    ids=["zip", "tar.gz", "tgz", "tar"],
)
def test_an_archive_is_a_project(alice: Caller, content: bytes, name: str, media_type: str) -> None:
    document = alice.post("/api/v1/documents", data=upload((content, name))).json["document"]
    assert (document["kind"], document["media_type"], document["title"]) == ("project", media_type, name)
    assert alice.get(document["links"]["content"]).data == content


def docx(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "status"),
    [
        ((b"", "empty.txt"), 422),
        ((b"  \n\t ", "blank.md"), 422),
        ((b"\x7fELF\x02\x01\x01\x00\x00\x00", "program.txt"), 422),
        ((b"GIF89a", "picture.gif"), 422),
        ((b"no ending", "README"), 422),
        ((b"hello", "not.pdf"), 422),
        ((b"hello", "not.docx"), 422),
        ((docx("xl/workbook.xml"), "sheet.docx"), 422),
        ((b"hello", "not.zip"), 422),
        ((b"hello", "not.tar.gz"), 422),
        ((b"hello", "not.tar"), 422),
        ((tarred(("a", b"x")), "alone.gz"), 422),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else str(value),
)
def test_a_file_that_cannot_be_read_is_refused_with_the_field_named(alice: Caller, file: tuple[bytes, str], status: int) -> None:
    answer = alice.post("/api/v1/documents", data=upload(file))
    assert (answer.status_code, pointers(answer)) == (status, ["/file"])


def test_one_bad_file_among_several_is_named_and_nothing_is_kept(alice: Caller) -> None:
    answer = alice.post("/api/v1/documents", data=upload((b"x", "good.txt"), (b"\0", "bad.txt")))
    assert (answer.status_code, pointers(answer)) == (422, ["/file/1"])
    assert "bad.txt" in answer.json["detail"]
    assert alice.get("/api/v1/documents").json["data"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/text"),
        ({"text": ""}, "/text"),
        ({"text": "  \n"}, "/text"),
        ({"text": "x", "url": "https://example.org"}, "/text"),
        ({"url": "ftp://example.org"}, "/url"),
        ({"url": "javascript:alert(1)"}, "/url"),
        ({"url": "https://me:secret@example.org"}, "/url"),
        ({"url": "https://exa mple.org"}, "/url"),
        ({"url": "http://[::1"}, "/url"),
        ({"text": "x", "kind": "novel"}, "/kind"),
        ({"text": "x", "title": ""}, "/title"),
        ({"text": 1}, "/text"),
        ({"text": "x", "tags": ["a" * 51]}, "/tags/0"),
        ({"text": "x", "owner": 1}, "/owner"),
        ({"text": "x", "jobs": "analyze"}, "/jobs"),
        ({"text": "x", "jobs": ["nope"]}, "/jobs/0/type"),
        ({"text": "x", "jobs": ["analyze", 7]}, "/jobs/1"),
        ({"text": "x", "jobs": [{"type": "analyze", "priority": 0}]}, "/jobs/0/priority"),
        ({"text": "x", "jobs": [{"type": "analyze", "delay": "soon"}]}, "/jobs/0/delay"),
        ({"text": "x", "jobs": [{"type": "analyze", "params": {"nope": 1}}]}, "/jobs/0/params/nope"),
        ({"text": "x", "jobs": [{"type": "analyze", "params": []}]}, "/jobs/0/params"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_with_what_to_do(alice: Caller, body: dict[str, Any], pointer: str) -> None:
    answer = alice.post("/api/v1/documents", json=body)
    assert (answer.status_code, pointers(answer)) == (422, [pointer])


def test_what_belongs_to_somebody_else_is_not_there(alice: Caller, bob: Caller, admin: Caller) -> None:
    document = alice.post("/api/v1/documents", json={"text": "secret"}).json["document"]
    for path in (document["links"]["self"], document["links"]["content"]):
        assert bob.get(path).status_code == 404
        assert admin.get(path).status_code == 200
    assert bob.delete(document["links"]["self"]).status_code == 404
    assert bob.get("/api/v1/documents").json["data"] == []
    stolen = bob.post("/api/v1/jobs", json={"type": "analyze", "document_id": document["id"]})
    assert (stolen.status_code, pointers(stolen)) == (404, ["/document_id"])


@pytest.mark.databases
def test_a_deleted_document_is_gone_with_its_jobs(alice: Caller) -> None:
    answer = alice.post("/api/v1/documents", json={"text": "x", "jobs": ["analyze"]}).json
    assert alice.delete(answer["document"]["links"]["self"]).status_code == 204
    assert alice.get(answer["document"]["links"]["self"]).status_code == 404
    assert alice.get(answer["jobs"][0]["links"]["self"]).status_code == 404


@pytest.mark.databases
def test_documents_are_paged_newest_first_without_repeating_or_hiding_any(alice: Caller) -> None:
    for number in range(5):
        alice.post("/api/v1/documents", json={"text": f"document {number}"})
    seen, path = [], "/api/v1/documents?limit=2"
    while path:
        answer = alice.get(path)
        assert answer.json["object"] == "list" and answer.json["url"] == "/api/v1/documents"
        seen += [document["title"] for document in answer.json["data"]]
        path = answer.headers["Link"].split(">")[0][1:] if "Link" in answer.headers else None
        assert answer.json["has_more"] is (path is not None)
    assert seen == [f"document {number}" for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("query", "pointer"), [("limit=0", "/limit"), ("limit=x", "/limit"), ("limit=101", "/limit"), ("starting_after=x", "/starting_after")]
)
def test_a_wrong_page_is_named(alice: Caller, query: str, pointer: str) -> None:
    answer = alice.get(f"/api/v1/documents?{query}")
    assert (answer.status_code, pointers(answer)) == (422, [pointer])


@pytest.mark.databases
def test_a_text_of_other_scripts_and_emoji_comes_back_as_it_was(alice: Caller) -> None:
    text = "Größe 日本語 \U0001f600 العربية \u202e"
    document = alice.post("/api/v1/documents", json={"text": text, "title": text}).json["document"]
    assert document["title"] == text
    assert alice.get(document["links"]["content"]).data.decode() == text


def test_the_limit_of_a_file_is_a_setting(alice: Caller, intray_settings: Callable[..., None]) -> None:
    intray_settings(MAX_UPLOAD_BYTES="10")
    answer = alice.post("/api/v1/documents", data=upload((b"x" * 11, "a.txt")))
    assert (answer.status_code, pointers(answer)) == (413, ["/file"])
