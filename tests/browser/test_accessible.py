"""Every page, looked at by axe-core: nothing that keeps people out, light and dark, wide and narrow."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.acceptance.processes import Intray
from tests.browser.conftest import EMAIL, NewPage
from tests.browser.test_pages import BIN, note, submit

LOOKS: list[dict[str, Any]] = [{"color_scheme": "light"}, {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}}]
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


def findings(page: Page) -> list[str]:
    """What axe-core finds serious or critical, and where."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in found if one["impact"] in ("serious", "critical") for node in one["nodes"]]


@pytest.fixture(scope="module")
def submitted(intray: Intray) -> dict[str, str]:
    """A document with a tag and a twin, for the lists to show."""
    headers = {"Authorization": f"Bearer {intray.token(EMAIL)}"}
    body = {"text": "Something for axe to look at.", "tags": ["axe"], "jobs": ["analyze"]}
    answers = [requests.post(f"{intray.base_url}/api/v1/documents", json=body, headers=headers, timeout=20).json() for _ in range(2)]
    return {"document": f"/documents/{answers[1]['document']['id']}", "job": f"/jobs/{answers[1]['jobs'][0]['id']}"}


@pytest.fixture(params=LOOKS, ids=["light", "dark-phone"])
def look(request: pytest.FixtureRequest, new_page: NewPage, cookies: Any) -> Callable[[], Page]:
    return lambda: new_page(storage_state=cookies, **request.param)


@pytest.mark.parametrize("path", PATHS)
def test_axe_finds_nothing_serious(look: Callable[[], Page], submitted: dict[str, str], path: str) -> None:
    page = look()
    page.goto(path)
    expect(page.locator("h1")).to_be_visible()
    assert findings(page) == []


def test_nor_on_a_document_and_its_job(look: Callable[[], Page], submitted: dict[str, str]) -> None:
    page = look()
    page.goto(submitted["document"])
    assert findings(page) == []
    page.goto(submitted["job"])
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()
    assert findings(page) == []


def test_nor_on_what_comes_of_acts(look: Callable[[], Page], submitted: dict[str, str]) -> None:
    page = look()
    page.goto("/")
    submit(page)
    expect(page.locator(".error-line")).to_be_visible()
    assert findings(page) == []
    page.locator("#file").set_input_files([note("good.txt"), BIN, {"name": "a.mp3", "mimeType": "audio/mpeg", "buffer": b"x"}])
    assert findings(page) == []
    submit(page)
    page.wait_for_url(re.compile("/batches/"))
    assert findings(page) == []
    page.goto("/jobs")
    page.get_by_label("Select all").check()
    assert findings(page) == []
    page.get_by_role("button", name="Stop…").click()
    expect(page.get_by_role("heading", name=re.compile("^Stop"))).to_be_visible()
    assert findings(page) == []
    page.get_by_role("button", name="Keyboard shortcuts").click()
    assert findings(page) == []


def test_nor_at_the_door(new_page: NewPage) -> None:
    page = new_page()
    page.goto("/sign-in")
    assert findings(page) == []
