"""Whole stories of submitters, from the first sign-in to what is found again, with real processes behind them."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import BIN, EMAIL, ON_A_JOB, TEXT, NewPage, drop, note, sign_in, submit
from tests.support.processes import Intray, until

TEN = [*(note(f"minutes-{number}.md", f"# Minutes {number}\n\n{TEXT}") for number in range(8)), BIN]
SONG = {"name": "song.mp3", "mimeType": "audio/mpeg", "buffer": b"ID3"}


@pytest.fixture
def api(intray: Intray) -> Any:
    """Submit a document by the API: `api(text, **fields)` gives it."""
    headers = {"Authorization": f"Bearer {intray.token(EMAIL)}"}

    def send(text: str, **fields: Any) -> dict[str, Any]:
        answer = requests.post(f"{intray.base_url}/api/v1/documents", json={"text": text, **fields}, headers=headers, timeout=20)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    return send


def row(page: Page, title: str) -> Locator:
    return page.locator(".row", has=page.get_by_role("link", name=title, exact=True))


def tick(page: Page, *titles: str) -> None:
    for title in titles:
        page.get_by_role("checkbox", name=f"Select {title}").check()


def test_from_the_first_sign_in_to_the_first_result(new_page: NewPage, intray: Intray) -> None:
    intray.user("new@example.org", "a long password of hers")
    page = new_page()
    page.goto("/documents")
    page.get_by_label("E-mail").fill("new@example.org")
    page.get_by_label("Password").fill("a long password of hers")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("No documents yet")).to_be_visible()
    page.get_by_role("link", name="Submit your first document").click()
    page.wait_for_url(re.compile("/$"))  # wholly loaded: only then it listens for what is dropped
    drop(page, "notes.md", TEXT.encode())  # the first of two acts
    submit(page)
    page.wait_for_url(ON_A_JOB)
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()


@pytest.mark.parametrize("has_script", [True, False], ids=["script", "no-script"])
def test_of_ten_files_two_are_bad(new_page: NewPage, has_script: bool) -> None:
    page = sign_in(new_page(java_script_enabled=has_script))
    page.wait_for_url("**/")
    page.locator("#file").set_input_files([*TEN, SONG])
    if has_script:
        expect(page.locator(".files li.refused")).to_have_count(1)
        expect(page.locator(".files li", has_text="song.mp3")).to_contain_text("supported")
    submit(page)
    expect(page.get_by_role("heading", name="Batch of 8 documents")).to_be_visible()
    expect(page.locator(".headline")).to_contain_text("All 8 jobs done", timeout=30_000)  # without a script it looks every 5 s
    expect(page.get_by_role("heading", name="2 documents rejected")).to_be_visible()
    reasons = page.locator(".reasons li")
    expect(reasons).to_have_count(2)
    expect(reasons.nth(0)).to_contain_text(re.compile("holiday.txt.*This is not text.*Choose a text file", re.DOTALL))
    expect(reasons.nth(1)).to_contain_text(re.compile("song.mp3.*not supported.*Use one of", re.DOTALL))


def test_when_all_files_are_bad_each_reason_is_said_and_nothing_is_submitted(page: Page) -> None:
    page.goto("/")
    page.locator("#file").set_input_files([BIN, SONG])
    submit(page)
    expect(page.get_by_role("alert")).to_contain_text("Nothing was submitted yet")
    expect(page.locator(".error-line")).to_have_count(2)
    expect(page.locator(".error-line").nth(1)).to_contain_text("song.mp3: Files that end in .mp3 are not supported")
    page.get_by_role("button", name="Remove song.mp3").click()
    page.get_by_role("button", name="Remove holiday.txt").click()
    drop(page, "good.txt", TEXT.encode())
    submit(page)
    page.wait_for_url(ON_A_JOB)


def test_a_file_that_is_too_large_is_not_sent(page: Page) -> None:
    page.goto("/")
    sent: list[int] = []
    page.on("request", lambda request: sent.append(len(request.post_data_buffer or b"")) if request.method == "POST" else None)
    drop(page, "huge.txt", b"")  # its size is pretended, as no browser can be handed 10 MB quickly
    page.evaluate("document.querySelector('#file').dataset.limit = '1000'")
    page.locator("#file").set_input_files([note("small.txt", "A small one."), note("large.txt", "x" * 2000)])
    expect(page.locator(".files li", has_text="large.txt")).to_contain_text("too large")
    expect(page.locator(".files li", has_text="huge.txt")).to_contain_text("empty")
    submit(page)
    expect(page.get_by_role("heading", name="Batch of 1 document")).to_be_visible()
    expect(page.locator(".reasons li", has_text="huge.txt")).to_contain_text("empty")
    expect(page.locator(".reasons li", has_text="large.txt")).to_contain_text("Submit it separately")
    assert max(sent) < 2000 + 2500


def test_each_file_shows_how_far_it_is_sent(page: Page) -> None:
    page.goto("/")
    page.locator("#file").set_input_files([note("one.txt", "a" * 400_000), note("two.txt", "b" * 400_000)])
    page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => window.seen.push([...document.querySelectorAll(".files progress")].map((one) => one.value)))
                .observe(document.querySelector(".files"), {subtree: true, attributes: true});
        }"""
    )
    page.context.new_cdp_session(page).send(
        "Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000}
    )
    submit(page)
    until(lambda: page.evaluate("window.seen.some(([one, two]) => one > 0.99 && two > 0 && two < 1)"))
    assert page.evaluate("window.seen.every(([one, two]) => one >= two)")
    expect(page.get_by_role("heading", name="Batch of 2 documents")).to_be_visible()


@pytest.mark.parametrize(
    ("typed", "kind", "titles"),
    [
        ("http://127.0.0.1:9/one", "page", ["http://127.0.0.1:9/one"]),
        ("  www.example.invalid/a \n\n", "page", ["https://www.example.invalid/a"]),
        ("See http://127.0.0.1:9/one for more.", "text", ["See http://127.0.0.1:9/one for more."]),
    ],
    ids=["address", "without-scheme", "in-a-text"],
)
def test_an_address_is_recognised(page: Page, typed: str, kind: str, titles: list[str]) -> None:
    page.goto("/")
    page.get_by_label("Text").fill(typed)
    expect(page.locator("#recognised")).to_have_text("We’ll fetch this page." if kind == "page" else "")
    submit(page)
    page.wait_for_url(ON_A_JOB)
    page.goto(f"/documents?kind={kind}")
    expect(page.locator(".row-title").first).to_have_text(titles[0])


def test_what_is_pasted_anywhere_is_taken(page: Page) -> None:
    page.goto("/")
    page.evaluate(
        """() => {
            const text = new DataTransfer();
            text.setData("text/plain", "http://127.0.0.1:9/a\\nhttp://127.0.0.1:9/b");
            document.querySelector("h1").dispatchEvent(new ClipboardEvent("paste", {clipboardData: text, bubbles: true, cancelable: true}));
            const file = new DataTransfer();
            file.items.add(new File(["From the clipboard"], "clip.txt"));
            document.querySelector("h1").dispatchEvent(new ClipboardEvent("paste", {clipboardData: file, bubbles: true, cancelable: true}));
        }"""
    )
    expect(page.locator("#recognised")).to_contain_text("these 2 pages")
    expect(page.locator(".files li")).to_contain_text("clip.txt")
    submit(page)
    expect(page.get_by_role("heading", name="Batch of 3 documents")).to_be_visible()


def test_the_same_content_is_recognised_before_and_after_it_is_submitted(page: Page, api: Any) -> None:
    text = "The same words, handed in twice. " * 3
    first = api(text, title="The first of the two")["document"]
    page.goto("/")
    page.locator("#file").set_input_files([note("again.txt", text)])
    expect(page.locator(".files li.known")).to_contain_text("The first of the two")
    submit(page)
    page.wait_for_url(ON_A_JOB)
    expect(page.locator(".flashes")).to_contain_text("You already submitted this document")
    page.get_by_role("link", name="this document").click()
    expect(page).to_have_url(re.compile(first["id"]))
    page.goto("/documents")
    row(page, "again.txt").get_by_role("link", name="Duplicate").click()
    expect(page.get_by_role("heading", name="The first of the two")).to_be_visible()
    expect(page.locator(".twin-note")).to_have_count(0)


def test_two_tabs_and_the_back_button_make_no_double(page: Page) -> None:
    page.goto("/")
    other = page.context.new_page()
    other.goto("/")
    for tab, name in ((page, "First tab"), (other, "Second tab")):
        tab.get_by_label("Text").fill(f"{name}\n{TEXT}")
        submit(tab)
        tab.wait_for_url(ON_A_JOB)
    assert page.url != other.url
    page.go_back()
    expect(page.get_by_role("heading", name="Submit documents")).to_be_visible()
    page.go_forward()
    expect(page.get_by_role("heading", name="First tab")).to_be_visible()
    page.goto("/documents?q=%22first+tab%22")
    expect(page.locator(".row")).to_have_count(1)


def test_a_double_click_makes_one_job(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Text").fill(f"Clicked twice\n{TEXT}")
    page.get_by_role("button", name="Submit").dblclick()
    page.wait_for_url(ON_A_JOB)
    page.goto("/jobs?q=%22clicked+twice%22")
    expect(page.locator(".row")).to_have_count(1)


def test_a_search_finds_by_title_and_text_and_stands_in_the_address(page: Page, api: Any) -> None:
    api("The harbour has forty cranes.", title="Port of Zeebrugge", tags=["harbour"])
    api("A quokka lives on an island.", title="Animals", tags=["island"])
    page.goto("/documents")
    page.get_by_label("Search documents").press_sequentially("quokka isl", delay=20)
    expect(page.locator(".row")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"/documents\?q=quokka\+isl$|/documents\?q=quokka%20isl$"))
    expect(row(page, "Animals")).to_be_visible()
    page.get_by_label("Search documents").fill("zeebrugge")
    expect(row(page, "Port of Zeebrugge")).to_be_visible()
    page.get_by_label("Search documents").fill("zeebrugge NOT (")
    expect(page.get_by_text("No documents found")).to_be_visible()
    searched: list[str] = []
    page.on("request", lambda asked: searched.append(asked.url) if "q=" in asked.url else None)
    page.get_by_role("link", name="Show all documents").click()
    expect(page).to_have_url(re.compile(r"/documents$"))
    assert searched == [], "leaving the field searches once more, and a slow answer of that would undo the click"
    page.get_by_label("Tag").select_option("island")
    expect(page).to_have_url(re.compile(r"tag=island$"))
    expect(page.locator(".row")).to_have_count(1)
    page.reload()
    expect(row(page, "Animals")).to_be_visible()
    row(page, "Animals").get_by_role("link", name="island").click()
    expect(page).to_have_url(re.compile(r"\?tag=island$"))
    page.goto("/documents?type=trial&tag=island")
    expect(page.get_by_text("No documents found")).to_be_visible()
    page.get_by_role("link", name="Remove filter: job type").click()
    expect(page.locator(".row")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?tag=island$"))


def test_tags_are_added_and_removed(page: Page, api: Any) -> None:
    document = api("To be tagged.", title="To be tagged")["document"]
    page.goto(f"/documents/{document['id']}")
    page.get_by_label("Add tags").fill("red, green")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".tag.removable")).to_have_text(["red", "green"])
    page.get_by_role("button", name="Remove the tag red").click()
    expect(page.locator(".tag.removable")).to_have_text(["green"])
    page.get_by_label("Add tags").fill("x" * 51)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".error-line")).to_contain_text("50")


@pytest.mark.parametrize("has_script", [True, False], ids=["script", "no-script"])
def test_selected_documents_are_downloaded_and_deleted_after_a_question(new_page: NewPage, api: Any, has_script: bool) -> None:
    word = f"bulk{'script' if has_script else 'plain'}"
    for number in range(3):
        api(f"{word} number {number}", title=f"{word} {number}")
    page = sign_in(new_page(java_script_enabled=has_script))
    page.wait_for_url("**/")
    page.goto(f"/documents?q={word}")
    tick(page, f"{word} 0", f"{word} 2")
    if has_script:
        expect(page.locator(".bulk")).to_contain_text("2 selected")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    archive = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert sorted(archive.namelist()) == [f"{word} 0.txt", f"{word} 2.txt"]
    assert archive.read(f"{word} 0.txt") == f"{word} number 0".encode()
    page.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("heading", name="Delete 2 documents?")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".flashes")).to_contain_text("2 documents were deleted")
    expect(page).to_have_url(re.compile(f"q={word}"))
    expect(page.locator(".row-title")).to_have_text([f"{word} 1"])


def test_selected_jobs_are_cancelled_and_started_again(page: Page, api: Any) -> None:
    for number in range(3):
        api(f"steered number {number}", title=f"Steered {number}", jobs=[{"type": "analyze", "delay": 3600}])
    page.goto("/jobs?q=steered")
    page.get_by_label("Select all").check()
    page.get_by_role("button", name="Cancel…").click()
    expect(page.get_by_role("heading", name="Cancel 3 jobs?")).to_be_visible()
    page.get_by_role("link", name="Go back").click()
    tick(page, "Steered 0", "Steered 1")
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_role("button", name="Cancel jobs").click()
    expect(page.locator(".flashes")).to_contain_text("2 jobs were cancelled")
    page.get_by_label("Select all").check()
    page.get_by_role("button", name="Retry…").click()
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".flashes")).to_contain_text("2 jobs were retried")
    expect(page.locator(".flashes")).to_contain_text("1 not changed: The job is scheduled")
    expect(page.locator(".badge.finished")).to_have_count(2)
    page.get_by_label("Select all").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download results").click()
    names = zipfile.ZipFile(Path(download.value.path())).namelist()
    assert sorted(names) == ["Steered 0 analyze.json", "Steered 1 analyze.json"]


def test_what_is_ticked_stays_ticked_while_the_list_is_refreshed(page: Page, api: Any) -> None:
    api("refreshed, and waiting", title="Refreshed", jobs=[{"type": "analyze", "delay": 3600}])
    page.goto("/jobs?q=refreshed")
    tick(page, "Refreshed")
    api("refreshed once more", title="Come meanwhile", jobs=["analyze"])
    expect(row(page, "Come meanwhile")).to_contain_text("Done", timeout=20_000)
    expect(page.get_by_role("checkbox", name="Select Refreshed")).to_be_checked()
    expect(page.locator(".bulk")).to_contain_text("1 selected")


def test_everything_is_reached_by_keyboard(page: Page, api: Any) -> None:
    api("By keyboard found: an axolotl.", title="Keyboard")
    page.goto("/jobs")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    page.keyboard.press("n")  # does nothing while the dialog is open
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("/")
    expect(page.get_by_label("Search jobs")).to_be_focused()
    page.goto("/webhooks")
    page.keyboard.press("/")
    page.wait_for_url("**/documents#search")
    expect(page.get_by_label("Search documents")).to_be_focused()
    page.keyboard.type("axolotl n/?")
    expect(page.locator(".row")).to_have_count(0)
    page.keyboard.press("Control+A")
    page.keyboard.type("axolotl")
    expect(page.locator(".row")).to_have_count(1)
    checkbox = page.get_by_role("checkbox", name="Select Keyboard")
    for _ in range(12):
        page.keyboard.press("Tab")
        if checkbox.evaluate("one => one === document.activeElement"):
            break
    expect(checkbox).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator(".bulk")).to_contain_text("1 selected")
    page.keyboard.press("n")
    expect(page.get_by_role("heading", name="Submit documents")).to_be_visible()
    page.get_by_label("Text").focus()
    page.keyboard.type("Written by keyboard, n / ? and all. It is fast to type.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(ON_A_JOB)


def test_the_keys_can_be_turned_off(page: Page) -> None:
    page.goto("/jobs")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    page.get_by_label("Use single-key shortcuts").uncheck()
    page.get_by_role("button", name="Close").click()
    page.reload()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_nothing_shifts_while_a_list_is_refreshed(page: Page, api: Any) -> None:
    for number in range(3):
        api(f"still standing {number}", title=f"Still {number}", jobs=["analyze", {"type": "analyze", "delay": 3600}])
    page.add_init_script(
        """window.shift = 0;
        new PerformanceObserver((list) => { for (const one of list.getEntries()) window.shift += one.value; })
            .observe({type: "layout-shift", buffered: true});"""
    )
    for path in ("/jobs?q=still", "/documents?q=still", "/"):
        page.goto(path)
        expect(page.locator("h1")).to_be_visible()
        if path != "/":
            with page.expect_response(re.compile("q=still")):
                api("something else that happens meanwhile", jobs=["analyze"])
        assert page.evaluate("window.shift") < 0.01, path
