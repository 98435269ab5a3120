"""The one test of a whole system that `make test` runs: every process is real, and so is the browser."""

from __future__ import annotations

import requests
from playwright.sync_api import Page, expect

from tests.support.browser import EMAIL, TEXT, submit
from tests.support.processes import Intray, until


def test_a_text_sent_to_the_api_is_analysed_by_a_worker(intray: Intray) -> None:
    headers = {"Authorization": f"Bearer {intray.token(EMAIL)}"}
    accepted = requests.post(f"{intray.base_url}/api/v1/documents", json={"text": TEXT, "jobs": ["analyze"]}, headers=headers, timeout=20)
    assert accepted.status_code == 201, accepted.text
    job = f"{intray.base_url}{accepted.json()['jobs'][0]['links']['self']}"
    until(lambda: requests.get(job, params={"wait": 10}, headers=headers, timeout=20).json()["status"] == "finished", 60, intray.output)


def test_pasted_text_is_analysed(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Text").fill("# Notes on Marlin\n\n" + TEXT)
    submit(page)
    expect(page.get_by_role("heading", name="Notes on Marlin")).to_be_visible()
    expect(page.get_by_role("heading", name="Strengths")).to_be_visible()
