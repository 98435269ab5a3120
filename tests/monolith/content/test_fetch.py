"""Fetching from real servers on this machine, kind and hostile ones; and the addresses that must never be fetched."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from time import time

import pytest

from monolith.config import settings
from monolith.content import fetch as fetching
from monolith.content.fetch import FetchFailed, fetch
from monolith.job_types.registry import Permanent, Snooze
from tests.support.addresses import PRIVATE
from tests.support.web_site import HTML, PAGE, Site


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in production: loopback addresses are refused like all private ones."""
    monkeypatch.delenv("FETCH_ALLOW_LOOPBACK")
    settings.cache_clear()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


def test_a_page_comes_with_its_type_and_address(site: Site) -> None:
    page = fetch(f"{site.url}/")
    assert (page.url, page.content, page.media_type) == (f"{site.url}/", PAGE, "text/html")
    assert "Cookie" not in site.asked[0] and "Authorization" not in site.asked[0]


@pytest.mark.parametrize(
    ("path", "declared", "kept"),
    [
        ("/a", "text/html; charset=UTF-8", "text/html"),
        ("/a", "Text/HTML; Charset='ISO-8859-1'", "text/html; charset=iso-8859-1"),
        ("/a.pdf", "application/octet-stream", "application/pdf"),
        ("/a.md?x=1", "application/octet-stream", "text/markdown"),
        ("/a", "", "text/html"),
        ("/a", "application/json", "application/json"),
    ],
)
def test_the_media_type_is_the_declared_one_or_that_of_the_ending(site: Site, path: str, declared: str, kept: str) -> None:
    site.answers[path] = (200, {"Content-Type": declared} if declared else {}, b"something")
    assert fetch(site.url + path).media_type == kept


@pytest.mark.parametrize("declared", ["image/png", "video/mp4", "application/octet-stream", "application/zip", "text/<script>"])
def test_what_cannot_be_read_is_refused(site: Site, declared: str) -> None:
    site.answers["/a"] = (200, {"Content-Type": declared}, b"something")
    with pytest.raises(Permanent, match="not supported"):
        fetch(f"{site.url}/a")


def test_a_compressed_page_is_unpacked(site: Site) -> None:
    site.answers["/"] = (200, {**HTML, "Content-Encoding": "gzip"}, gzip.compress(PAGE))
    assert fetch(site.url).content == PAGE


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_over_the_limit_is_refused_however_small_it_travels(site: Site, packed: bool) -> None:
    body = b"x" * (fetching.MAX_BODY + 1)
    site.answers["/"] = (200, {**HTML, "Content-Encoding": "gzip"}, gzip.compress(body)) if packed else (200, HTML, body)
    with pytest.raises(Permanent, match="larger than 10 MB"):
        fetch(site.url)


def test_a_body_of_the_limit_is_taken(site: Site) -> None:
    site.answers["/"] = (200, HTML, b"x" * fetching.MAX_BODY)
    assert len(fetch(site.url).content) == fetching.MAX_BODY


def test_an_empty_page_is_refused(site: Site) -> None:
    site.answers["/"] = (200, HTML, b"\n")
    with pytest.raises(Permanent, match="empty"):
        fetch(site.url)


def _redirects(site: Site, count: int) -> None:
    site.answers |= {f"/{number}": (302, {"Location": f"/{number + 1}"}, b"") for number in range(count)}
    site.answers[f"/{count}"] = (200, HTML, PAGE)


def test_three_redirects_are_followed(site: Site) -> None:
    _redirects(site, 3)
    assert fetch(f"{site.url}/0").url == f"{site.url}/3"


def test_a_fourth_redirect_is_not(site: Site) -> None:
    _redirects(site, 4)
    with pytest.raises(Permanent, match="more than 3 times"):
        fetch(f"{site.url}/0")
    assert len(site.asked) == 4


@pytest.mark.parametrize("to", ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://[::ffff:10.0.0.1]/", "http://192.168.1.1:80/"])
def test_a_redirect_to_a_private_address_is_refused(site: Site, to: str) -> None:
    site.answers["/"] = (302, {"Location": to}, b"")
    with pytest.raises(Permanent, match="not a public site"):
        fetch(site.url)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "gopher://127.0.0.1/", "//user:pass@127.0.0.1/", "http://127.0.0.1\\@example.com/"])
def test_a_redirect_to_something_else_is_refused(site: Site, to: str) -> None:
    site.answers["/"] = (302, {"Location": to}, b"")
    with pytest.raises(Permanent):
        fetch(site.url)
    assert len(site.asked) == 1


def test_a_large_body_under_a_redirect_is_not_read(site: Site) -> None:
    site.answers["/0"] = (302, {"Location": "/", "Content-Encoding": "gzip"}, b"not gzip at all" * 1_000_000)
    assert fetch(f"{site.url}/0").content == PAGE


@pytest.mark.parametrize("host", PRIVATE.split())
def test_no_address_that_is_not_public_is_fetched(guarded: None, host: str) -> None:
    with pytest.raises(Permanent, match="not a public site|not a valid web address"):
        fetch(f"http://{host}/")


def test_a_name_that_is_not_there_and_a_private_one_get_the_same_words(guarded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Permanent, match="^db.example is not a public site that can be reached from here"):
        fetch("http://db.example/")


@pytest.mark.parametrize("second", ["10.0.0.1", "168.63.129.16", "fd00::1"])
def test_a_name_with_one_private_address_among_public_ones_is_refused(guarded: None, monkeypatch: pytest.MonkeyPatch, second: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", second)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(Permanent, match="^two.example is not a public site"):
        fetch("http://two.example/")


def test_a_name_that_turns_private_between_check_and_connection_is_refused(guarded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["8.8.8.8", "168.63.129.16"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 80))])
    with pytest.raises(Permanent, match="^turns.example is not a public site"):
        fetch("http://turns.example/")


def test_no_packet_reaches_this_machine(guarded: None, site: Site) -> None:
    with pytest.raises(Permanent, match="not a public site"):
        fetch(site.url)
    assert site.asked == []


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450::1"])
def test_public_addresses_are_allowed(guarded: None, address: str) -> None:
    assert fetching._is_allowed(fetching._address(address))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "example.com",
        "http://",
        "http:///a",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://127.0.0.1:80\\@example.com/",
        "http://example.com/a b",
        "http://example.com/\r\nHost: x",
        " http://example.com/",
        "http://[fe80::1%25eth0]/",
        "http://example.com:99999/",
        "http://example.com:x/",
        "http://[::1/",
        f"http://example.com/{'x' * 2048}",
    ],
)
def test_what_is_no_address_of_a_page_is_refused_without_looking(url: str) -> None:
    assert fetching.url_problem(url)
    with pytest.raises(Permanent):
        fetch(url)


def test_other_ports_than_the_webs_are_refused(guarded: None) -> None:
    with pytest.raises(Permanent, match="Port 6379"):
        fetch("http://8.8.8.8:6379/")


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 418, 304])
def test_a_refusal_fails_for_good(site: Site, code: int) -> None:
    site.answers["/"] = (code, HTML, b"")
    with pytest.raises(Permanent, match=str(code)):
        fetch(site.url)


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_trouble_at_the_server_may_be_tried_again(site: Site, code: int) -> None:
    site.answers["/"] = (code, HTML, b"")
    with pytest.raises(FetchFailed, match=str(code)):
        fetch(site.url)


@pytest.mark.parametrize(("code", "asked", "seconds"), [(429, "7", 7), (503, "30", 30), (429, "99999", 3600), (429, "0", 1)])
def test_a_server_that_asks_to_wait_parks_the_job(site: Site, code: int, asked: str, seconds: float) -> None:
    site.answers["/"] = (code, {**HTML, "Retry-After": asked}, b"")
    with pytest.raises(Snooze) as parked:
        fetch(site.url)
    assert parked.value.seconds == seconds


def test_a_server_may_ask_to_wait_until_a_date(site: Site) -> None:
    site.answers["/"] = (429, {**HTML, "Retry-After": formatdate(time() + 100, usegmt=True)}, b"")
    with pytest.raises(Snooze) as parked:
        fetch(site.url)
    assert 90 < parked.value.seconds <= 100


@pytest.mark.parametrize("at_once", [0, 17, 66])  # slow from the status line on, in the headers, in the body
def test_a_server_that_drips_is_cut_off_at_the_deadline(raw: Callable[..., str], at_once: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 40\r\n\r\n" + b"x" * 40

    def treat(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(answer[:at_once])
        for byte in answer[at_once:]:  # all of it comes, within 6 s
            over.wait(0.05)
            connection.sendall(bytes([byte]))

    with pytest.raises(FetchFailed, match="longer than 0.5 s"):
        fetch(raw(treat), within=0.5)


def test_nothing_is_left_reading_after_the_deadline(raw: Callable[..., str]) -> None:
    hung_up = threading.Event()

    def treat(connection: socket.socket, over: threading.Event) -> None:
        if connection.recv(1) == b"":
            hung_up.set()

    with pytest.raises(FetchFailed):
        fetch(raw(treat), within=0.3)
    assert hung_up.wait(5)


@pytest.mark.parametrize(
    "sent", [b"", b"not http at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 99\r\n\r\nhalf"]
)
def test_a_server_that_breaks_off_may_be_tried_again(raw: Callable[..., str], sent: bytes) -> None:
    with pytest.raises(FetchFailed, match="closed the connection"):
        fetch(raw(lambda connection, over: connection.sendall(sent)))


def test_a_server_that_is_not_there_may_be_tried_again() -> None:
    with pytest.raises(FetchFailed, match="could not be reached"):
        fetch("http://127.0.0.1:9/")
