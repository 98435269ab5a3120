"""Webhooks through the API and the pages, on each database."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from monolith.runner.webhooks import endpoints
from tests.support.callers import Caller
from tests.support.requests import pointers
from tests.support.visitor import signed_in

URL = "http://127.0.0.1:8000/hook"


@pytest.fixture(autouse=True)
def loopback(intray_settings: Callable[..., None]) -> None:
    intray_settings(FETCH_ALLOW_LOOPBACK="1")


def create(caller: Caller, **wanted: Any) -> dict[str, Any]:
    answer = caller.post("/api/v1/webhooks", json={"url": URL, **wanted})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json
    return made


def test_a_webhook_is_created_shown_changed_and_deleted(alice: Caller) -> None:
    made = create(alice)
    assert made["secret"].startswith("whsec_")
    assert made["events"] == ["job.finished", "job.failed", "job.stopped", "job.canceled"]
    own = made["links"]["self"]
    shown = alice.get(own).json
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    changed = alice.patch(own, json={"url": f"{URL}/2", "events": ["job.progress"], "enabled": False}).json
    assert (changed["url"], changed["events"], changed["enabled"]) == (f"{URL}/2", ["job.progress"], False)
    assert alice.get("/api/v1/webhooks").json["data"] == [changed]
    assert (alice.delete(own).status_code, alice.get(own).status_code) == (204, 404)


CALLS = [
    ("get", "", None),
    ("patch", "", {"enabled": False}),
    ("delete", "", None),
    ("post", "/rotate", {}),
    ("post", "/test", None),
    ("get", "/deliveries", None),
    ("post", "/deliveries/x/replay", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_what_is_not_yours_is_not_there_not_even_for_an_admin(
    alice: Caller, bob: Caller, admin: Caller, method: str, path: str, body: Any
) -> None:
    own = create(alice)["links"]["self"]
    for other in (bob, admin):
        assert getattr(other, method)(own + path, json=body).status_code == 404
        assert other.get("/api/v1/webhooks").json["data"] == []
    assert alice.get(own).json["enabled"] is True


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": 7}, "/url"),
        ({"url": "ftp://example.org"}, "/url"),
        ({"url": "https://me:secret@example.org"}, "/url"),
        ({"url": "https://example.org/" + "x" * 2048}, "/url"),
        ({"url": URL, "events": ["job.born"]}, "/events/0"),
        ({"url": URL, "events": []}, "/events"),
        ({"url": URL, "secret": "whsec_x"}, "/secret"),
    ],
)
def test_what_is_wrong_is_named(alice: Caller, body: dict[str, Any], pointer: str) -> None:
    answer = alice.post("/api/v1/webhooks", json=body)
    assert (answer.status_code, pointers(answer)) == (422, [pointer])


def test_a_user_has_so_many_and_no_more(alice: Caller) -> None:
    for _ in range(endpoints.MAX_PER_USER):
        create(alice)
    assert alice.post("/api/v1/webhooks", json={"url": URL}).status_code == 409


def test_webhooks_and_deliveries_are_paged(alice: Caller) -> None:
    made = [create(alice)["id"] for _ in range(3)]
    first = alice.get("/api/v1/webhooks?limit=2")
    assert first.json["has_more"] and 'rel="next"' in first.headers["Link"]
    rest = alice.get(f"/api/v1/webhooks?limit=2&starting_after={first.json['data'][-1]['id']}").json
    assert [one["id"] for one in first.json["data"] + rest["data"]] == made[::-1]
    own = f"/api/v1/webhooks/{made[0]}"
    sent = [alice.post(f"{own}/test").json["id"] for _ in range(3)]
    page = alice.get(f"{own}/deliveries?limit=2").json
    assert [one["id"] for one in page["data"]] == sent[:0:-1] and page["has_more"]


def test_a_test_is_a_delivery_like_any_other(alice: Caller) -> None:
    own = create(alice)["links"]["self"]
    sent = alice.post(f"{own}/test")
    assert (sent.status_code, sent.json["type"], sent.json["status"], sent.json["attempts"]) == (202, "webhook.test", "waiting", 0)
    assert alice.get(f"{own}/deliveries").json["data"] == [sent.json]
    alice.patch(own, json={"enabled": False})
    assert alice.post(f"{own}/test").status_code == 409
    assert alice.get(f"{own}/deliveries").json["data"][0]["status"] == "failed"


def test_the_job_type_is_intrays_own(alice: Caller) -> None:
    answer = alice.post("/api/v1/jobs", json={"type": "webhook", "params": {"delivery": "x"}})
    assert (answer.status_code, pointers(answer)) == (422, ["/type"])
    assert "webhook" not in {one["name"] for one in alice.get("/api/v1/job-types").json["data"]}
    assert alice.get("/api/v1/job-types/webhook").status_code == 404


# ---- the pages


@pytest.fixture
def browser(app: Flask, alice: Caller) -> FlaskClient:
    return signed_in(app).client


def send(browser: FlaskClient, path: str, **fields: Any) -> Any:
    token = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/webhooks").text)
    assert token
    return browser.post(path, data={"csrf_token": token[1], **fields})


def test_a_person_creates_tests_changes_rotates_and_deletes_one(alice: Caller, browser: FlaskClient) -> None:
    made = send(browser, "/webhooks", url=URL, events=["job.finished"])
    secret = re.search(r"whsec_[\w+/=]+", made.text)
    assert (made.status_code, bool(secret)) == (201, True)
    (webhook,) = alice.get("/api/v1/webhooks").json["data"]
    page = f"/webhooks/{webhook['id']}"
    assert URL in browser.get("/webhooks").text and URL in browser.get(page).text
    assert send(browser, f"{page}/test").status_code == 303
    assert "A test" in browser.get(page).text
    assert send(browser, page, url=f"{URL}/2", events=["job.failed"]).status_code == 303
    assert send(browser, f"{page}/disable").status_code == 303
    assert "Disabled" in browser.get(page).text
    assert send(browser, f"{page}/enable").status_code == 303
    (delivery,) = alice.get(f"{webhook['links']['self']}/deliveries").json["data"]
    assert send(browser, f"{page}/deliveries/{delivery['id']}/replay").status_code == 303
    rotated = send(browser, f"{page}/rotate")
    assert re.search(r"whsec_[\w+/=]+", rotated.text)[0] != secret[0]
    assert browser.get(f"{page}/delete").status_code == 200
    assert send(browser, f"{page}/delete").status_code == 303
    assert alice.get("/api/v1/webhooks").json["data"] == []


def test_a_form_that_is_wrong_comes_back_with_what_was_typed(browser: FlaskClient) -> None:
    answer = send(browser, "/webhooks", url="http://10.0.0.1/internal", events=["job.failed"])
    assert answer.status_code == 422
    assert "http://10.0.0.1/internal" in answer.text and "not a public site" in answer.text
    assert send(browser, "/webhooks", url=URL).status_code == 422


def test_the_page_of_another_is_not_there(bob: Caller, browser: FlaskClient) -> None:
    webhook = create(bob)
    page = f"/webhooks/{webhook['id']}"
    assert browser.get(page).status_code == 404
    assert [send(browser, f"{page}/{act}").status_code for act in ("test", "rotate", "disable", "delete")] == [404] * 4
