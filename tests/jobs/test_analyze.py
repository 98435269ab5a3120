"""The first job type, called directly: what it gives for real documents, with and without an LLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from jobs.analyze import analyze
from jobs.tools.analysis import text_stats
from monolith.config import settings
from monolith.errors import Invalid
from monolith.job_types import registry
from monolith.job_types.registry import Permanent
from tests.support import documents
from tests.support.openai_server import ANALYSIS, OpenAIServer
from tests.support.papers import README, Paper, Work


@pytest.fixture(autouse=True)
def without_llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SECRET_KEY", "for tests")
    monkeypatch.setenv("FETCH_ALLOW_LOOPBACK", "1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def site() -> Iterator[str]:
    """The URL of a page about Tidepool."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            words = "Tidepool is a small key-value store that keeps all of its data in memory. " * 3
            self.wfile.write(f"<html><head><title>Tidepool</title></head><body><article><p>{words}</p></article></body></html>".encode())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/about"
    server.shutdown()
    thread.join()
    server.server_close()


def run(document: Paper | None = None, **params: Any) -> dict[str, Any]:
    return analyze(Work(document), params)  # type: ignore[arg-type]


def test_a_readme_is_told_by_its_own_sentences() -> None:
    found = run(Paper(README.encode(), "text/markdown"))
    assert found["summary"].startswith("Tidepool is a small key-value store that keeps its data in memory.")
    assert "Fast reads: a hundred thousand requests a second on one core" in found["strengths"]
    assert found["limitations"] == ["Tidepool does not support transactions.", "The data must fit into memory."]
    assert "It is useful for caches that must survive a restart." in found["use_cases"]
    assert found["sections"] == ["Tidepool", "Features", "Installation", "Use cases", "Limitations", "License"]
    assert found["key_terms"][0]["term"] == "tidepool"
    assert (found["engine"], found["document_type"], found["language"]) == ("local", "software", "en")


def test_the_maturity_score_is_the_share_of_signs_found_and_the_rest_is_missing() -> None:
    found = run(Paper(README.encode(), "text/markdown"))
    shown = {sign["name"]: sign["found"] for sign in found["signs"]}
    assert shown["version"] and shown["licence"] and shown["installation"] and not shown["security"] and not shown["tests"]
    assert found["maturity_score"] == round(sum(shown.values()) / len(shown), 2)
    assert len(found["missing"]) == list(shown.values()).count(False)
    assert "It does not mention tests." in found["missing"]


def test_everything_quoted_stands_in_the_document() -> None:
    found = run(text=README)
    words = " ".join(README.split())
    for quote in [*found["strengths"], *found["limitations"], *found["use_cases"], *found["key_sentences"]]:
        assert quote in words


def test_what_speaks_against_it_is_no_strength() -> None:
    found = run(text="The store is fast and simple to run. It does not support secure connections, and it fails on slow disks.")
    assert found["strengths"] == ["The store is fast and simple to run."]
    assert found["limitations"] == ["It does not support secure connections, and it fails on slow disks."]


def test_a_line_that_was_wrapped_before_a_number_is_no_heading() -> None:
    assert text_stats.analyse("The work was done in\n12 Stages that took a year\nand then it was over.").sections == []
    assert text_stats.analyse("It was over.\n2 Results\nThey were good.").sections == ["2 Results"]


def test_a_report_of_twenty_pages_is_read_from_its_pdf() -> None:
    filler = "The crew measured the hull on day {n} and wrote the figures into table {n} of the log. Nothing else of note was seen there."
    pages = ["Abstract\nThis report presents how salt water reduces the strength of oak hulls.\n"]
    pages += [f"{n} Measurements of week {n}\n{filler.format(n=n)}\n" * 3 for n in range(1, 19)]
    pages += ["Conclusion\nSalt water reduced the strength of oak by 12 % in two years. However, the sample was limited to three hulls."]
    found = run(Paper(documents.pdf(pages, header="Hull report"), "application/pdf"))
    assert found["summary"].startswith("This report presents how salt water reduces the strength of oak hulls.")
    assert "However, the sample was limited to three hulls." in found["limitations"]
    assert found["document_type"] == "report"
    assert {"Abstract", "Conclusion"} <= set(found["sections"])
    assert found["source"]["media_type"] == "application/pdf"


@pytest.mark.parametrize(
    "text", ["Hello", "A boat is good.", "no capitals no stops", "1234 5678", "!!! ???", "- a\n- b\n- c", "| a | b |", "# Only a title"]
)
def test_a_very_short_text_gets_a_summary_and_a_low_score(text: str) -> None:
    found = run(text=text)
    assert found["maturity_score"] <= 0.3
    assert isinstance(found["summary"], str)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Das Boot ist aus Holz und es ist sehr leicht. Es hat ein Segel, das man auch bei wenig Wind nutzen kann. " * 3, "de"),
        ("Le bateau est en bois et il est très léger. La voile est dans le coffre avec les cordes et une pompe. " * 3, "fr"),
        ("Лодка сделана из дерева и очень легкая. У неё есть парус, который можно использовать при слабом ветре. " * 3, None),
        ("船は木でできていて、とても軽い。帆は弱い風でも使える。" * 5, None),
        ("القارب مصنوع من الخشب وهو خفيف جدا. له شراع. " * 5, None),
    ],
)
def test_other_languages_are_read_and_the_result_says_what_that_means(text: str, language: str | None) -> None:
    found = run(text=text)
    assert found["language"] == language
    assert found["summary"]
    assert "cue words are English" in found["basis"]
    assert found["readability"]["score"] is None


def test_readability_is_the_flesch_reading_ease() -> None:
    easy = text_stats.reading_ease(text_stats.analyse("The cat sat on the mat. The dog ran to the tree. We saw it and it was good. " * 3))
    hard = text_stats.reading_ease(
        text_stats.analyse(
            "The institutional implementation of organisational accountability necessitates interdisciplinary collaboration. " * 5
        )
    )
    assert easy == {"score": 115.8, "level": "very easy"}
    assert hard["level"] == "very difficult"


def test_the_same_text_always_gives_the_same_result() -> None:
    assert run(text=README) == run(text=README)


def test_a_document_known_by_its_url_is_fetched_and_kept(site: str) -> None:
    paper = Paper(None, "text/html", source_url=site)
    found = run(paper)
    assert paper.kept == ["text/html"]
    expected = {"title": "Tidepool", "url": site, "document_id": "doc_1", "media_type": "text/html"}
    assert found["source"].items() >= expected.items()
    assert found["source"]["words"] > 30 and found["source"]["characters"] > 200


def test_a_page_is_read_from_its_url(site: str) -> None:
    found = run(url=site)
    assert found["summary"] == "Tidepool is a small key-value store that keeps all of its data in memory."
    assert (found["source"]["title"], found["source"]["document_id"]) == ("Tidepool", None)


def test_the_description_is_read_together_with_the_document_and_the_name_is_the_title() -> None:
    found = run(Paper(b"It is written in C."), name="Tidepool", description="Tidepool is a store.")
    assert found["source"]["title"] == "Tidepool"
    assert found["summary"] == "Tidepool is a store. It is written in C."


def test_progress_names_its_steps_in_order() -> None:
    job = Work()
    analyze(job, {"text": README})
    assert [note for _, note in job.steps] == ["reading", "analysing", "writing"]
    assert [percent for percent, _ in job.steps] == sorted(percent or 0 for percent, _ in job.steps)


def test_a_document_without_text_fails_for_good() -> None:
    with pytest.raises(Permanent, match="scan"):
        run(Paper(documents.scan(), "application/pdf"))


def test_with_a_key_the_llm_judges_and_the_local_extras_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        settings.cache_clear()
        job = Work(Paper(README.encode()))
        found = analyze(job, {"name": "Tidepool"})
    assert found.items() >= ANALYSIS.items()
    assert found["engine"] == f"openai:{settings().openai_model}"
    assert "the whole document" in found["basis"]
    assert found["key_terms"][0]["term"] == "tidepool" and found["missing"]
    assert job.tokens == 120
    assert "The subject is called: Tidepool" in server.requests[0]["messages"][1]["content"]


def load(params: Any, *, has_document: bool = False) -> dict[str, Any]:
    return registry.find("analyze").load_params(params, has_document)


@pytest.mark.parametrize("params", [{"url": "https://example.com/a"}, {"text": "Some."}, {"description": "Some."}])
def test_one_input_is_enough(params: dict[str, str]) -> None:
    assert load(params) == params


@pytest.mark.parametrize("params", [{}, None, {"name": "Tidepool"}, {"text": "  ", "url": ""}])
def test_no_input_is_refused_at_submission(params: Any) -> None:
    with pytest.raises(Invalid) as refused:
        load(params)
    assert "needs input" in refused.value.detail


def test_a_form_with_blank_fields_is_fine_beside_a_document() -> None:
    assert load({"url": "", "text": " ", "name": "Tidepool", "description": None}, has_document=True) == {"name": "Tidepool"}


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"url": "ftp://example.com"}, "/params/url"),
        ({"url": "http://"}, "/params/url"),
        ({"url": "https://example.com/" + "x" * 2048}, "/params/url"),
        ({"url": 7}, "/params/url"),
        ({"text": "x" * 1_000_001}, "/params/text"),
        ({"name": "x" * 201}, "/params/name"),
        ({"description": "x" * 10_001}, "/params/description"),
        ({"text": "x", "colour": "red"}, "/params/colour"),
        (["text"], "/params"),
    ],
)
def test_wrong_params_are_refused_with_the_field_named(params: Any, pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        load(params)
    assert [error.pointer for error in refused.value.errors] == [pointer]
