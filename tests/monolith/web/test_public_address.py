"""Behind proxies that change the Host header or add a prefix: signing in works or says what to set, and no link leads out of the prefix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape

import pytest
from flask import Flask

from monolith import create_app
from monolith.config import settings
from tests.support.callers import Caller
from tests.support.routes import World, path_of, routes
from tests.support.visitor import Visitor, visitor

Settings = Callable[..., None]
OpenApp = Callable[..., Flask]
_apps: dict[int, Flask] = {}
LINKS = re.compile(r'"(/\w[^"\s<>]*)"')  # in attributes and scripts
API_LINKS = re.compile(r'"(/[^"]*)"')
OWN = re.compile(r"/(?:api|static|jobs|documents|batches|webhooks|run|account|admin|submit|sign-in|sign-out)(?:/|$|\?)")


@pytest.fixture
def open_app(alice: Caller, admin: Caller, intray_settings: Settings) -> OpenApp:
    """An application with these settings; made once for each number of trusted proxies, the other settings are read at each request."""

    def make(**variables: str) -> Flask:
        intray_settings(FETCH_ALLOW_LOOPBACK="true", **variables)
        made = _apps[settings().trusted_proxies] = _apps.get(settings().trusted_proxies) or create_app()
        made.config["SECRET_KEY"] = settings().secret_key
        return made

    return make


@pytest.mark.parametrize(
    ("origin", "host", "public_url", "status"),
    [
        ("http://intray.example.org", "intray.example.org", "", 303),
        ("http://intray.example.org", "Intray.example.org:80", "", 303),  # Host $host:$server_port
        ("https://intray.example.org", "intray.example.org:443", "", 303),
        ("http://intray.example.org", "127.0.0.1:8000", "", 403),  # the default of nginx
        ("http://intray.example.org", "127.0.0.1:8000", "http://intray.example.org", 303),
        ("http://intray.example.org", "127.0.0.1:8000", "http://intray.example.org:80/", 303),
        ("http://intray.example.org:8080", "intray.example.org", "", 403),  # Host $host
        ("http://intray.example.org:8080", "intray.example.org", "http://intray.example.org:8080", 303),
        ("http://intray.example.org:8080", "intray.example.org:8080", "http://other.example.org", 303),  # opened directly
        ("http://evil.example.org", "127.0.0.1:8000", "http://intray.example.org", 403),
    ],
)
def test_signing_in_behind_a_proxy_on_plain_http(open_app: OpenApp, origin: str, host: str, public_url: str, status: int) -> None:
    one = visitor(open_app(PUBLIC_URL=public_url), f"http://{host.lower()}")
    answer = one.sign_in(headers={"Origin": origin, "Host": host})
    assert answer.status_code == status, answer.text
    if status == 403:
        said = unescape(answer.text)
        assert f"a page of {origin}, but reached Intray as {host}" in said and f"set PUBLIC_URL={origin}" in said


PREFIXED = {
    "PUBLIC_URL": ({"PUBLIC_URL": "https://example.org/tray"}, {}),
    "SCRIPT_NAME": ({"SCRIPT_NAME": "/tray"}, {}),
    "a trusted proxy": ({"TRUSTED_PROXIES": "1"}, {"X-Forwarded-Prefix": "/tray/"}),
    "the second of two": ({"TRUSTED_PROXIES": "2"}, {"X-Forwarded-Prefix": "/invented, /tray, /inner"}),
}


@pytest.mark.parametrize(("variables", "headers"), PREFIXED.values(), ids=PREFIXED)
def test_a_prefix_is_part_of_redirects_pages_and_cookies(open_app: OpenApp, variables: dict[str, str], headers: dict[str, str]) -> None:
    client = open_app(**variables).test_client()
    not_taken_off = [] if headers else ["/tray/documents?tag=a"]  # a header changes no path
    for path in ("/documents?tag=a", *not_taken_off):
        assert client.get(path, headers=headers).headers["Location"] == "/tray/sign-in?next=/tray/documents?tag%3Da"
    page = client.get("/sign-in?next=//evil.example.org", headers=headers)
    assert 'name="next" value="/tray/"' in page.text and "; Path=/tray" in page.headers["Set-Cookie"]
    assert client.get("/ready", headers=headers).status_code in (200, 503)


@pytest.mark.parametrize(
    ("proxies", "said"),
    [("0", "/tray"), ("1", "//evil.example.org"), ("1", "http://evil"), ("1", "/a b"), ("1", '/"><script>'), ("1", ""), ("1", "/")],
)
def test_a_prefix_that_is_not_trusted_or_is_none_changes_nothing(open_app: OpenApp, proxies: str, said: str) -> None:
    answer = open_app(TRUSTED_PROXIES=proxies).test_client().get("/documents", headers={"X-Forwarded-Prefix": said})
    assert answer.headers["Location"] == "/sign-in?next=/documents"


def test_a_prefix_that_paths_of_ours_begin_with_is_taken_off_by_the_proxy(open_app: OpenApp) -> None:
    client = open_app(SCRIPT_NAME="/jobs").test_client()
    assert client.get("/jobs/some").headers["Location"] == "/jobs/sign-in?next=/jobs/jobs/some"


def test_behind_tls_a_cookie_with_a_prefix_has_no_name_that_forbids_it(open_app: OpenApp) -> None:
    client = open_app(TRUSTED_PROXIES="1").test_client()
    cookies = [
        client.get("/sign-in", headers={"X-Forwarded-Proto": "https", **more}).headers["Set-Cookie"]
        for more in ({}, {"X-Forwarded-Prefix": "/tray"})
    ]
    assert re.match(r"__Host-intray_session=.*; Secure; HttpOnly; Path=/;", cookies[0])
    assert re.match(r"__Secure-intray_session=.*; Secure; HttpOnly; Path=/tray;", cookies[1])


def test_no_link_of_any_page_or_answer_leads_out_of_the_prefix(open_app: OpenApp, alice: Caller, admin: Caller) -> None:
    app = open_app(PUBLIC_URL="http://localhost/tray")
    ids = World(Caller(app.test_client(), alice.user, alice.token)).ids()
    browser, api = visitor(app, "http://localhost/tray"), Caller(app.test_client(), admin.user, admin.token)
    assert browser.sign_in(admin.user.email).headers["Location"] == "/tray/"
    wrong, seen = [], {"/tray/"}
    todo = [path_of(app, rule, method, ids) for rule, method in routes(app) if method == "GET" and rule.endpoint != "static"]
    todo = [f"/tray{path}" for path in todo if "/events" not in path or path.startswith("/api")]
    while todo:
        path = todo.pop()
        if path.partition("?")[0] in seen:
            continue
        seen.add(path.partition("?")[0])
        for link in of_api(api, path) if path.startswith("/tray/api/v1/") else of_page(browser, path):
            if not link.startswith("/tray/") and link != "/tray":
                wrong.append(f"{path}: {link}")
            elif not re.search("/static/|/events|/sign-out", link):
                todo.append(unescape(link).partition("#")[0])
    assert not wrong, "\n".join(sorted(set(wrong)))
    assert len(seen) > 100


def of_page(browser: Visitor, path: str) -> Iterator[str]:
    """The links of a page, and where a redirect leads."""
    with browser.client.get(path, base_url="http://localhost") as answer:
        assert answer.status_code < 500 or path == "/tray/ready", (path, answer.text)
        yield from filter(None, [answer.headers.get("Location")])
        if answer.mimetype == "text/html":
            yield from LINKS.findall(answer.text)


def of_api(api: Caller, path: str) -> Iterator[str]:
    """The links in the JSON of an answer, and in its headers."""
    with api.get(path) as answer:
        yield from re.findall(r"<([^>]*)>", answer.headers.get("Link", ""))
        if answer.mimetype in ("application/json", "application/problem+json") and not path.endswith("openapi.json"):
            yield from (link for link in API_LINKS.findall(answer.text) if OWN.match(link) or link.startswith("/tray"))


def test_addresses_that_leave_intray_have_the_prefix(open_app: OpenApp, admin: Caller) -> None:
    app = open_app(PUBLIC_URL="https://example.org/tray")
    document = app.test_client().get("/api/openapi.json").json
    assert document["servers"] == [{"url": "/tray"}] and "/api/v1/jobs" in document["paths"]
    api = Caller(app.test_client(), admin.user, admin.token)
    assert "curl https://example.org/tray/api/v1/documents" in api.get("/api/docs").text
    assert settings().address_of("/jobs/1") == "https://example.org/tray/jobs/1"
