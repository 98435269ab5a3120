"""A running Intray with a user who is no admin, and pages of a real Chromium that may not complain of anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.browser import EMAIL, EXPECTED, PASSWORD, Call, NewPage, cookies_of, running
from tests.support.chromium import CHROMIUM, LAUNCH
from tests.support.processes import Intray

expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def intray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intray]:
    with running(tmp_path_factory.mktemp("browser") / "home") as one:
        yield one


@pytest.fixture(scope="module")
def call(intray: Intray) -> Call:
    """Ask the API as an admin: `call("PUT", "/pauses/all", reason="...")`."""
    headers = {"Authorization": f"Bearer {intray.token()}"}

    def one(method: str, path: str, **body: Any) -> Any:
        answer = requests.request(method, f"{intray.base_url}/api/v1{path}", json=body or None, headers=headers, timeout=60)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    return one


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(**LAUNCH)


@pytest.fixture
def new_page(browser: Browser, intray: Intray) -> Iterator[NewPage]:
    """Make a page in a browser profile of its own: `new_page(java_script_enabled=False)`. It must stay free of complaints but those
    that it `tolerates`.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []
    tolerated = [*EXPECTED]

    def make(tolerates: tuple[str, ...] = (), **options: Any) -> Page:
        tolerated.extend(tolerates)
        context = browser.new_context(base_url=intray.base_url, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield make
    for context in contexts:
        context.close()
    assert [one for one in complaints if not any(word in one for word in tolerated)] == []


@pytest.fixture(scope="session")
def cookies(browser: Browser, intray: Intray) -> Any:
    """The cookies of the user, signed in."""
    return cookies_of(browser, intray, EMAIL, PASSWORD)


@pytest.fixture
def page(new_page: NewPage, cookies: Any) -> Page:
    """A page on which the user is signed in."""
    return new_page(storage_state=cookies)
