"""What a token may do, for how long, and where its owner sees it."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from sqlalchemy import select, update

from monolith.accounts import tokens
from monolith.db.engine import read_session, write_session
from monolith.db.models import Token
from tests.support.callers import Caller
from tests.support.visitor import signed_in


def with_scope(app: Flask, caller: Caller, scope: str, days: float | None = None) -> Caller:
    return Caller(app.test_client(), caller.user, tokens.create_token(caller.user.id, scope, scope, days)[1])


@pytest.mark.parametrize(
    ("scope", "reads", "submits", "manages", "watches"),
    [("read", 200, 403, 403, 200), ("submit", 200, 202, 403, 403), ("admin", 200, 202, 201, 200)],
)
def test_a_token_may_do_what_its_scope_says(
    app: Flask, admin: Caller, scope: str, reads: int, submits: int, manages: int, watches: int
) -> None:
    one = with_scope(app, admin, scope)
    assert one.get("/api/v1/jobs").status_code == reads
    assert one.post("/api/v1/jobs", json={"type": "trial_echo"}).status_code == submits
    assert one.post("/api/v1/tokens", json={"name": "another"}).status_code == manages
    assert one.get("/api/v1/me").json["is_admin"] is (scope == "admin")
    assert one.get("/metrics").status_code == watches


def test_an_admins_scope_makes_nobody_an_admin(app: Flask, alice: Caller) -> None:
    assert with_scope(app, alice, "admin").get("/api/v1/me").json["is_admin"] is False


def test_a_refusal_names_the_scope_that_is_needed(app: Flask, alice: Caller) -> None:
    refused = with_scope(app, alice, "read").delete("/api/v1/documents/nope")
    assert (refused.status_code, refused.json["detail"]) == (
        403,
        "This token has the scope 'read', but this request needs 'submit'. Use another token.",
    )


@pytest.mark.databases
def test_a_token_that_has_run_out_opens_nothing(app: Flask, alice: Caller) -> None:
    one = with_scope(app, alice, "submit", days=1)
    assert one.get("/api/v1/me").status_code == 200
    with write_session() as session:
        session.execute(update(Token).where(Token.name == "submit").values(expires_at=Token.expires_at - 86401))
    assert one.get("/api/v1/me").status_code == 401


def test_a_token_that_nothing_is_said_of_submits_and_lasts(alice: Caller) -> None:
    made = alice.post("/api/v1/tokens", json={"name": "laptop"}).json
    assert (made["scope"], made["expires_at"], made["last_used_at"]) == ("submit", None, None)
    assert made["token"].startswith(made["prefix"])


@pytest.mark.databases
def test_when_a_token_was_used_is_seen(app: Flask, alice: Caller) -> None:
    with_scope(app, alice, "read").get("/api/v1/me")
    listed = {one["name"]: one for one in alice.get("/api/v1/tokens").json["data"]}
    assert listed["read"]["last_used_at"] and "token" not in listed["read"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({"name": "x", "scope": "all"}, "/scope"), ({"name": "x", "days": -1}, "/days"), ({"name": "x", "days": 1e9}, "/days")],
)
def test_a_wrong_scope_or_end_is_refused(alice: Caller, body: dict, pointer: str) -> None:
    refused = alice.post("/api/v1/tokens", json=body)
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, pointer)


def test_nobody_has_more_tokens_than_a_person_can_oversee(alice: Caller) -> None:
    with write_session() as session:
        session.add_all(Token(user_id=alice.user.id, name=str(n), prefix="intray_", hash=f"{n:064}") for n in range(tokens.MAX_TOKENS - 1))
    assert alice.post("/api/v1/tokens", json={"name": "one more"}).status_code == 409


def test_the_page_makes_a_token_shows_it_once_and_revokes_it(app: Flask, alice: Caller) -> None:
    one = signed_in(app)
    made = one.post("/account/tokens", {"name": "laptop", "scope": "read", "days": "7"})
    secret = re.search(r'id="secret">(intray_[\w-]+)<', made.text)
    assert made.status_code == 201 and secret
    assert Caller(app.test_client(), alice.user, secret[1]).get("/api/v1/me").status_code == 200
    page = one.get("/account").text
    assert secret[1] not in page and "laptop" in page and "Read only" in page
    with read_session() as session:
        token = session.scalars(select(Token).where(Token.name == "laptop")).one()
    assert token.expires_at and 6.9 < (token.expires_at - token.created_at) / 86400 < 7.1
    assert one.post(f"/account/tokens/{token.id}/revoke").status_code == 303
    assert Caller(app.test_client(), alice.user, secret[1]).get("/api/v1/me").status_code == 401


def test_the_page_says_what_is_wrong_with_a_token(app: Flask, alice: Caller) -> None:
    refused = signed_in(app).post("/account/tokens", {"name": "", "scope": "read"})
    assert refused.status_code == 422 and "Give the token a name" in refused.text


def test_what_one_wants_an_email_for_is_kept(app: Flask, alice: Caller) -> None:
    one = signed_in(app)
    assert one.post("/account/mail", {"failed": "on"}).status_code == 303
    assert [alice.get("/api/v1/me").json[name] for name in ("mail_failed", "mail_done")] == [True, False]
    assert alice.patch("/api/v1/me", json={"mail_done": True}).json["mail_done"] is True
    assert [alice.get("/api/v1/me").json[name] for name in ("mail_failed", "mail_done")] == [True, True]


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
