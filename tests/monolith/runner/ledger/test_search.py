"""Finding documents and jobs again: by words, tags, kind and state, on each database."""

from __future__ import annotations

import io
from typing import Any

import pytest
from fpdf import FPDF
from sqlalchemy import select, update

from monolith.db.engine import read_session, write_session
from monolith.db.models import Document, Job
from monolith.runner.ledger import search
from monolith.runner.ledger.search import DocumentText
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import submit_text

pytestmark = pytest.mark.databases


def titles(caller: Caller, path: str = "documents", **query: str) -> list[str]:
    answer = caller.get(f"/api/v1/{path}", query_string=query)
    assert answer.status_code == 200, answer.text
    return [one.get("title") or one["id"] for one in answer.json["data"]]


def pdf(text: str) -> bytes:
    document = FPDF()
    document.add_page()
    document.set_font("Helvetica", size=12)
    document.multi_cell(0, 8, text)
    return bytes(document.output())


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        ("library", True),
        ("LIBRARY books", True),
        ("libr boo", True),
        ("cafe", True),
        ("CAFÉ", True),
        ("grosse", True),
        ('"the library"', True),
        ('"library the"', False),
        ('"the librar"', False),
        ("well-known", True),
        ("known well", True),
        ("москва", True),
        ("2021", True),
        ("library whale", False),
        ("ibrary", False),
    ],
)
def test_a_document_is_found_by_its_words(alice: Caller, query: str, is_found: bool) -> None:
    submit_text(alice, "In the library of the Café Größe are 12,000 books. A well-known place since 2021. Москва.", title="Notes")
    submit_text(alice, "Of something else", title="Other")
    assert titles(alice, q=query) == (["Notes"] if is_found else [])


@pytest.mark.parametrize(
    "query",
    [
        *("", '"', '""', '"library', "AND", "NOT NEAR(", "lib* OR", "names:library", "(", ")", "-", "--", "'", "\\", "^a", "a:*", "!a"),
        *("a & | b", "<->", "{a b}:x", "%", "_", "e\u0301\u0301", "\U0001f600", "x" * 300),
    ],
    ids=lambda query: f"{len(query)}-{ascii(query[:8])}",
)
def test_no_search_has_a_wrong_syntax(alice: Caller, query: str) -> None:
    submit_text(alice, "In the library")
    assert alice.get("/api/v1/documents", query_string={"q": query}).status_code == 200
    assert alice.get("/api/v1/jobs", query_string={"q": query}).status_code == 200


def test_a_search_that_is_too_long_is_refused(alice: Caller) -> None:
    answer = alice.get("/api/v1/documents", query_string={"q": "x" * 301})
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/q")


def test_title_file_name_and_address_are_words_too(alice: Caller) -> None:
    alice.post("/api/v1/documents", json={"url": "https://archive.example.org/handbook", "title": "The city"})
    alice.post("/api/v1/documents", data={"file": (io.BytesIO(pdf("whales")), "Annual_report-2021.pdf")})
    assert titles(alice, q="city") == titles(alice, q="archive.example.org") == titles(alice, q="handbook") == ["The city"]
    assert titles(alice, q="annual report") == titles(alice, q="2021.pdf") == ["Annual_report-2021.pdf"]


def test_the_text_of_a_pdf_is_found_once_a_worker_has_read_it(alice: Caller) -> None:
    given = {"file": (io.BytesIO(pdf("The whale is a mammal. It swims in every sea and eats krill.")), "a.pdf"), "jobs": "analyze"}
    job = alice.post("/api/v1/documents", data=given).json["jobs"][0]
    assert titles(alice, q="whale") == []
    execute.run(job["id"])
    assert titles(alice, q="whale mammal") == ["a.pdf"]
    assert titles(alice, "jobs", q="whale mammal") == [job["id"]]


def test_a_changed_title_is_found_and_the_former_no_more(alice: Caller) -> None:
    document = submit_text(alice, "Some text", title="Before", tags=["a"])["document"]
    changed = alice.patch(document["links"]["self"], json={"title": "After", "tags": ["b", "c", "b"]})
    assert (changed.status_code, changed.json["title"], changed.json["tags"]) == (200, "After", ["b", "c"])
    assert (titles(alice, q="before"), titles(alice, q="after"), titles(alice, q="some")) == ([], ["After"], ["After"])
    assert (titles(alice, tag="a"), titles(alice, tag="b")) == ([], ["After"])


@pytest.mark.parametrize(("change", "pointer"), [({"title": ""}, "/title"), ({"tags": ["x" * 51]}, "/tags/0"), ({"kind": "page"}, "/kind")])
def test_a_wrong_change_is_named(alice: Caller, change: dict[str, Any], pointer: str) -> None:
    document = submit_text(alice, "Some text")["document"]
    answer = alice.patch(document["links"]["self"], json=change)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, pointer)


def test_a_deleted_document_leaves_no_words(alice: Caller) -> None:
    document = submit_text(alice, "whale", jobs=["analyze"])["document"]
    assert alice.delete(document["links"]["self"]).status_code == 204
    assert titles(alice, q="whale") == []
    with read_session() as session:
        assert session.scalars(select(DocumentText)).all() == []


def test_each_finds_their_own_and_admins_all(alice: Caller, bob: Caller, admin: Caller) -> None:
    document = submit_text(alice, "whale", title="Hers", tags=["sea"], jobs=["analyze"])["document"]
    for query in ({"q": "whale"}, {"tag": "sea"}, {"sha256": document["sha256"]}):
        assert (titles(bob, **query), titles(admin, **query), titles(alice, **query)) == ([], ["Hers"], ["Hers"])
    assert (len(titles(bob, "jobs", q="whale")), len(titles(admin, "jobs", q="whale"))) == (0, 1)
    assert bob.patch(document["links"]["self"], json={"title": "His"}).status_code == 404


def test_filters_narrow_each_other(alice: Caller) -> None:
    submit_text(alice, "whale one", title="One", tags=["sea", "big"], kind="story", jobs=["trial_echo"])
    submit_text(alice, "whale two", title="Two", tags=["sea"], jobs=["trial_echo", "trial_permanent"])
    submit_text(alice, "mouse", title="Three", tags=["big"])
    for job in alice.get("/api/v1/jobs?type=trial_permanent").json["data"]:
        execute.run(job["id"])
    assert titles(alice, tag="sea") == ["Two", "One"]
    assert titles(alice, tag="sea", kind="story") == titles(alice, tag="big", q="whale") == ["One"]
    assert titles(alice, tag="se") == titles(alice, kind="story", q="mouse") == []
    assert titles(alice, status="failed") == titles(alice, type="trial_permanent") == ["Two"]
    assert titles(alice, type="trial_permanent", status="queued") == []
    assert len(titles(alice, "jobs", tag="sea")) == 3
    assert len(titles(alice, "jobs", tag="sea", kind="story", status="queued")) == 1


def test_a_search_is_paged_like_any_list(alice: Caller) -> None:
    for number in range(5):
        submit_text(alice, f"whale {number}", title=str(number))
        submit_text(alice, f"mouse {number}")
    page = alice.get("/api/v1/documents?limit=2&q=whale")
    following = alice.get(page.headers["Link"].split(">")[0][1:])
    assert [one["title"] for one in [*page.json["data"], *following.json["data"]]] == ["4", "3", "2", "1"]


def test_a_job_without_a_document_is_found_by_what_it_was_given(alice: Caller) -> None:
    job = alice.post("/api/v1/jobs", json={"type": "analyze", "params": {"text": "The whale is 100% a mammal."}}).json
    assert titles(alice, "jobs", q="WHALE mam") == titles(alice, "jobs", q="100") == [job["id"]]
    assert titles(alice, "jobs", q="mouse") == titles(alice, "jobs", q="100x") == []


def test_the_same_content_handed_in_again_names_the_first(alice: Caller, bob: Caller) -> None:
    first = submit_text(alice, "The same words", title="First")["document"]
    second = submit_text(alice, "The same words", title="Second")["document"]
    third = submit_text(alice, "The same words", jobs=["analyze"])
    assert [first["duplicate_of"], second["duplicate_of"], third["document"]["duplicate_of"]] == [None, first["id"], first["id"]]
    assert alice.get(second["links"]["self"]).json["duplicate_of"] == first["id"]
    assert [one["duplicate_of"] for one in alice.get("/api/v1/documents").json["data"]] == [first["id"], first["id"], None]
    assert titles(alice, sha256=first["sha256"])[1:] == ["Second", "First"]
    assert submit_text(bob, "The same words")["document"]["duplicate_of"] is None
    assert alice.delete(first["links"]["self"]).status_code == 204
    assert alice.get(second["links"]["self"]).json["duplicate_of"] is None


@pytest.mark.parametrize("unit", ["é1234 ", "語", "a ", "\u0958", "ﷺ "], ids=["latin", "cjk", "letters", "devanagari", "ligatures"])
def test_any_text_can_be_kept_however_long_and_of_whatever_script(alice: Caller, unit: str) -> None:
    many = "".join(chr(0x4E00 + number % 20000) + (" " if number % 3 else chr(0x3400 + number % 6000)) for number in range(150_000))
    text = (unit * 400_000)[:400_000] + many
    assert submit_text(alice, text + " end", title="Long")["document"]["title"] == "Long"
    assert submit_text(alice, many, title="Varied")["document"]["title"] == "Varied"


def test_many_documents_are_deleted_at_once_and_what_cannot_be_is_left(alice: Caller, bob: Caller) -> None:
    ids = [submit_text(alice, f"text {number}", jobs=["analyze"])["document"]["id"] for number in range(3)]
    his = submit_text(bob, "his")["document"]["id"]
    with write_session() as session:
        session.execute(update(Job).where(Job.document_id == ids[0]).values({"status": "started"}))
    done = alice.post("/api/v1/documents/delete", json={"ids": [*ids, his, ids[1]]}).json
    assert (done["changed"], [one["id"] for one in done["left"]]) == (2, [ids[0], his])
    assert "is running on this document" in done["left"][0]["detail"] and "no document" in done["left"][1]["detail"]
    with read_session() as session:
        assert set(session.scalars(select(Document.id))) == {ids[0], his}


def test_many_jobs_are_cancelled_and_started_again_at_once(alice: Caller, bob: Caller) -> None:
    jobs = [submit_text(alice, f"text {number}", jobs=["analyze"])["jobs"][0]["id"] for number in range(3)]
    his = submit_text(bob, "his", jobs=["analyze"])["jobs"][0]["id"]
    assert alice.post("/api/v1/jobs/cancel", json={"ids": [*jobs[:2], his]}).json["changed"] == 2
    again = alice.post("/api/v1/jobs/requeue", json={"ids": jobs}).json
    assert (again["changed"], again["left"][0]["id"]) == (2, jobs[2])
    assert alice.post("/api/v1/jobs/stop", json={"ids": jobs}).json["changed"] == 0
    assert bob.get(f"/api/v1/jobs/{his}").json["status"] == "queued"


@pytest.mark.parametrize("ids", [[], ["x"] * 501, None], ids=["none", "too-many", "missing"])
def test_a_selection_has_its_limits(alice: Caller, ids: list[str] | None) -> None:
    answer = alice.post("/api/v1/jobs/cancel", json={"ids": ids} if ids is not None else {})
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/ids")


def test_the_words_of_a_query_are_bounded() -> None:
    assert len(search.plain_words("a " * 200)) == search.MAX_TERMS
