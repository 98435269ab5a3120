"""rq-dashboard in a real browser: it works under its policy, and what a hostile job carries is text."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from redis import Redis
from rq import Queue
from rq.job import Job as RqJob
from rq.results import Result
from rq.serializers import JSONSerializer

from monolith.config import redis_socket
from tests.support.browser import NewPage
from tests.support.processes import Intray

QUEUE = "hostile.normal"
HOSTILE = """<script>document.title = "ran"</script><img src="x" class="hit" onerror="document.title = 'ran'">"""


@pytest.fixture
def hostile(intray: Intray) -> RqJob:
    """A job that is hostile in all that RQ keeps as text, on a queue that no worker listens to."""
    redis = Redis(unix_socket_path=str(redis_socket(Path(intray.home))))
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    job = queue.enqueue_call("os.getcwd", (HOSTILE,), description=HOSTILE, meta={HOSTILE: HOSTILE})
    Result.create_failure(job, ttl=600, exc_string=HOSTILE)
    return job


@pytest.fixture
def admin_page(new_page: NewPage, intray: Intray) -> Page:
    page = new_page()
    page.goto("/sign-in")
    page.get_by_label("E-mail").fill(intray.email)
    page.get_by_label("Password").fill(intray.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")
    return page


def test_what_a_hostile_job_carries_is_shown_as_text_and_nothing_of_it_runs(admin_page: Page, hostile: RqJob) -> None:
    page = admin_page
    page.goto(f"/admin/rq/0/view/job/{hostile.id}")
    expect(page.locator(".description-scroll")).to_have_text(HOSTILE)
    expect(page.locator("pre.exc_info")).to_have_text(HOSTILE)
    expect(page.locator("#job-data")).to_contain_text("Metadata")
    assert page.locator("img.hit").count() == 0
    page.goto(f"/admin/rq/0/view/jobs/{QUEUE}/queued/8/asc/1")
    expect(page.locator("tr[data-role=job] .description")).to_have_text(HOSTILE)
    expect(page.locator("tr[data-role=job] pre.exc_info")).to_have_text(HOSTILE)
    assert page.locator("img.hit").count() == 0
    page.goto("/admin/rq/0/view/workers")
    expect(page.locator("tr[data-role=worker]")).not_to_have_count(0)
    assert page.title() == "RQ · Intray"


def test_an_admin_looks_at_the_queues_and_deletes_a_message(admin_page: Page, hostile: RqJob) -> None:
    page = admin_page
    page.goto("/admin/rq/")
    expect(page.locator("tr[data-role=queue]", has_text=QUEUE)).to_be_visible()
    page.goto(f"/admin/rq/0/view/job/{hostile.id}")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Yes").click()
    page.wait_for_url("**/admin/rq/")
    assert not RqJob.exists(hostile.id, connection=hostile.connection)
