"""What a person does in a browser, and what axe-core finds on a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.support.processes import Intray

EMAIL, PASSWORD = "ada@example.org", "a long password"
EXPECTED = ("status of 401", "status of 403", "status of 404", "status of 422")  # Chromium writes every 4xx to its console
EXPECTED += ("htmx:afterRequest", "htmx:sendError")  # and htmx each answer that a page which is left has not waited for
NewPage = Callable[..., Page]
Call = Callable[..., Any]


@contextmanager
def running(home: Path, **settings: str) -> Iterator[Intray]:
    """An installation with a user, ended afterwards."""
    with Intray(home, {"SIGN_IN_RATE": "1000 per minute", **settings}) as one:
        one.start()
        one.user(EMAIL, PASSWORD)
        yield one


def cookies_of(browser: Browser, intray: Intray, email: str, password: str) -> Any:
    """The cookies of whoever signs in so."""
    context = browser.new_context(base_url=intray.base_url)
    page = context.new_page()
    page.set_default_timeout(60_000)
    sign_in(page, password, email).wait_for_url("**/")
    found = context.storage_state()
    context.close()
    return found


def sign_in(page: Page, password: str = PASSWORD, email: str = EMAIL) -> Page:
    page.goto("/sign-in")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    return page


TEXT = "Marlin is a fast tool for shared lists. It supports priorities. It does not support Windows drives. " * 3
ON_A_JOB = re.compile(r"/jobs/[0-9a-f-]{36}$")
BIN = {"name": "holiday.txt", "mimeType": "text/plain", "buffer": b"\x00\x01\x02binary"}


def note(name: str, text: str = TEXT) -> dict[str, Any]:
    return {"name": name, "mimeType": "text/plain", "buffer": text.encode()}


def drop(page: Page, name: str, content: bytes) -> None:
    """Drop a file somewhere on the page, as from the desktop."""
    page.evaluate(
        """([name, bytes]) => {
            const carrier = new DataTransfer();
            carrier.items.add(new File([new Uint8Array(bytes)], name));
            for (const type of ["dragenter", "dragover", "drop"])
                document.querySelector("h1").dispatchEvent(new DragEvent(type, {dataTransfer: carrier, bubbles: true, cancelable: true}));
        }""",
        [name, list(content)],
    )


def submit(page: Page) -> None:
    page.get_by_role("button", name="Submit").click()


def findings(page: Page) -> list[str]:
    """What axe-core finds serious or critical, and where."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in found if one["impact"] in ("serious", "critical") for node in one["nodes"]]


def findings_in_each_look(page: Page) -> list[str]:
    """What axe-core finds on a wide light page, and on a narrow dark one; the page is left as it was."""
    size = page.viewport_size
    wide = findings(page)
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.set_viewport_size({"width": 390, "height": 844})
    narrow = [f"dark and narrow: {one}" for one in findings(page)]
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        narrow.append("wider than a phone")
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    if size:
        page.set_viewport_size(size)
    return [*wide, *narrow]
