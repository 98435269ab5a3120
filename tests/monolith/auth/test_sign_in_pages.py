"""Signing in and out, and what every answer carries."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from tests.support.callers import Caller


def sign_in(app: Flask, email: str = "alice@example.org", password: str = "a long password", **query: str):
    client = app.test_client()
    page = client.get("/sign-in").text
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)[1]
    return client, client.post("/sign-in", data={"email": email, "password": password, "csrf_token": token}, query_string=query), token


def test_signing_in_opens_the_pages_and_the_api_and_signing_out_closes_them(app: Flask, alice: Caller) -> None:
    client, answer, _ = sign_in(app)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert client.get("/").status_code == 200
    assert client.get("/api/v1/me").status_code == 200
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', client.get("/").text)[1]
    assert client.post("/sign-out", data={"csrf_token": token}).status_code == 303
    assert client.get("/").headers["Location"].startswith("/sign-in")
    assert client.get("/api/v1/me").status_code == 401


@pytest.mark.parametrize(("email", "password"), [("alice@example.org", "wrong"), ("nobody@example.org", "a long password"), ("", "")])
def test_a_wrong_password_and_an_unknown_account_read_the_same(app: Flask, alice: Caller, email: str, password: str) -> None:
    _, answer, _ = sign_in(app, email, password)
    assert answer.status_code == 401
    assert "The e-mail address or the password is wrong" in answer.text


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\tevil"])
def test_signing_in_leads_to_no_other_site(app: Flask, alice: Caller, target: str) -> None:
    _, answer, _ = sign_in(app, next=target)
    assert answer.headers["Location"] == "/"


def test_a_session_without_the_csrf_token_changes_nothing(app: Flask, alice: Caller) -> None:
    client, _, _ = sign_in(app)
    refused = client.post("/api/v1/jobs", json={"type": "trial_echo"})
    assert (refused.status_code, refused.json["code"]) == (403, "forbidden")
    assert client.post("/sign-out").status_code == 403
    assert client.get("/api/v1/jobs").json["data"] == []


def test_sign_in_is_limited(app: Flask, alice: Caller, intray_settings) -> None:
    intray_settings(SIGN_IN_RATE="3 per minute")
    client = app.test_client()
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', client.get("/sign-in").text)[1]
    data = {"email": "x@example.org", "password": "x", "csrf_token": token}
    statuses = [client.post("/sign-in", data=data).status_code for _ in range(4)]
    assert statuses == [401, 401, 401, 429]


def test_a_token_is_asked_and_not_the_session_that_comes_with_it(app: Flask, alice: Caller, bob: Caller) -> None:
    client, _, _ = sign_in(app)
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {bob.token}"}).json["email"] == bob.user.email
    assert client.get("/api/v1/me", headers={"Authorization": "Bearer intray_wrong"}).status_code == 401


def test_only_admins_see_the_admin_page(app: Flask, alice: Caller, admin: Caller) -> None:
    client, _, _ = sign_in(app)
    assert client.get("/admin/").status_code == 403
    client, _, _ = sign_in(app, "admin@example.org")
    assert client.get("/admin/").status_code == 200


def test_every_answer_carries_a_request_id_and_the_guarding_headers(app: Flask, alice: Caller) -> None:
    answer = alice.get("/api/v1/nope", headers={"X-Request-Id": "from-the-caller"})
    assert answer.headers["X-Request-Id"] == answer.json["request_id"] == "from-the-caller"
    assert alice.get("/api/v1/me", headers={"X-Request-Id": "<bad>"}).headers["X-Request-Id"] != "<bad>"
    policy = app.test_client().get("/sign-in").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
