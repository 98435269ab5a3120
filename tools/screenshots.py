"""Make the pictures of docs/images: start Intray in a home of its own, hand in real documents, photograph the pages.

Run it from the project's folder: `.venv/bin/python -m tools.screenshots`. It needs Chromium (`apt-get install chromium`).
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from fpdf import FPDF
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, sync_playwright

from tests.support.chromium import LAUNCH
from tests.support.processes import Intray, until
from tools.samples import seed

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August")
COLOURS = 128  # enough for our pages; a third of the bytes
IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1200, "height": 760}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1200, "height": 760}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True, "is_mobile": True},
}
GUIDE = """# Marlin: a queue for small teams

Marlin is a command line tool that keeps a shared list of tasks in one SQLite file. It is fast to install, works offline and
has been used in production by twelve teams since 2021. It is released under the MIT licence.

## Features

Marlin supports priorities, due dates and recurring tasks. It is easy to script: every command prints plain text or JSON.
Backups are simple, because everything is in one file. The test suite covers 94 % of the code.

## Getting started

Install it with pip and run `marlin init` in a folder that your team shares. You can use it to plan releases, to hand over
support shifts, or to keep a reading list.

## Limitations

Marlin does not support Windows network drives. Two people who edit at the same moment must retry, and there is no mobile app
yet. Lists of more than 50,000 tasks are slow. Attachments are not encrypted.
"""


def main(names: list[str]) -> None:
    """Write the pictures whose names begin with one of `names`; all of them when there are none."""
    IMAGES.mkdir(exist_ok=True)
    with running() as intray, slow_site() as slow, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**LAUNCH)
        places = hand_in(browser, intray, slow)
        photograph_all(browser, intray, {"sign-in": "/sign-in", **places}, names)
        photograph_all(browser, intray, administer(intray), names)
        browser.close()


def photograph_all(browser: Browser, intray: Intray, places: dict[str, str], names: list[str]) -> None:
    for name, path in places.items():
        for look in LOOKS:
            if not names or f"{name}-{look}".startswith(tuple(names)):
                photograph(browser, intray, name, path, look)


@contextmanager
def running() -> Iterator[Intray]:
    with tempfile.TemporaryDirectory(prefix="intray-pictures-") as folder:
        settings = {"FETCH_ALLOW_LOOPBACK": "true", "SIGN_IN_RATE": "1000 per minute", "ANALYZE_BACKOFF": "1200"}
        intray = Intray(Path(folder) / "home", settings)
        try:
            yield intray.start()
        finally:
            intray.end()


@contextmanager
def slow_site() -> Iterator[str]:
    """The address of a page that is long in coming, so that a job can be seen at work; below it is one that is not to be had."""

    over = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/busy"):
                self.send_error(503)
            else:
                over.wait(60)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/handbook"
    over.set()
    server.shutdown()


def hand_in(browser: Browser, intray: Intray, slow: str) -> dict[str, str]:
    """Submit the examples; the path of each page to photograph, the one at work last before it is over."""
    page = signed_in(browser, intray, "light")
    failed = submit(page, files=[{"name": "scan-0412.pdf", "mimeType": "application/pdf", "buffer": pdf(None)}])
    submit(page, files=[{"name": "annual-report.pdf", "mimeType": "application/pdf", "buffer": pdf(GUIDE)}])
    refused = hand_in_ten(page)
    done = submit(page, text=GUIDE, tags="guide, queue")
    page.locator(".result").wait_for()
    submit(page, text=GUIDE, title="The same guide again")
    page.locator(".result").wait_for()
    retrying = submit(page, text=f"{slow}/busy", title="Opening hours of the city archive")
    page.get_by_text("Will retry").first.wait_for()
    jobs = {"job-checked": check(intray), "job-linted": lint(intray)}
    working = submit(page, text=slow, title="Handbook of the city archive")
    page.context.close()
    places = {
        "submit": "/",
        "documents": "/documents",
        "search": "/documents?q=shared+list",
        "jobs": "/jobs",
        "batches": "/batches",
        "report": "/run/report",
        "webhooks": "/webhooks",
        "account": "/account",
        "admin-alerts": "/admin/alerts",
        "admin-rq": "/admin/rq/",
        "admin-jobs": "/admin/jobs",
        "admin-failures": "/admin/failures",
        "admin-trash": "/admin/bin?status=failed&age=0&unit=hours",
        "api": "/api/docs",
    }
    return {"job-working": working, **places, "refused": refused, "job-done": done, "job-failed": failed, "job-retrying": retrying, **jobs}


def administer(intray: Intray) -> dict[str, str]:
    """A week of samples, a pause and two schedules; the paths of the admin pages that show them. Last, as a pause is seen on all pages."""
    seed(intray.home / "intray.sqlite3")
    api, headers = f"{intray.base_url}/api/v1", {"Authorization": f"Bearer {intray.token()}"}
    asked = [
        ("PUT", "/pauses/type:email", {"reason": "The mail server is being moved; it is back at noon."}),
        ("POST", "/schedules", {"name": "Weekly report", "type": "report", "cron": "30 6 * * MON"}),
        (
            "POST",
            "/schedules",
            {"name": "Release notes", "type": "analyze", "cron": "0 */4 * * *", "params": {"url": "https://example.org/"}},
        ),
        ("POST", "/schedules/1/run", None),
    ]
    for method, path, body in asked:
        requests.request(method, api + path, json=body, headers=headers, timeout=20).raise_for_status()
    until(lambda: requests.get(f"{api}/schedules/1", headers=headers, timeout=20).json()["last_job_id"] is not None)
    pages = {"pauses": "/admin/pauses", "schedules": "/admin/schedules", "audit": "/admin/audit", "schedule": "/admin/schedules/1"}
    return {"admin": "/admin/?period=24h", **{f"admin-{name}": path for name, path in pages.items()}}


def hand_in_ten(page: Page) -> str:
    """Submit ten files, two of which are bad; the path of the page that says so."""
    good: list[FilePayload] = [
        {"name": f"minutes-{month}.md", "mimeType": "text/markdown", "buffer": f"# Minutes of {month}\n\n{GUIDE}".encode()}
        for month in MONTHS
    ]
    bad: list[FilePayload] = [
        {"name": "scan-0411.pdf", "mimeType": "application/pdf", "buffer": b"not a PDF"},
        {"name": "recording.mp3", "mimeType": "audio/mpeg", "buffer": b"ID3"},
    ]
    submit(page, files=[*good, *bad], leads_to="**/batches/*")
    page.get_by_text("All 8 jobs done").wait_for()
    return "/" + page.url.split("/", 3)[3]


def check(intray: Intray) -> str:
    """The page of an application that was checked."""
    text = "Application for certification\n\nApplicant: Ada's Bakery\nDate: 3 November 2026\n\nWe bake bread for twelve villages."
    body = {"text": text, "title": "Application of Ada's Bakery", "kind": "application", "jobs": ["quality_check"]}
    return done(intray, post(intray, "documents", body)["jobs"][0])


def lint(intray: Intray) -> str:
    """The page of a project that was linted."""
    code = "import os\nimport sys\n\n\ndef total(prices):\n    sum = 0\n    for price in prices:\n        sum += price\n    return totl\n"
    return done(intray, post(intray, "jobs", {"type": "lint", "params": {"files": {"shop/prices.py": code, "setup.cfg": ""}}}))


def post(intray: Intray, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {intray.token()}"}
    made: dict[str, Any] = requests.post(f"{intray.base_url}/api/v1/{path}", json=body, headers=headers, timeout=20).json()
    return made


def done(intray: Intray, job: dict[str, Any]) -> str:
    headers = {"Authorization": f"Bearer {intray.token()}"}
    requests.get(f"{intray.base_url}{job['links']['self']}?wait=25", headers=headers, timeout=40)
    return f"/jobs/{job['id']}"


def submit(page: Page, *, files: list[FilePayload] | None = None, leads_to: str = "**/jobs/*", **fields: str) -> str:
    """Fill the form in as a person does; the path of the page it leads to."""
    page.goto("/")
    if files:
        page.locator("#file").set_input_files(files)
    if {"title", "tags"} & set(fields):
        page.get_by_text("Title, kind and tags").click()
    for name, value in fields.items():
        page.locator(f"[name={name}]").fill(value)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(leads_to)
    return "/" + page.url.split("/", 3)[3]


def pdf(text: str | None) -> bytes:
    document = FPDF()
    document.add_page()
    if text:
        document.set_font("Helvetica", size=11)
        document.multi_cell(0, 6, text)
    else:
        document.rect(20, 20, 100, 60)
    return bytes(document.output())


def signed_in(browser: Browser, intray: Intray, look: str) -> Page:
    page = browser.new_context(base_url=intray.base_url, **LOOKS[look]).new_page()
    page.goto("/")
    page.get_by_label("E-mail").fill(intray.email)
    page.get_by_label("Password").fill(intray.password)
    page.get_by_role("button", name="Sign in").click()
    page.locator("nav.tabs").wait_for()
    return page


def photograph(browser: Browser, intray: Intray, name: str, path: str, look: str) -> None:
    is_gate = name == "sign-in"
    page = browser.new_context(base_url=intray.base_url, **LOOKS[look]).new_page() if is_gate else signed_in(browser, intray, look)
    page.goto(path)
    page.wait_for_function("document.readyState === 'complete'")
    act(page, name)
    picture = IMAGES / f"{name}-{look}.png"
    page.screenshot(path=picture, animations="disabled" if name != "job-working" else "allow")
    page.context.close()
    Image.open(picture).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


def act(page: Page, name: str) -> None:
    """What is done on a page before its picture is taken."""
    if name == "documents":
        for place in (0, 2, 3):
            page.locator(".pick input").nth(place).check()


if __name__ == "__main__":
    main(sys.argv[1:])
