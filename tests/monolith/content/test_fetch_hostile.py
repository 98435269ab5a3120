"""Servers that send too much where nobody expects it, and the same closed addresses for webhooks; beside test_fetch.py."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Callable
from threading import Event

import pytest

from monolith.config import settings
from monolith.content import fetch as fetching
from monolith.content.fetch import FetchFailed, fetch
from monolith.content.http_post import post, target_problem
from monolith.job_types.registry import Permanent
from tests.support.addresses import PRIVATE

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
Raw = Callable[[Callable[[socket.socket, Event], None]], str]


def endless(begin: bytes, again: bytes) -> Callable[[socket.socket, Event], None]:
    """Sends the beginning and then the same for as long as somebody listens; 200 MB at most."""

    def treat(connection: socket.socket, over: Event) -> None:
        connection.sendall(begin)
        piece = again * (65536 // len(again))
        for _ in range(200 * 16):
            if over.is_set():
                return
            connection.sendall(piece)

    return treat


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-More: x\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        (b"HTTP/1.1 200 ", b"O"),
        (HTML + b"Set-Cookie: ", b"a=b; "),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["many headers", "one long header", "a long status", "a long cookie", "continue and continue"],
)
def test_headers_without_end_are_not_read_to_the_end(raw: Raw, begin: bytes, again: bytes) -> None:
    with pytest.raises(FetchFailed):
        fetch(raw(endless(begin, again)), within=4)


@pytest.mark.parametrize(
    "head", [HTML + b"\r\n", HTML + b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n"], ids=["endless", "chunk"]
)
def test_a_body_without_end_is_refused_at_its_limit(raw: Raw, head: bytes) -> None:
    with pytest.raises((Permanent, FetchFailed)):
        fetch(raw(endless(head, b"x" * 65536)), within=20)


def test_a_bomb_within_a_bomb_is_unpacked_no_further_than_the_limit(raw: Raw) -> None:
    bomb = gzip.compress(gzip.compress(b"\0" * 300_000_000, 1), 9)
    head = HTML + b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with pytest.raises(Permanent, match="larger than 10 MB"):
        fetch(raw(lambda connection, over: connection.sendall(head + bomb)))


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip", "deflate", "x" * 1000])
def test_a_body_that_is_not_what_it_says_harms_nobody(raw: Raw, encoding: str) -> None:
    body = zlib.compress(b"x" * 100)[:-3] if encoding == "deflate" else b"<p>not that at all</p>"
    head = HTML + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding.encode(), len(body))
    try:
        assert len(fetch(raw(lambda connection, over: connection.sendall(head + body))).content) <= fetching.MAX_BODY
    except (FetchFailed, Permanent) as refused:
        assert "Traceback" not in str(refused)


@pytest.mark.parametrize("host", PRIVATE.split())
def test_no_webhook_is_sent_to_an_address_that_is_not_public(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("FETCH_ALLOW_LOOPBACK")
    settings.cache_clear()
    assert target_problem(f"http://{host}/")
    answer = post(f"http://{host}/", b"{}", {})
    assert answer.status is None and answer.error
