"""What a proxy in front says of the caller: believed as far as TRUSTED_PROXIES goes, and no further."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from monolith import create_app
from monolith.accounts import users
from monolith.runner.ledger.audit import Actor

Settings = Callable[..., None]
PASSWORD = "a long password"


def client(intray_settings: Settings, **settings: str) -> FlaskClient:
    intray_settings(**settings)
    users.create_user("a@example.org", PASSWORD, Actor("tests"))
    return create_app().test_client()


def sign_in(caller: FlaskClient, password: str = PASSWORD, **said: str) -> TestResponse:
    """As a browser does; `said` is what the proxy adds: X_Forwarded_For, X_Forwarded_Proto."""
    headers = {name.replace("_", "-"): value for name, value in said.items()}
    page = caller.get("/sign-in", headers=headers).text
    token = page.partition('name="csrf_token"')[2].partition('value="')[2].partition('"')[0]
    origin = "https" if said.get("X_Forwarded_Proto") == "https" else "http"
    form = {"email": "a@example.org", "password": password, "csrf_token": token}
    return caller.post("/sign-in", data=form, headers={**headers, "Referer": f"{origin}://localhost/sign-in"})


@pytest.mark.parametrize(("proxies", "is_secure"), [("1", True), ("0", False)], ids=["trusted", "not trusted"])
def test_the_session_cookie_is_secure_where_a_trusted_proxy_says_that_it_came_by_tls(
    intray_settings: Settings, proxies: str, is_secure: bool
) -> None:
    answer = sign_in(client(intray_settings, TRUSTED_PROXIES=proxies), X_Forwarded_Proto="https")
    assert answer.status_code == 303, answer.text
    cookie = next(one for one in answer.headers.getlist("Set-Cookie") if "session" in one)
    assert ("Secure" in cookie) is is_secure
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie


def test_limits_go_by_the_address_that_the_trusted_proxy_saw(intray_settings: Settings) -> None:
    caller = client(intray_settings, TRUSTED_PROXIES="1", SIGN_IN_RATE="1 per minute")
    guess = "not the password"
    assert sign_in(caller, guess, X_Forwarded_For="203.0.113.7").status_code != 429
    assert sign_in(caller, guess, X_Forwarded_For="203.0.113.7").status_code == 429
    assert sign_in(caller, guess, X_Forwarded_For="203.0.113.8").status_code != 429
    invented = "198.51.100.1, 203.0.113.7"  # the caller wrote the first, the proxy added the second
    assert sign_in(caller, guess, X_Forwarded_For=invented).status_code == 429


def test_nobody_gets_past_a_limit_by_inventing_addresses_where_no_proxy_is_trusted(intray_settings: Settings) -> None:
    caller = client(intray_settings, TRUSTED_PROXIES="0", SIGN_IN_RATE="1 per minute")
    assert sign_in(caller, "not the password", X_Forwarded_For="203.0.113.7").status_code != 429
    assert sign_in(caller, "not the password", X_Forwarded_For="203.0.113.8").status_code == 429
