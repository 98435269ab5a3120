"""How many requests a user and an address may send, as each answer says."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from monolith import create_app
from monolith.errors import BadSetting
from monolith.web import rate_limit
from tests.support.callers import Caller
from tests.support.visitor import signed_in

ECHO = {"type": "trial_echo", "params": {"value": "hello"}}


@pytest.fixture(autouse=True)
def nobody_has_asked_yet() -> None:
    rate_limit._windows.clear()


def left(answer: TestResponse) -> int:
    told = re.search(r'"requests";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
    assert told and 0 < int(told[2]) <= 60
    return int(told[1])


@pytest.mark.parametrize("who", ["alice", "admin"])
def test_a_user_is_told_what_is_left_and_refused_when_it_is_nothing(
    request: pytest.FixtureRequest, intray_settings: Callable[..., None], bob: Caller, who: str
) -> None:
    intray_settings(REQUEST_RATE="3 per minute")
    caller = request.getfixturevalue(who)
    answers = [caller.get("/api/v1/jobs") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [left(answer) for answer in answers] == [2, 1, 0, 0]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"requests";q=3;w=60'}
    assert answers[3].content_type == "application/problem+json" and answers[3].json["code"] == "too_many_requests"
    assert 0 < int(answers[3].headers["Retry-After"]) <= 60
    assert caller.post("/api/v1/jobs", json=ECHO).status_code == 429
    assert bob.get("/api/v1/jobs").status_code == 200


def test_a_token_and_a_browser_of_one_user_count_together(app: Flask, alice: Caller, intray_settings: Callable[..., None]) -> None:
    browser = signed_in(app, "alice@example.org").client
    intray_settings(REQUEST_RATE="2 per minute")
    assert alice.get("/api/v1/jobs").status_code == 200
    assert [browser.get("/jobs").status_code for _ in range(2)] == [200, 429]


def test_both_policies_stand_in_one_list(alice: Caller, intray_settings: Callable[..., None]) -> None:
    intray_settings(REQUEST_RATE="100 per minute", MAX_QUEUED_PER_USER="5")
    answer = alice.post("/api/v1/jobs", json=ECHO)
    assert answer.headers["RateLimit-Policy"] == '"jobs";q=5, "requests";q=100;w=60'
    assert re.fullmatch(r'"jobs";r=4;t=\d+, "requests";r=99;t=\d+', answer.headers["RateLimit"])


def test_nobody_and_wrong_tokens_count_by_address_and_leave_users_at_it_alone(
    app: Flask, alice: Caller, intray_settings: Callable[..., None]
) -> None:
    intray_settings(ANONYMOUS_RATE="3 per minute")
    client = app.test_client()
    wrong = {"Authorization": "Bearer no-such-token"}
    asked = [client.get("/api/v1/jobs"), client.get("/api/v1/jobs", headers=wrong), client.get("/nowhere"), client.get("/sign-in")]
    assert [answer.status_code for answer in asked] == [401, 401, 404, 429]
    assert client.get("/api/v1/jobs", headers=wrong).status_code == 429
    assert alice.get("/api/v1/jobs").status_code == 200
    elsewhere = client.get("/api/v1/jobs", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert (elsewhere.status_code, left(elsewhere)) == (401, 2)


def test_health_and_static_files_are_never_refused(app: Flask, intray_settings: Callable[..., None]) -> None:
    intray_settings(ANONYMOUS_RATE="1 per minute")
    for path in ("/health", "/static/intray.css", "/ready") * 2:
        answer = app.test_client().get(path)
        assert answer.status_code != 429 and "RateLimit" not in answer.headers, path


@pytest.mark.parametrize("setting", ["", "0"])
def test_without_a_rate_nothing_is_counted_or_told(alice: Caller, intray_settings: Callable[..., None], setting: str) -> None:
    intray_settings(REQUEST_RATE=setting, MAX_QUEUED_PER_USER="0")
    assert "RateLimit" not in alice.post("/api/v1/jobs", json=ECHO).headers


def test_a_rate_that_is_none_is_refused_at_the_start(intray_settings: Callable[..., None]) -> None:
    intray_settings(REQUEST_RATE="often")
    with pytest.raises(BadSetting, match="REQUEST_RATE is 'often'. It is not a rate"):
        create_app()


def test_a_process_remembers_some_thousand_callers_only() -> None:
    rate = rate_limit.Rate(5, 60)
    for number in range(rate_limit.MAX_CALLERS + 5):
        rate_limit.count(f"address {number}", rate)
    assert len(rate_limit._windows) <= rate_limit.MAX_CALLERS
