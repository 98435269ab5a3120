"""The main job, whole: a real document, real processes, on both databases and both Redis servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
from fpdf import FPDF
from fpdf.enums import AccessPermission

from tests.support.processes import ROOT, Intray

PARAGRAPH = (
    "Intray accepts documents and answers at once. Workers read each document and analyse it. "
    "The main strength is that nothing accepted is lost. A limitation is that one worker runs one job at a time. "
    "Teams use it to review applications, to summarise reports and to check documentation. "
)


@pytest.fixture(scope="module")
def api(intray: Intray) -> Callable[..., requests.Response]:
    token = intray.token()

    def call(method: str, path: str, **options: Any) -> requests.Response:
        url = path if path.startswith("http") else f"{intray.base_url}{path}"
        return requests.request(method, url, headers={"Authorization": f"Bearer {token}"}, timeout=40, **options)

    return call


def pdf(pages: int, *, text: str = PARAGRAPH, password: str | None = None) -> bytes:
    document = FPDF()
    document.set_font("helvetica", size=11)
    if password:
        document.set_encryption(owner_password=password, user_password=password, permissions=AccessPermission.none())
    for number in range(1, pages + 1):
        document.add_page()
        if text:
            document.multi_cell(0, 6, f"Chapter {number}\n\n{text * 8}")
    return bytes(document.output())


def over(api: Callable[..., requests.Response], job: dict[str, Any], within: float = 60) -> dict[str, Any]:
    """The job when it is over, by long polling."""
    give_up_at = time.monotonic() + within
    while time.monotonic() < give_up_at:
        found: dict[str, Any] = api("get", job["links"]["self"], params={"wait": 10}).json()
        if found["status"] in ("finished", "failed", "stopped", "canceled"):
            return found
    pytest.fail(f"the job is not over within {within} s: {found}")


def submit_file(api: Callable[..., requests.Response], name: str, content: bytes) -> dict[str, Any]:
    answer = api("post", "/api/v1/documents", files={"file": (name, content)}, data={"jobs": "analyze"})
    assert answer.status_code == 201, answer.text
    accepted: dict[str, Any] = answer.json()
    return accepted


def test_a_pdf_of_20_pages_is_analysed_and_the_original_comes_back(api: Callable[..., requests.Response]) -> None:
    content = pdf(20)
    accepted = submit_file(api, "report.pdf", content)
    job = over(api, accepted["jobs"][0])
    assert (job["status"], job["attempt"], job["progress"]) == ("finished", 1, 100), job["error"]
    result = job["result"]
    assert {"summary", "strengths", "limitations", "use_cases", "maturity_score", "engine", "source"} <= set(result)
    assert result["engine"] == "local"
    assert 0 <= result["maturity_score"] <= 1
    assert "Intray" in result["summary"]
    assert api("get", job["links"]["result"]).json() == result
    assert api("get", accepted["document"]["links"]["content"]).content == content


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("secret.pdf", pdf(1, password="x"), "password"),
        ("scan.pdf", pdf(2, text=""), "text"),
        ("broken.pdf", b"%PDF-1.7\nnothing more", "PDF"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_document_that_cannot_be_read_fails_and_says_what_to_do(
    api: Callable[..., requests.Response], name: str, content: bytes, word: str
) -> None:
    job = over(api, submit_file(api, name, content)["jobs"][0])
    assert (job["status"], job["attempt"], job["error"]["type"]) == ("failed", 1, "permanent")
    assert word in job["error"]["message"]


def test_a_file_of_11_megabytes_is_refused_with_the_field_named(api: Callable[..., requests.Response]) -> None:
    answer = api("post", "/api/v1/documents", files={"file": ("large.txt", b"x" * (11 * 1024 * 1024))})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (413, "/file")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A real web site on this machine."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            article = f"<article><h1>Intray</h1><p>{PARAGRAPH * 5}</p></article>"
            body = f"<html><head><title>About Intray</title></head><body><nav>Home</nav>{article}</body></html>"
            self.send_response(200 if self.path == "/about" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_page_is_fetched_by_the_worker_analysed_and_kept(api: Callable[..., requests.Response], site: str) -> None:
    accepted = api("post", "/api/v1/documents", json={"url": f"{site}/about", "jobs": ["analyze"]}).json()
    job = over(api, accepted["jobs"][0])
    assert job["status"] == "finished", job["error"]
    assert job["result"]["source"]["url"].startswith(site)
    assert b"<article>" in api("get", accepted["document"]["links"]["content"]).content


def test_a_page_that_is_not_there_fails_and_says_so(api: Callable[..., requests.Response], site: str) -> None:
    job = over(api, api("post", "/api/v1/jobs", json={"type": "analyze", "params": {"url": f"{site}/gone"}}).json())
    assert (job["status"], job["error"]["type"]) == ("failed", "permanent")
    assert "404" in job["error"]["message"]


def test_a_delayed_job_starts_when_it_is_due(api: Callable[..., requests.Response]) -> None:
    accepted = api("post", "/api/v1/jobs", json={"type": "analyze", "params": {"text": PARAGRAPH}, "delay": 1.5}).json()
    assert accepted["status"] == "scheduled"
    assert accepted["waiting_reason"].startswith("Starts at ")
    job = over(api, accepted)
    assert job["status"] == "finished"
    assert job["started_at"] > accepted["run_at"]


def test_the_readme_words_for_curl_work_as_they_stand(intray: Intray, tmp_path: Path) -> None:
    words = re.search(r"## Use the API.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert words
    script = words[1].replace("localhost:8000", f"127.0.0.1:{intray.port}").replace(".venv/bin/python", sys.executable)
    script = script.replace("accepted.json", str(tmp_path / "accepted.json"))
    done = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, env={**intray.env, "PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().splitlines()[-1])["engine"] == "local"


def test_a_printed_token_opens_the_api(intray: Intray) -> None:
    printed = intray.checked("token", "create", "--email", intray.email)
    secret = printed.split()[-1]
    assert secret.startswith("intray_")
    answer = requests.get(f"{intray.base_url}/api/v1/me", headers={"Authorization": f"Bearer {secret}"}, timeout=10)
    assert answer.json()["email"] == "admin@localhost"


def test_a_running_installation_has_nothing_to_mend(intray: Intray) -> None:
    intray.wait_until(lambda: intray.manage("doctor").returncode == 0)
    said = intray.manage("doctor").stdout
    assert "PROBLEM" not in said
    assert intray.password not in said and (intray.home / "secret_key").read_text() not in said


def test_a_stock_rq_worker_drains_the_same_queues(new_intray: Callable[..., Intray], redis_server: str) -> None:
    redis_url = redis_server.replace("/0", "/1")  # the other tests' workers listen on 0
    one = new_intray(REDIS_URL=redis_url, JOB_PACKAGES="jobs,tests.trial_jobs")
    one.checked("db", "upgrade")
    one.checked("user", "create", "--email", "a@example.org", "--password", "a long password")
    token = one.token("a@example.org")
    one.spawn("web")
    one.spawn("clock")
    one.wait_until(one.is_ready)
    headers = {"Authorization": f"Bearer {token}"}
    accepted = requests.post(f"{one.base_url}/api/v1/jobs", json={"type": "trial_second_time"}, headers=headers, timeout=10).json()
    assert accepted["waiting_reason"] == "No worker is running for default.normal. The job starts automatically when one is."
    queues = [f"default.{priority}" for priority in ("critical", "high", "normal", "low")]
    rq = [str(Path(sys.executable).with_name("rq")), "worker", "-u", redis_url, "-S", "json", *queues]
    with subprocess.Popen(
        rq, cwd=ROOT, env={**one.env, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as worker:
        url = f"{one.base_url}{accepted['links']['self']}"
        one.wait_until(lambda: requests.get(url, headers=headers, timeout=10).json()["status"] == "finished")
        worker.terminate()
    assert requests.get(url, headers=headers, timeout=10).json()["result"] == {"attempt": 2}
