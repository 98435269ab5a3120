"""Tokens, who one is, signing in and out, and what every answer carries."""

from __future__ import annotations

import re

import psycopg
import pytest
from flask import Flask
from sqlalchemy import select

from monolith.db import engine
from monolith.db.engine import read_session
from monolith.db.models import Token
from tests.conftest import Caller


def test_me_is_who_the_token_belongs_to(alice: Caller) -> None:
    assert alice.get("/api/v1/me").json["email"] == "alice@example.org"
    assert "password" not in alice.get("/api/v1/me").text


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer nope", "Basic YTpi", "Bearer intray_" + "x" * 43])
@pytest.mark.parametrize(("method", "path"), [("get", "/api/v1/me"), ("post", "/api/v1/jobs"), ("get", "/api/v1/documents")])
def test_without_a_good_token_every_door_is_closed(app: Flask, method: str, path: str, header: str | None) -> None:
    answer = getattr(app.test_client(), method)(path, headers={"Authorization": header} if header is not None else {})
    assert (answer.status_code, answer.content_type) == (401, "application/problem+json")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_token_is_shown_once_and_only_its_hash_is_stored(alice: Caller, app: Flask) -> None:
    made = alice.post("/api/v1/tokens", json={"name": "laptop"})
    assert made.status_code == 201
    secret = made.json["token"]
    assert Caller(app.test_client(), alice.user, secret).get("/api/v1/me").status_code == 200
    assert secret not in alice.get("/api/v1/tokens").text
    with read_session() as session:
        assert all(secret not in (token.hash, token.prefix) for token in session.scalars(select(Token)))


def test_a_revoked_token_stops_working_and_nobody_revokes_another_ones(alice: Caller, bob: Caller, app: Flask) -> None:
    made = alice.post("/api/v1/tokens", json={"name": "laptop"}).json
    assert bob.delete(f"/api/v1/tokens/{made['id']}").status_code == 404
    assert alice.delete(f"/api/v1/tokens/{made['id']}").status_code == 204
    assert Caller(app.test_client(), alice.user, made["token"]).get("/api/v1/me").status_code == 401


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "x" * 101}, {"name": 1}, {"name": "x", "user_id": 1}])
def test_a_wrong_token_request_is_refused(alice: Caller, body: dict[str, object]) -> None:
    assert alice.post("/api/v1/tokens", json=body).status_code == 422


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


def test_connections_that_died_while_idle_are_not_noticed(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine.get_engine().dialect.name != "postgresql":
        return
    monkeypatch.setattr(engine, "IDLE_S", 0)
    assert alice.get("/api/v1/me").status_code == 200
    url = engine.get_engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    with psycopg.connect(url) as connection:
        connection.execute(others)
    assert alice.post("/api/v1/jobs", json={"type": "trial_echo"}).status_code == 202


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


def test_health_answers_while_ready_names_what_is_missing(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/health").json["status"] == "ok"
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json == {"ready": False, "checks": {"database": True, "redis": True, "clock": False}}


def test_the_openapi_document_describes_every_route_of_the_api(app: Flask, alice: Caller) -> None:
    document = alice.get("/api/openapi.json").json
    assert document["openapi"].startswith("3.1")
    described = {
        (path, method)
        for path, methods in document["paths"].items()
        for method in methods
        if method in ("get", "post", "put", "patch", "delete")
    }
    routes = {
        (re.sub(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/v1")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert described == routes
    assert app.test_client().get("/api/docs").status_code == 200
