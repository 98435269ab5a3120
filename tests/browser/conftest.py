"""A running Intray with a user who is no admin, and pages of a real Chromium that may not complain of anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.acceptance.processes import Intray
from tests.browser.starting import CHROMIUM, LAUNCH

EMAIL, PASSWORD = "ada@example.org", "a long password"
EXPECTED = ("status of 401", "status of 403", "status of 404", "status of 422")  # Chromium writes every 4xx to its console
EXPECTED += ("htmx:afterRequest", "htmx:sendError")  # and htmx each answer that a page which is left has not waited for
expect.set_options(timeout=20_000)
NewPage = Callable[..., Page]
Call = Callable[..., Any]


@contextmanager
def running(home: Path, **settings: str) -> Iterator[Intray]:
    """An installation with a user, ended afterwards."""
    one = Intray(home, {"SIGN_IN_RATE": "1000 per minute", **settings})
    try:
        one.start()
        one.user(EMAIL, PASSWORD)
        yield one
    finally:
        one.end()


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


def cookies_of(browser: Browser, intray: Intray, email: str, password: str) -> Any:
    """The cookies of whoever signs in so."""
    context = browser.new_context(base_url=intray.base_url)
    page = context.new_page()
    page.set_default_timeout(60_000)
    sign_in(page, password, email).wait_for_url("**/")
    found = context.storage_state()
    context.close()
    return found


@pytest.fixture
def page(new_page: NewPage, cookies: Any) -> Page:
    """A page on which the user is signed in."""
    return new_page(storage_state=cookies)


def sign_in(page: Page, password: str = PASSWORD, email: str = EMAIL) -> Page:
    page.goto("/sign-in")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    return page
