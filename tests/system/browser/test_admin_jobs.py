"""What admins do with many jobs in their browser: start a cause again, clean and restore, act on all that match."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Call, NewPage, cookies_of
from tests.support.processes import Intray, until

FAILING, MANY = 25, 5100  # more than are done in one step


@pytest.fixture(scope="module")
def admin_cookies(browser: Browser, intray: Intray) -> Any:
    return cookies_of(browser, intray, intray.email, intray.password)


@pytest.fixture
def page(new_page: NewPage, admin_cookies: Any) -> Page:
    """A page on which the admin is signed in."""
    return new_page(storage_state=admin_cookies)


@pytest.fixture(scope="module")
def failed(call: Call) -> str:
    """The cause of FAILING jobs that fail whenever they run."""
    call("POST", "/documents", url="http://127.0.0.1:9/handbook", title="Handbook", jobs=["analyze"] * FAILING)
    found: list[Any] = []

    def all_failed() -> bool:
        found[:] = [one for one in call("GET", "/queues/failures")["data"] if one["count"] >= FAILING]
        return bool(found)

    until(all_failed, within=60)
    return str(found[0]["cause"])


def test_a_cause_is_requeued_at_a_rate_and_stops_by_itself_as_it_is_still_there(page: Page, failed: str) -> None:
    page.goto("/admin/failures")
    cause = page.locator(".failure", has=page.locator(f"#cause-{failed}"))
    expect(cause).to_contain_text("monolith/content/fetch.py")
    cause.get_by_label("Jobs per minute").select_option("300 per minute")
    cause.get_by_role("button", name=f"Retry {FAILING} jobs").click()
    page.evaluate("window.isSamePage = true")
    expect(page.locator("#requeues")).to_contain_text("Stopped automatically", timeout=30_000)
    expect(page.locator("#requeues")).to_contain_text("failed again (100 %)")
    assert page.evaluate("window.isSamePage")
    said = page.locator("#requeues").get_by_text(f"of {FAILING} retried").inner_text()
    assert 10 <= int(said.split()[0]) < FAILING
    page.reload()
    expect(page.locator(f"#cause-{failed}")).to_be_visible()


def test_a_job_shows_its_trace_to_admins_only(page: Page, new_page: NewPage, cookies: Any, failed: str) -> None:
    page.goto(f"/admin/jobs?status=failed&error={failed}")
    page.get_by_role("link", name="Handbook").first.click()
    section = page.get_by_role("region", name="For admins")
    expect(section).to_contain_text("Traceback (most recent call last)")
    section.get_by_text("All events").click()
    expect(section.locator(".events")).to_contain_text("submitted")
    other = new_page(storage_state=cookies)
    other.goto(page.url)
    expect(other.get_by_role("heading", name="Not found")).to_be_visible()


def test_what_is_cleaned_after_a_look_goes_to_the_bin_and_comes_back(page: Page, call: Call, failed: str) -> None:
    count = len(call("GET", "/jobs?status=failed&type=analyze&limit=100")["data"])
    page.goto("/admin/bin")
    page.get_by_label("Status").select_option("Failed")
    page.get_by_label("Job type").select_option("Analyze")
    page.get_by_label("Older than").fill("0")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview")).to_contain_text(f"{count} jobs, from")
    expect(page.locator("#preview .samples li")).to_have_count(5)
    page.get_by_role("button", name=f"Move {count} jobs to trash").click()
    expect(page.locator(".flashes")).to_contain_text(f"{count} jobs moved to trash.")
    assert call("GET", "/jobs?status=failed&type=analyze")["data"] == []
    page.get_by_role("button", name="Restore").first.click()
    expect(page.locator(".flashes")).to_contain_text(f"{count} jobs restored.")
    assert len(call("GET", "/jobs?status=failed&type=analyze&limit=100")["data"]) == count


def test_an_act_on_all_that_match_goes_on_step_by_step_by_itself(page: Page, call: Call) -> None:
    later = {"type": "quality_check", "delay": 86400}
    for start in range(0, MANY, 500):
        call("POST", "/documents", text=f"Part {start}", jobs=[later] * min(500, MANY - start))
    page.goto("/admin/jobs")
    page.get_by_label("Job type").select_option("Quality check")
    page.get_by_label("Status").select_option("Scheduled")
    expect(page).to_have_url(re.compile(r"status=scheduled&type=quality_check"))
    page.get_by_label("Action").select_option("Move to trash")
    page.get_by_role("button", name="All matching").click()
    expect(page.get_by_role("heading", name=f"Move {MANY:,} jobs to trash?")).to_be_visible()
    page.get_by_role("button", name=f"Move {MANY:,} jobs to trash").click()
    expect(page.get_by_role("status").filter(has_text=f"5,000 of {MANY:,}")).to_be_visible()
    expect(page.locator(".flashes")).to_contain_text(f"{MANY:,} jobs moved to trash.")
    assert [one["jobs"] for one in call("GET", "/queues/cleanings")["data"]] == [MANY]
    page.goto("/admin/bin")
    page.get_by_role("button", name="Restore").click()
    expect(page.locator(".flashes")).to_contain_text(f"{MANY:,} jobs restored.")


def test_some_are_ticked_and_started_again_with_the_keyboard_alone(page: Page, call: Call, failed: str) -> None:
    page.goto(f"/admin/jobs?status=failed&error={failed}")
    page.get_by_label("Select Handbook").first.focus()
    page.keyboard.press("Space")
    page.get_by_label("Action").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Retry 1 job?")).to_be_visible()
    page.get_by_role("button", name="Retry 1 job").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".flashes")).to_contain_text("1 job retried.")
    page.get_by_label("Select page").check()
    expect(page.locator("input[name=job]:checked")).to_have_count(page.locator("input[name=job]").count())


def test_a_submitter_has_no_way_in(new_page: NewPage, cookies: Any) -> None:
    page = new_page(storage_state=cookies)
    for path in ("/admin/jobs", "/admin/failures", "/admin/bin", "/admin/jobs/act?act=clean&all=1"):
        answer = page.goto(path)
        assert answer and answer.status == 403
