"""What people do in their browser, with real processes behind it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests
from fpdf import FPDF
from playwright.sync_api import Page, expect

from tests.support.browser import BIN, EMAIL, ON_A_JOB, TEXT, NewPage, drop, note, sign_in, submit
from tests.support.processes import Intray


@pytest.fixture(scope="module")
def report() -> bytes:
    """A PDF of 20 pages."""
    document = FPDF()
    document.set_font("Helvetica", size=12)
    for number in range(1, 21):
        document.add_page()
        document.multi_cell(0, 8, f"Chapter {number}\n\nThe library holds {number * 100} books. {TEXT}")
    assert document.page == 20
    return bytes(document.output())


def test_a_wrong_password_is_said_and_the_right_one_leads_where_one_wanted_to_go(new_page: NewPage) -> None:
    page = new_page()
    page.goto("/documents")
    sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_contain_text("e-mail address or the password is wrong")
    expect(page.get_by_label("E-mail")).to_have_value(EMAIL)
    page.goto("/documents")
    page.get_by_label("E-mail").fill(EMAIL)
    page.get_by_label("Password").fill("a long password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Documents")).to_be_visible()


def test_a_dropped_pdf_is_read_while_one_watches_and_comes_back_byte_for_byte(page: Page, report: bytes, tmp_path: Path) -> None:
    page.goto("/")
    drop(page, "library.pdf", report)
    expect(page.locator(".files li")).to_contain_text("library.pdf")
    submit(page)
    page.wait_for_url(ON_A_JOB)
    page.evaluate("window.isSamePage = true")
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()
    expect(page.locator(".timeline")).to_contain_text("Done")
    assert page.evaluate("window.isSamePage")
    expect(page.locator(".result")).to_contain_text("Built-in engine, no AI")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download original").click()
    assert Path(download.value.path()).read_bytes() == report
    assert download.value.suggested_filename == "library.pdf"


def test_a_finished_page_asks_for_nothing_more(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Text").fill(TEXT)
    submit(page)
    expect(page.locator(".result")).to_be_visible()
    assert page.locator("[hx-trigger]").count() == 0


def test_what_is_wrong_with_the_text_keeps_the_files_chosen(page: Page) -> None:
    page.goto("/")
    page.locator("#file").set_input_files([note("one.txt"), note("two.txt")])
    page.get_by_label("Text").fill("gopher://example.org/")
    submit(page)
    expect(page.locator(".error-line")).to_contain_text("not a valid web address")
    expect(page.get_by_role("alert")).to_contain_text("Nothing was submitted yet")
    page.get_by_role("button", name="Remove two.txt").click()
    expect(page.locator(".files li")).to_have_count(1)
    page.get_by_label("Text").fill(TEXT)
    submit(page)
    expect(page.get_by_role("heading", name="Batch of 2 documents")).to_be_visible()
    expect(page.locator(".headline")).to_contain_text("All 2 jobs done")
    expect(page.locator(".parts > li", has_text="one.txt")).to_contain_text("Done")


def test_what_failed_of_a_batch_is_retried_on_its_page(page: Page) -> None:
    page.goto("/")
    page.locator("#file").set_input_files([note("good.txt"), {"name": "scan.pdf", "mimeType": "application/pdf", "buffer": scan()}])
    submit(page)
    expect(page.locator(".headline")).to_contain_text("1 of 2 jobs done")
    expect(page.locator(".parts > li", has_text="scan.pdf")).to_contain_text("no text")
    assert page.locator("[hx-trigger]").count() == 0
    page.get_by_role("button", name="Retry failed jobs").click()
    expect(page.locator(".flashes")).to_contain_text("1 job was retried")
    expect(page.locator(".headline")).to_contain_text("1 of 2 jobs done")
    page.get_by_role("link", name="scan.pdf").click()
    page.get_by_role("link", name="View batch").click()
    page.get_by_role("link", name="Batches").click()
    expect(page.locator(".row").first).to_contain_text("Some failed")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_report_is_asked_for_on_its_page_and_downloaded(page: Page) -> None:
    page.goto("/")
    page.get_by_role("link", name="Report").click()
    page.get_by_label("Days").fill("400")
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".error-line")).to_contain_text("366")
    page.get_by_label("Days").fill("7")
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".result")).to_contain_text("Jobs of ada@example.org")
    with page.expect_download() as download:
        page.get_by_role("link", name="report.pdf").click()
    assert Path(download.value.path()).read_bytes().startswith(b"%PDF-")


def test_choosing_again_adds_to_the_files_chosen_before(page: Page) -> None:
    page.goto("/")
    page.locator("#file").set_input_files([note("one.txt")])
    drop(page, "two.txt", b"two")
    expect(page.locator(".files li")).to_have_count(2)


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [("Text", "ftp://example.org", "not a valid web address"), ("Text", "   ", "nothing to submit yet")],
)
def test_what_is_wrong_is_said_at_its_field(page: Page, label: str, value: str, said: str) -> None:
    page.goto("/")
    page.get_by_label(label).fill(value)
    submit(page)
    expect(page.locator(".error-line")).to_contain_text(said)


def scan() -> bytes:
    """A PDF with a picture and no text."""
    document = FPDF()
    document.add_page()
    document.rect(20, 20, 50, 50)
    return bytes(document.output())


def test_a_job_that_cannot_be_done_says_what_to_do(page: Page) -> None:
    page.goto("/")
    page.locator("#file").set_input_files([{"name": "scan.pdf", "mimeType": "application/pdf", "buffer": scan()}])
    submit(page)
    expect(page.locator(".headline")).to_contain_text("Failed")
    expect(page.locator(".note.bad")).to_contain_text("no text")


def test_everything_works_without_javascript(new_page: NewPage, tmp_path: Path) -> None:
    page = sign_in(new_page(java_script_enabled=False))
    submit(page)
    expect(page.locator(".error-line")).to_contain_text("nothing to submit yet")
    page.locator("#file").set_input_files([BIN])
    submit(page)
    expect(page.locator(".error-line")).to_contain_text("holiday.txt: This is not text")
    page.get_by_label("Text").fill(TEXT)
    submit(page)
    page.wait_for_url(ON_A_JOB)
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()  # the page loads itself anew until it is over
    page.get_by_role("link", name="Document", exact=True).click()
    page.get_by_text("Analyze", exact=True).last.click()
    page.get_by_role("button", name="Run").click()
    page.wait_for_url(ON_A_JOB)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_a_document_is_deleted_after_a_question(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Text").fill("A note to throw away.\n" + TEXT)
    submit(page)
    expect(page.locator(".result")).to_be_visible()
    page.get_by_role("link", name="Document", exact=True).click()
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".flashes")).to_contain_text("was deleted")
    assert page.get_by_role("link", name="A note to throw away.").count() == 0


def test_jobs_are_filtered_by_the_address(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Text").fill("A note to find.\n" + TEXT)
    submit(page)
    expect(page.locator(".result")).to_be_visible()
    page.goto("/jobs")
    page.get_by_label("Status").select_option("canceled")
    expect(page.get_by_text("No jobs found")).to_be_visible()
    expect(page).to_have_url(re.compile("status=canceled"))
    page.goto("/jobs?status=finished&type=analyze")
    expect(page.get_by_role("link", name="A note to find.")).to_be_visible()


def test_after_signing_out_the_pages_are_closed(new_page: NewPage) -> None:
    page = sign_in(new_page())  # a session of its own, for it ends
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    page.goto("/jobs")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


@pytest.mark.parametrize("path", ["/", "/documents", "/jobs", "/jobs/none-such", "/api/docs"])
@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_is_wider_than_the_screen_or_complains(page: Page, path: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(path)
    expect(page.locator("h1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_person_who_is_no_admin_does_not_see_the_admin_pages(page: Page) -> None:
    page.goto("/")
    assert page.get_by_role("link", name="Admin").count() == 0
    page.goto("/admin/")
    expect(page.get_by_role("heading", name="Not allowed")).to_be_visible()


def test_a_waiting_job_is_cancelled_and_started_again(page: Page, intray: Intray) -> None:
    headers = {"Authorization": f"Bearer {intray.token(EMAIL)}"}
    body = {"type": "analyze", "params": {"text": "Marlin keeps a list of tasks. It is fast to install."}, "delay": 3600}
    job = requests.post(f"{intray.base_url}/api/v1/jobs", json=body, headers=headers, timeout=10).json()
    page.goto(f"/jobs/{job['id']}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()
