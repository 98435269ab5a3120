"""The documentation as people read it: links that lead, files to take along, and nothing of a hostile source that acts."""

from __future__ import annotations

import re

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.support.browser import EMAIL, NewPage
from tests.support.processes import Intray

HOSTILE = """# Marlin <img src=x onerror=alert(1)>

Marlin is a queue for small teams. <script>document.title = "taken over"</script>

![pixel](https://evil.example/pixel.png) [click](javascript:alert(1)) and [home](https://example.com/marlin).

<style>body { display: none }</style>

## Install

```
pip install marlin --with-a-very-long-line-that-no-telephone-can-show-in-one-piece --really-very-long-indeed
```

## Options

| Name | Meaning | Default | Since | And another column |
|---|---|---|---|---|
| `--a-long-name-for-an-option` | Says what to do | nothing | 1.0 | so that the table is wide |
"""


@pytest.fixture(scope="module")
def job_path(intray: Intray) -> str:
    """The page of a finished documentation of a hostile text."""
    headers = {"Authorization": f"Bearer {intray.token(EMAIL)}"}
    accepted = requests.post(
        f"{intray.base_url}/api/v1/documents", json={"text": HOSTILE, "jobs": ["generate_docs"]}, headers=headers, timeout=20
    )
    job = accepted.json()["jobs"][0]
    url = f"{intray.base_url}{job['links']['self']}"
    assert requests.get(url, params={"wait": 20}, headers=headers, timeout=40).json()["status"] == "finished"
    return f"/jobs/{job['id']}"


def test_what_is_hostile_is_only_words_and_the_contents_lead_to_the_chapters(page: Page, job_path: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto(job_path)
    result = page.locator(".result")
    expect(result.get_by_text("Marlin is a queue for small teams.").first).to_be_visible()
    expect(page).to_have_title(re.compile(re.escape("Done · Marlin <img src=x onerror=alert(1)>")))
    assert result.locator("script, img, style, [onerror], [href^=javascript]").count() == 0
    assert not [url for url in asked if "evil.example" in url]
    expect(result.get_by_role("link", name="home").first).to_have_attribute("href", "https://example.com/marlin")
    result.get_by_role("navigation", name="Contents").get_by_role("link", name="Getting started").click()
    expect(page.locator("#doc-start")).to_be_in_viewport()
    expect(page.locator("#doc-start")).to_contain_text("pip install marlin")
    expect(page.locator("#doc-start").get_by_text("Source:")).to_contain_text("Install")


def test_both_files_are_taken_along_from_the_top(page: Page, job_path: str) -> None:
    page.goto(job_path)
    for name in ("Markdown", "HTML"):
        with page.expect_download() as download:
            page.locator(".doc-head").get_by_role("link", name=name).click()
        assert download.value.suggested_filename == f"documentation.{'md' if name == 'Markdown' else 'html'}"


def test_long_code_and_wide_tables_do_not_widen_a_telephone(new_page: NewPage, cookies: object, job_path: str) -> None:
    page = new_page(storage_state=cookies, viewport={"width": 390, "height": 844})
    page.goto(job_path)
    expect(page.locator("#doc-start pre")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
