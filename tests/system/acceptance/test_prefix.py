"""A real web process whose paths have a prefix for people, with and without a proxy that takes it off."""

from __future__ import annotations

import re

import requests

from tests.support.listening import events
from tests.support.processes import NewIntray


def test_pages_the_api_and_streams_work_under_a_prefix(new_intray: NewIntray) -> None:
    intray = new_intray(SCRIPT_NAME="/tray", PUBLIC_URL="http://intray.example.org/tray", JOB_PACKAGES="jobs,tests.trial_jobs").start_web()
    token = intray.token(intray.user("alice@example.org", "three brown ducks in Ghent"))
    for base in (f"{intray.base_url}/tray", intray.base_url):
        with requests.Session() as browser:
            page = browser.get(f"{base}/documents", allow_redirects=False, timeout=20)
            assert page.headers["Location"] == "/tray/sign-in?next=/tray/documents"
            page = browser.get(f"{intray.base_url}{page.headers['Location']}", timeout=20)
            for path in re.findall(r'(?:href|src)="(/tray/static/[^"]+)"', page.text):
                assert browser.get(f"{intray.base_url}{path}", timeout=20).status_code == 200
            found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page.text)
            assert found
            form = {"email": "alice@example.org", "password": "three brown ducks in Ghent", "csrf_token": found[1]}
            sent = {"data": form, "headers": {"Origin": "http://intray.example.org"}, "allow_redirects": False, "timeout": 20}
            assert browser.post(f"{intray.base_url}/tray/sign-in", **sent).headers["Location"] == "/tray/"  # type: ignore[arg-type]
            assert browser.get(f"{intray.base_url}/tray/account", timeout=20).status_code == 200
        caller = {"headers": {"Authorization": f"Bearer {token}"}, "timeout": 20}
        job = requests.post(f"{base}/api/v1/jobs", json={"type": "trial_echo"}, **caller).json()  # type: ignore[arg-type]
        assert job["links"]["self"].startswith("/tray/api/v1/jobs/")
        with requests.get(f"{intray.base_url}{job['links']['events']}", stream=True, **caller) as stream:  # type: ignore[arg-type]
            assert next(events(stream.iter_content(chunk_size=None))).data
    assert requests.get(f"{intray.base_url}/health", timeout=20).status_code == 200
