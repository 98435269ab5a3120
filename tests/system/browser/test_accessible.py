"""Every page, looked at by axe-core: nothing that keeps people out, light and dark, wide and narrow."""

from __future__ import annotations

import re

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.support.browser import BIN, EMAIL, NewPage, findings_in_each_look, note, submit
from tests.support.processes import Intray

PATHS = (
    "/",
    "/documents",
    "/documents?q=nothing+like+it",
    "/jobs",
    "/batches",
    "/webhooks",
    "/run/report",
    "/account",
    "/api/docs",
    "/jobs/none-such",
)


@pytest.fixture(scope="module")
def submitted(intray: Intray) -> dict[str, str]:
    """A document with a tag and a twin, for the lists to show."""
    headers = {"Authorization": f"Bearer {intray.token(EMAIL)}"}
    body = {"text": "Something for axe to look at.", "tags": ["axe"], "jobs": ["analyze"]}
    answers = [requests.post(f"{intray.base_url}/api/v1/documents", json=body, headers=headers, timeout=20).json() for _ in range(2)]
    return {"document": f"/documents/{answers[1]['document']['id']}", "job": f"/jobs/{answers[1]['jobs'][0]['id']}"}


@pytest.mark.parametrize("path", PATHS)
def test_axe_finds_nothing_serious(page: Page, submitted: dict[str, str], path: str) -> None:
    page.goto(path)
    expect(page.locator("h1")).to_be_visible()
    assert findings_in_each_look(page) == []


def test_nor_on_a_document_and_its_job(page: Page, submitted: dict[str, str]) -> None:
    page.goto(submitted["document"])
    assert findings_in_each_look(page) == []
    page.goto(submitted["job"])
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()
    assert findings_in_each_look(page) == []


def test_nor_on_what_comes_of_acts(page: Page, submitted: dict[str, str]) -> None:
    page.goto("/")
    submit(page)
    expect(page.locator(".error-line")).to_be_visible()
    assert findings_in_each_look(page) == []
    page.locator("#file").set_input_files([note("good.txt"), BIN, {"name": "a.mp3", "mimeType": "audio/mpeg", "buffer": b"x"}])
    assert findings_in_each_look(page) == []
    submit(page)
    page.wait_for_url(re.compile("/batches/"))
    assert findings_in_each_look(page) == []
    page.goto("/jobs")
    page.get_by_label("Select all").check()
    assert findings_in_each_look(page) == []
    page.get_by_role("button", name="Stop…").click()
    expect(page.get_by_role("heading", name=re.compile("^Stop"))).to_be_visible()
    assert findings_in_each_look(page) == []
    page.get_by_role("button", name="Keyboard shortcuts").click()
    assert findings_in_each_look(page) == []


def test_nor_at_the_door(new_page: NewPage) -> None:
    page = new_page()
    page.goto("/sign-in")
    assert findings_in_each_look(page) == []
