"""`generate_docs` end to end: real processes read a real site, a document and a project, with a language model and without."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.support.openai_server import OpenAIServer, answer, status
from tests.support.processes import Intray, until
from tests.support.web_site import HTML, Site

Api = Callable[..., Any]
MARLIN = "# Marlin\n\nMarlin is a queue for small teams.\n\n## Install\n\nRun `pip install marlin`.\n\n## Limits\n\nIt has no mobile app.\n"
DRAFT: dict[str, Any] = {
    "title": "Marlin",
    "overview": {"text": "A shared list of tasks. <script>alert(1)</script>", "sources": ["S1"]},
    "sections": [
        {"heading": "What it cannot do", "text": "There is no mobile app.", "sources": ["S3", "S77"]},
        {"heading": "Made up", "text": "It flies.", "sources": ["S77"]},
    ],
    "getting_started": {"text": "1. `pip install marlin`", "sources": ["S2"]},
    "reference": {"text": "", "sources": []},
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        site.answers["/robots.txt"] = (200, {"Content-Type": "text/plain"}, b"User-agent: *\nDisallow: /private\n")
        site.page(
            "/", '<h1>Marlin</h1><p>Marlin is a queue for small teams.</p><a href="/install">x</a><a href="/private">y</a>', title="Marlin"
        )
        site.page("/install", "<h1>Install it</h1><p>Put it into a folder.</p><script>alert(1)</script>", title="How to install")
        site.page("/private", "<p>Not for programs.</p>")
        yield site


def running(folder: pytest.TempPathFactory, **settings: str) -> Iterator[Api]:
    """An installation; gives what calls its API."""
    with Intray(folder.mktemp("intray") / "home", {"FETCH_ALLOW_LOOPBACK": "true", "GENERATE_DOCS_BACKOFF": "0.2", **settings}) as one:
        one.start()
        headers = {"Authorization": f"Bearer {one.token()}"}
        yield lambda method, path, **given: requests.request(method, f"{one.base_url}{path}", headers=headers, timeout=30, **given)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    yield from running(tmp_path_factory)


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def api_with_model(model: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    yield from running(tmp_path_factory, OPENAI_API_KEY="sk-test-0123456789", OPENAI_BASE_URL=model.url)


def over(api: Api, job: dict[str, Any]) -> dict[str, Any]:
    """The job when it is over."""
    found: list[dict[str, Any]] = []

    def is_over() -> bool:
        found.append(api("get", job["links"]["self"], params={"wait": 10}).json())
        return found[-1]["status"] in ("finished", "failed")

    until(is_over, 60, lambda: str(found[-1]))
    return found[-1]


def documented(api: Api, **given: Any) -> dict[str, Any]:
    """The job that documents what is given, when it is over."""
    accepted = api("post", "/api/v1/documents", **given)
    assert accepted.status_code == 201, accepted.text
    return over(api, accepted.json()["jobs"][0])


def artefact(api: Api, job: dict[str, Any], name: str) -> str:
    url = next(one["url"] for one in job["artifacts"] if one["name"] == name)
    answered = api("get", url)
    assert "sandbox" in answered.headers["Content-Security-Policy"] and "attachment" in answered.headers["Content-Disposition"]
    return answered.content.decode()


def test_a_site_becomes_markdown_html_and_a_page_with_its_sources_linked(api: Api, site: Site) -> None:
    job = over(api, api("post", "/api/v1/jobs", json={"type": "generate_docs", "params": {"url": f"{site.url}/"}}).json())
    assert (job["status"], job["result"]["engine"], job["result"]["title"]) == ("finished", "local", "Marlin")
    assert [source["url"] for source in job["result"]["sources"]] == [f"{site.url}/", f"{site.url}/install"]
    assert all(section["sources"] for section in job["result"]["sections"])
    assert "/private" not in site.paths
    assert f"Source: [S2 How to install]({site.url}/install)" in artefact(api, job, "documentation.md")
    assert f'<a href="{site.url}/install" rel="noopener noreferrer nofollow">' in artefact(api, job, "documentation.html")


def test_a_project_is_uploaded_and_documented_from_its_docstrings(api: Api) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        opened.writestr("marlin/README.md", MARLIN)
        opened.writestr("marlin/tasks.py", '"""Tasks."""\n\n\ndef add(name: str) -> int:\n    """Add a task."""\n')
        opened.writestr("../../outside.py", '"""Out."""')
    job = documented(api, files={"file": ("marlin.zip", packed.getvalue())}, data={"jobs": "generate_docs"})
    assert job["status"] == "finished", job["error"]
    assert [source["title"] for source in job["result"]["sources"]] == ["README.md", "tasks.py"]
    assert "`add(name: str) -> int` (line 4): Add a task." in job["result"]["reference"]
    document = api("get", f"/api/v1/documents/{job['document_id']}").json()
    assert (document["kind"], document["media_type"]) == ("project", "application/zip")


@pytest.mark.parametrize(("path", "words"), [("/gone", "has no page"), ("/private", "robots.txt does not allow")])
def test_a_page_that_cannot_be_read_fails_at_once_with_what_to_do(api: Api, site: Site, path: str, words: str) -> None:
    job = documented(api, json={"url": f"{site.url}{path}", "jobs": ["generate_docs"]})
    assert (job["status"], job["attempt"], job["error"]["type"]) == ("failed", 1, "permanent")
    assert words in job["error"]["message"]


def test_an_archive_that_is_none_is_refused_with_the_file_named(api: Api) -> None:
    refused = api("post", "/api/v1/documents", files={"file": ("marlin.zip", b"no zip")}, data={"jobs": "generate_docs"})
    assert refused.status_code == 422 and "marlin.zip: This is not an archive" in refused.json()["errors"][0]["detail"]


def test_a_model_writes_and_names_its_sources(api_with_model: Api, model: OpenAIServer) -> None:
    model.will(answer(DRAFT))
    job = documented(api_with_model, json={"text": MARLIN, "jobs": ["generate_docs"]})
    assert (job["status"], job["result"]["engine"]) == ("finished", "openai:gpt-5-mini"), job["error"]
    assert (job["cost"]["input_tokens"], job["cost"]["output_tokens"]) == (100, 20)
    assert job["result"]["overview"] == "A shared list of tasks. alert(1)"
    assert [(one["heading"], [source["id"] for source in one["sources"]]) for one in job["result"]["sections"]] == [
        ("What it cannot do", ["S3"])
    ]
    assert "1 passage of the model left out: no given source supports it" in job["result"]["left_out"][0]
    assert "<script" not in artefact(api_with_model, job, "documentation.html")


def test_a_model_that_talks_nonsense_twice_is_asked_again_in_another_attempt(api_with_model: Api, model: OpenAIServer) -> None:
    model.will(answer("no json at all"), answer("still none"), status(500), answer(DRAFT))
    job = documented(api_with_model, json={"text": f"{MARLIN} Again.", "jobs": ["generate_docs"]})
    assert (job["status"], job["attempt"]) == ("finished", 3), job["error"]


def test_a_model_that_never_answers_well_fails_the_job_and_says_why(api_with_model: Api, model: OpenAIServer) -> None:
    model.will(answer({"title": "x"}))
    job = documented(api_with_model, json={"text": f"{MARLIN} Never.", "jobs": ["generate_docs"]})
    assert (job["status"], job["attempt"]) == ("failed", 3)
    assert "does not match its schema" in job["error"]["message"]


def test_a_huge_linked_file_and_an_endless_site_cost_no_more_than_their_share(api: Api) -> None:
    with Site() as trap:
        trap.page("/", "<p>Come in, and stay.</p>" + "".join(f'<a href="/{number}">x</a>' for number in range(30)))
        trap.answers["/0"] = (200, HTML, b"x" * (11 * 1024 * 1024))
        for number in range(1, 30):
            trap.page(f"/{number}", f"<p>Room {number}.</p><a href='/{number}/{number}'>deeper</a>")
        job = documented(api, json={"url": f"{trap.url}/", "jobs": [{"type": "generate_docs", "params": {"pages": 3}}]})
    assert [source["url"].removeprefix(trap.url) for source in job["result"]["sources"]] == ["/", "/1", "/2", "/3"]
    assert "larger than 10 MB" in job["result"]["left_out"][0]
