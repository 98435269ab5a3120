"""Signing in: sessions that can be seen and ended and run out, waits for who guesses, passwords that are not guessed first."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from sqlalchemy import select, update
from werkzeug.security import check_password_hash, generate_password_hash

from monolith import create_app
from monolith.accounts import login_throttle, passwords, users
from monolith.accounts.models import LoginAttempts, UserSession
from monolith.db.engine import read_session, write_session
from monolith.db.models import User
from monolith.errors import Invalid
from tests.support.callers import Caller
from tests.support.visitor import PASSWORD, Visitor, signed_in, visitor

pytestmark = pytest.mark.databases

NEW = "seven grey herons over Utrecht"
OVER_TLS = "https://intray.example"


def cookie(one: Visitor, name: str = "intray_session", domain: str = "localhost") -> str:
    found = one.client.get_cookie(name, domain)
    assert found, one.client._cookies
    return str(found.value)


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(app: Flask, alice: Caller) -> None:
    header = visitor(app).sign_in().headers["Set-Cookie"]
    assert header.startswith("intray_session=") and "HttpOnly" in header and "SameSite=Lax" in header and "Secure" not in header


def test_behind_tls_the_cookie_goes_over_tls_alone_and_no_other_host_can_set_it(app: Flask, alice: Caller) -> None:
    one = visitor(app, OVER_TLS)
    header = one.sign_in().headers["Set-Cookie"]
    assert header.startswith("__Host-intray_session=") and "Secure" in header and "Path=/" in header and "Domain" not in header
    assert one.is_signed_in()
    assert not Visitor(one.client).is_signed_in()


def test_a_session_that_was_signed_out_is_over_for_whoever_kept_its_cookie(app: Flask, alice: Caller) -> None:
    one = signed_in(app)
    kept = cookie(one)
    assert one.post("/sign-out").status_code == 303
    thief = visitor(app)
    thief.client.set_cookie("intray_session", kept)
    assert not thief.is_signed_in()


def test_signing_in_gives_a_session_that_nobody_had_before(app: Flask, alice: Caller, bob: Caller) -> None:
    planted = visitor(app)
    planted.get("/sign-in")
    before = cookie(planted)
    planted.sign_in()
    other = visitor(app)
    other.client.set_cookie("intray_session", before)
    assert planted.is_signed_in() and not other.is_signed_in()
    with read_session() as session:
        assert session.scalars(select(UserSession.hash)).one() not in cookie(planted)


@pytest.mark.parametrize(
    "aged", [{"last_used_at": UserSession.last_used_at - 13 * 3600}, {"created_at": UserSession.created_at - 15 * 86400}]
)
def test_a_session_runs_out_when_it_is_idle_and_when_it_is_old(app: Flask, alice: Caller, aged: dict) -> None:
    one = signed_in(app)
    with write_session() as session:
        session.execute(update(UserSession).values(**aged))
    assert not one.is_signed_in()
    signed_in(app)
    with read_session() as session:
        assert len(session.scalars(select(UserSession)).all()) == 1, "the one that has run out is gone"


def test_a_session_that_is_used_goes_on(app: Flask, alice: Caller) -> None:
    one = signed_in(app)
    for _ in range(3):
        with write_session() as session:
            session.execute(update(UserSession).values(last_used_at=UserSession.last_used_at - 11 * 3600))
        assert one.is_signed_in()


def test_a_session_does_not_last_longer_because_the_clock_of_the_database_was_set_back(app: Flask, alice: Caller) -> None:
    one = signed_in(app)
    for hours in (48, -13):
        with write_session() as session:
            session.execute(update(UserSession).values(last_used_at=UserSession.last_used_at + hours * 3600))
        assert one.is_signed_in() == (hours > 0)


def test_changing_the_password_ends_all_other_sessions_and_renews_this_one(app: Flask, alice: Caller) -> None:
    here, elsewhere = signed_in(app), signed_in(app)
    kept = cookie(here)
    assert here.post("/account/password", {"current": PASSWORD, "new": NEW}).status_code == 303
    thief = visitor(app)
    thief.client.set_cookie("intray_session", kept)
    assert here.is_signed_in() and not elsewhere.is_signed_in() and not thief.is_signed_in()
    assert visitor(app).sign_in().status_code == 401
    assert visitor(app).sign_in(password=NEW).status_code == 303
    assert alice.get("/api/v1/me").status_code == 200, "tokens keep working"


def test_the_password_is_changed_through_the_api_too(app: Flask, alice: Caller) -> None:
    session = signed_in(app)
    wrong = alice.put("/api/v1/me/password", json={"current": "another one", "new": NEW})
    assert (wrong.status_code, wrong.json["errors"][0]["pointer"]) == (422, "/current")
    weak = alice.put("/api/v1/me/password", json={"current": PASSWORD, "new": "short"})
    assert (weak.status_code, weak.json["errors"][0]["pointer"]) == (422, "/new")
    assert session.is_signed_in()
    assert alice.put("/api/v1/me/password", json={"current": PASSWORD, "new": NEW}).status_code == 204
    assert not session.is_signed_in()


def test_one_sees_where_one_is_signed_in_and_ends_it_there(app: Flask, alice: Caller, bob: Caller) -> None:
    firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
    here, there = signed_in(app), signed_in(app, HTTP_USER_AGENT=firefox, REMOTE_ADDR="203.0.113.7")
    page = here.get("/account").text
    assert "Firefox on Linux" in page and "203.0.113.7" in page and "This browser" in page
    listed = here.get("/api/v1/sessions").json["data"]
    assert [one["is_this"] for one in listed].count(True) == 1
    theirs = next(one["id"] for one in listed if not one["is_this"])
    stranger = signed_in(app, "bob@example.org")
    assert stranger.post(f"/account/sessions/{theirs}/end").status_code == 404
    assert there.is_signed_in()
    assert here.post(f"/account/sessions/{theirs}/end").status_code == 303
    assert not there.is_signed_in() and here.is_signed_in() and stranger.is_signed_in()


def test_one_signs_out_everywhere_else_at_once(app: Flask, alice: Caller, bob: Caller) -> None:
    here, *others = (signed_in(app) for _ in range(3))
    stranger = signed_in(app, "bob@example.org")
    assert "2 sessions" in here.post("/account/sessions/end-others", follow_redirects=True).text
    assert here.is_signed_in() and stranger.is_signed_in() and not any(one.is_signed_in() for one in others)
    assert alice.delete("/api/v1/sessions").status_code == 204
    assert not here.is_signed_in()


# ---- guessing


@pytest.mark.parametrize("email", ["alice@example.org", "nobody@example.org"])
def test_who_guesses_waits_longer_and_longer_whether_the_account_exists_or_not(app: Flask, alice: Caller, email: str) -> None:
    assert [visitor(app).sign_in(email, "wrong").status_code for _ in range(5)] == [401] * 5
    waits = []
    for _ in range(12):
        waits.append(put_off())
        answer = visitor(app).sign_in(email, "wrong")
        assert answer.status_code == 429
        assert min(waits[-1], login_throttle.MAX_WAIT_S - 60) < int(answer.headers["Retry-After"]) <= waits[-1] + 60
        wait_out()
        assert visitor(app).sign_in(email, "wrong").status_code == 401
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    assert f"Try again in {answer.headers['Retry-After']} seconds" in answer.text


def put_off() -> int:
    """Make the wait there is a minute longer, as this machine may be slow; how many seconds it was."""
    with write_session() as session:
        waits = round(max(session.scalars(select(LoginAttempts.retry_at - LoginAttempts.began_at))))
        longer = min(60, login_throttle.MAX_WAIT_S - waits)  # a longer one would be taken for that of another clock
        session.execute(update(LoginAttempts).values(retry_at=LoginAttempts.retry_at + longer))
        return waits


def wait_out() -> None:
    with write_session() as session:
        session.execute(update(LoginAttempts).values(retry_at=0))


def test_while_one_has_to_wait_the_right_password_opens_nothing_either(app: Flask, alice: Caller) -> None:
    for _ in range(5):
        visitor(app).sign_in(password="wrong")
    put_off()
    assert visitor(app).sign_in().status_code == 429
    wait_out()
    assert visitor(app).sign_in().status_code == 303
    assert [visitor(app).sign_in(password="wrong").status_code for _ in range(5)] == [401] * 5, "all is forgotten"
    ahead = {"began_at": LoginAttempts.began_at + 7200, "retry_at": LoginAttempts.retry_at + 7200}
    with write_session() as session:  # as if the clock of the database had been ahead then
        session.execute(update(LoginAttempts).values(ahead))
    assert visitor(app).sign_in().status_code == 303


def test_many_guesses_at_one_moment_at_two_web_processes_are_not_more_guesses(app: Flask, alice: Caller) -> None:
    apps = [app, create_app()]
    visitors = [visitor(apps[number % 2]) for number in range(16)]
    forms = [(one, one.csrf_token()) for one in visitors]

    def guess(form: tuple[Visitor, str]) -> int:
        one, token = form
        return one.client.post("/sign-in", data={"email": "alice@example.org", "password": "x", "csrf_token": token}).status_code

    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(guess, forms))
    waited_out = sum(time.monotonic() - began > seconds for seconds in (1, 3, 7, 15))  # on a slow machine, where one may guess again
    assert 5 <= statuses.count(401) <= 5 + waited_out
    assert statuses.count(401) + statuses.count(429) == 16


def test_an_address_is_limited_over_all_accounts_and_an_ipv6_network_is_one_address(
    app: Flask, alice: Caller, intray_settings: Callable[..., None]
) -> None:
    intray_settings(SIGN_IN_RATE="4 per minute")
    addresses = ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3", "2001:db8::4", "2001:db8::5", "2001:db8:0:1::1"]
    guesses = [visitor(app, REMOTE_ADDR=address).sign_in(f"{number}@example.org", "x") for number, address in enumerate(addresses)]
    assert [answer.status_code for answer in guesses] == [401, 401, 401, 401, 429, 401]


def test_guessing_the_current_password_of_an_open_session_is_limited_too(app: Flask, alice: Caller) -> None:
    one = signed_in(app)
    answers = [one.post("/account/password", {"current": "wrong", "new": NEW}) for _ in range(5)]
    put_off()
    answers.append(one.post("/account/password", {"current": "wrong", "new": NEW}))
    assert [answer.status_code for answer in answers] == [422] * 5 + [429]
    assert "This is not your current password" in answers[0].text and "Try again in" in answers[5].text


def test_an_account_that_is_not_there_takes_as_long(app: Flask, alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password is held against one hash, of the same cost, whether there is an account or not."""
    with write_session() as session:
        session.get_one(User, alice.user.id).password_hash = generate_password_hash("a long password")
    costs = []

    def check(password_hash: str, password: str) -> bool:
        costs.append(password_hash.partition("$")[0])
        return check_password_hash(password_hash, password)

    monkeypatch.setattr(passwords, "check_password_hash", check)
    for email in ("alice@example.org", "nobody@example.org"):
        assert users.check_password(email, "wrong") is None
    assert len(costs) == 2 and costs[0] == costs[1]


# ---- passwords

WEAK = ["", "short", "elevenchars", "x" * 257, "password1234", "123456789012", "qwertyuiop12", "aaaaaaaaaaaa", "letmeinletmein"]
WEAK += ["trustno1trustno1", "Intray123456", "abcdefghijkl", "P@ssw0rd1234", "iloveyou1234", "wilhelmina.vos"]


@pytest.mark.parametrize("password", WEAK, ids=[one[:20] or "empty" for one in WEAK])
def test_a_password_that_is_guessed_first_is_refused(password: str) -> None:
    with pytest.raises(Invalid) as refused:
        passwords.hashed(password, "wilhelmina.vos@example.org")
    assert refused.value.errors[0].pointer == "/password" and "Choose another" in refused.value.detail


@pytest.mark.parametrize("password", [PASSWORD, NEW, "x7#kQ!9vLmZp", "größte Brücke 北京 trams", "y" + "horse battery staple correct " * 8])
def test_a_long_password_of_any_characters_is_taken(password: str) -> None:
    assert passwords.is_correct(password, passwords.hashed(password, "alice@example.org"))
