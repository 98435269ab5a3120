"""The overview, pauses, schedules and the audit trail in a real browser: with real workers under load, live or held still, by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Call, NewPage, cookies_of, findings_in_each_look
from tests.support.processes import Intray, until
from tools.samples import seed

LOAD = 40
PATHS = ("/admin/", "/admin/?period=7d&by=queue", "/admin/pauses", "/admin/schedules", "/admin/schedules/new?type=analyze", "/admin/audit")


@pytest.fixture(scope="module")
def admin_cookies(browser: Browser, intray: Intray) -> Any:
    seed(intray.home / "intray.sqlite3")
    return cookies_of(browser, intray, intray.email, intray.password)


@pytest.fixture
def page(new_page: NewPage, admin_cookies: Any, call: Call) -> Iterator[Page]:
    """A page on which the admin is signed in; afterwards nothing is paused."""
    yield new_page(storage_state=admin_cookies)
    for pause in call("GET", "/pauses")["data"]:
        call("DELETE", f"/pauses/{pause['scope']}")


def of_analyze(call: Call) -> dict[str, Any]:
    return next(one for queue in call("GET", "/queues")["data"] for one in queue["types"] if one["name"] == "analyze")


def test_pausing_a_type_under_load_holds_it_and_resuming_lets_all_of_it_go_on(page: Page, call: Call) -> None:
    call("POST", "/documents", text="Marlin is a tool for shared lists. " * 200, jobs=["analyze"] * LOAD)
    page.goto("/admin/pauses")
    page.get_by_label("Pause", exact=True).select_option("type:analyze")
    page.get_by_label("Reason").fill("The model is being changed")
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_role("complementary", name="Paused")).to_contain_text("Paused: job type Analyze. The model is being changed")
    until(lambda: of_analyze(call)["started"] == 0, 60)
    before = of_analyze(call)["finished"]
    held = call("POST", "/jobs", type="analyze", params={"description": "A tool that sorts mail."})["id"]
    page.goto(f"/jobs/{held}")
    expect(page.locator("#live")).to_contain_text("The model is being changed")
    page.goto("/admin/")
    row = page.get_by_role("row", name=re.compile("^Analyze"))
    expect(row.get_by_role("link", name="Paused")).to_be_visible()
    assert of_analyze(call)["finished"] == before
    page.get_by_role("complementary", name="Paused").get_by_role("link", name="Manage").click()
    page.get_by_role("button", name="Resume job type Analyze").click()
    expect(page.get_by_role("complementary", name="Paused")).to_have_count(0)
    page.goto("/admin/")
    until(lambda: of_analyze(call)["queued"] == of_analyze(call)["started"] == 0, 120)
    expect(page.locator("#count-analyze-queued")).to_have_count(0, timeout=60_000)


def test_a_schedule_is_set_up_and_runs_at_its_time_by_itself(page: Page, call: Call) -> None:
    page.goto("/admin/schedules")
    page.get_by_label("Job type").select_option("analyze")
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Name", exact=True).fill("Every minute")
    when = page.get_by_role("textbox", name="Runs at (cron, UTC)")
    when.press_sequentially("61 * * * *")
    expect(page.locator("#preview")).to_contain_text("The minute '61' is not valid")
    when.fill("")
    when.press_sequentially("* * * * *")
    expect(page.locator("#preview li")).to_have_count(5)
    page.get_by_label("Description").fill("A tool that sorts mail.")
    page.get_by_role("button", name="Create schedule").click()
    expect(page.get_by_role("status")).to_contain_text("Schedule “Every minute” created.")
    [schedule] = call("GET", "/schedules")["data"]
    own = f"/schedules/{schedule['id']}"
    until(lambda: call("GET", own)["last_job_id"] is not None, 90)
    call("PATCH", own, enabled=False)
    page.reload()
    page.locator(".schedule").get_by_role("link", name=re.compile(":")).click()
    expect(page.locator(".timeline")).to_contain_text("Schedule “Every minute”")
    expect(page.locator(".timeline")).to_contain_text("Done", timeout=60_000)
    page.goto("/admin/schedules")
    page.get_by_role("button", name="Run now: Every minute").click()
    page.wait_for_url("**/jobs/*")
    page.goto("/admin/audit")
    expect(page.locator(".audit")).to_contain_text("Schedule run")
    page.goto(f"/admin{own}")
    page.get_by_role("button", name="Delete this schedule").click()
    expect(page.get_by_text("No schedules yet")).to_be_visible()


def test_the_overview_lives_until_it_is_held_still_and_goes_on_when_let_go(page: Page, call: Call) -> None:
    page.goto("/admin/")
    page.evaluate("window.isSamePage = true")
    hold = page.locator("#hold")
    expect(hold).to_have_text(re.compile("Live"))
    call("PUT", "/pauses/type:report", reason="To be seen")
    badge = page.get_by_role("row", name=re.compile("^Report")).get_by_role("link", name="Paused")
    expect(badge).to_be_visible()
    hold.focus()
    page.keyboard.press("Enter")
    expect(hold).to_have_attribute("aria-pressed", "true")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    call("DELETE", "/pauses/type:report")
    page.wait_for_timeout(5_000)  # longer than two rounds: that nothing happens can only be waited for
    assert asked == []
    expect(badge).to_be_visible()
    page.reload()
    expect(hold).to_have_attribute("aria-pressed", "true")
    page.evaluate("window.isSamePage = true")
    hold.press("Space")
    call("PUT", "/pauses/type:report", reason="To be seen again")
    expect(page.get_by_role("row", name=re.compile("^Report")).get_by_role("link", name="Paused")).to_be_visible()
    assert page.evaluate("window.isSamePage")


def test_what_is_swapped_moves_nothing_and_keeps_focus_and_what_is_unfolded(page: Page, intray: Intray) -> None:
    page.goto("/admin/")
    page.locator("#table-finished > summary").click()
    page.locator("#by-queue").focus()
    place = "document.querySelector('#now table').getBoundingClientRect().toJSON()"
    before, drawn = page.evaluate(place), page.locator("#charts").get_attribute("hx-get") or ""
    seed(intray.home / "intray.sqlite3", minutes=1)  # as if the clock had counted another minute
    expect(page.locator("#charts")).not_to_have_attribute("hx-get", drawn, timeout=40_000)
    assert page.evaluate(place) == before
    assert page.evaluate("document.activeElement.id") == "by-queue"
    assert page.locator("#table-finished").evaluate("one => one.open")


def test_pausing_and_resuming_with_the_keyboard_alone(page: Page, call: Call) -> None:
    page.goto("/admin/")
    tab_to(page, "Pauses")
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/pauses")
    tab_to(page, "scope")
    page.keyboard.type("job type Report")
    tab_to(page, "reason")
    page.keyboard.type("By keyboard")
    page.keyboard.press("Enter")
    expect(page.locator(".pause-reason")).to_have_text("By keyboard")
    assert [one["scope"] for one in call("GET", "/pauses")["data"]] == ["type:report"]
    tab_to(page, "Resume job type Report")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nothing is paused")).to_be_visible()


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what has this name, label or text has the focus."""
    named = "(one => one.getAttribute('aria-label') || one.name || one.textContent.trim())(document.activeElement)"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(named) == name:
            return
    pytest.fail(f"the Tab key never reaches {name!r}")


def test_without_javascript_the_pages_are_still_and_work(new_page: NewPage, admin_cookies: Any, page: Page) -> None:
    still = new_page(storage_state=admin_cookies, java_script_enabled=False)
    still.goto("/admin/?period=24h")
    expect(still.locator("#hold")).to_be_hidden()
    expect(still.locator(".plot > svg")).to_have_count(4)
    still.get_by_role("link", name="7 days").click()
    expect(still.get_by_role("link", name="7 days")).to_have_attribute("aria-current", "true")
    still.goto("/admin/pauses")
    still.get_by_label("Pause", exact=True).select_option("type:report")
    still.get_by_label("Duration").select_option("Until …")
    still.get_by_label("Until", exact=True).fill("2099-01-01T12:00")
    still.get_by_label("Reason").fill("Without a script")
    still.get_by_role("button", name="Pause", exact=True).click()
    expect(still.locator(".pause")).to_contain_text("until 1 Jan 2099, 12:00 UTC")


def test_a_viewer_sees_everything_and_no_button_that_acts(
    new_page: NewPage, browser: Browser, intray: Intray, call: Call, page: Page
) -> None:
    call("PUT", "/pauses/type:report", reason="To be seen")
    intray.checked("user", "create", "--email", "viewer@example.org", "--password", "a long password", "--viewer")
    looking = new_page(storage_state=cookies_of(browser, intray, "viewer@example.org", "a long password"))
    for path in ("/admin/", "/admin/pauses", "/admin/schedules"):
        looking.goto(path)
        expect(looking.get_by_role("complementary", name="Paused")).to_contain_text("To be seen")
        assert [one for one in looking.locator("main button:visible").all_inner_texts() if one.strip() != "Live"] == []


@pytest.mark.parametrize("path", PATHS)
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(call: Call, page: Page, path: str) -> None:
    call("PUT", "/pauses/type:report", reason="To be seen")
    page.goto(path)
    expect(page.locator("h1")).to_be_visible()
    assert findings_in_each_look(page) == []
