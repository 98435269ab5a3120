"""Clients that send drip by drip, those that do not read, and those that do not go, against a real web process of eight threads."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection

import pytest
import requests

from tests.support.processes import Intray, until

DRIPS = 12
HEAD = b"GET /health HTTP/1.1\r\nHost: intray\r\nX-Slow: "
MEGABYTES = 5


class Drip(threading.Thread):
    """A client that sends a byte ten times a second until it is ended; what it was told is in `said`."""

    def __init__(self, port: int, beginning: bytes) -> None:
        super().__init__(daemon=True)
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.beginning, self.said, self.is_ended = beginning, b"", threading.Event()
        self.start()

    def run(self) -> None:
        with suppress(OSError):
            self.connection.sendall(self.beginning)
            self.connection.settimeout(0.1)
            while not self._hears_an_end():
                self.connection.sendall(b"a")
        self.connection.close()
        self.is_ended.set()

    def _hears_an_end(self) -> bool:
        try:
            heard = self.connection.recv(4096)
        except TimeoutError:
            return False
        self.said += heard
        return not heard


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intray]:
    settings = {"REDIS_URL": "redis://127.0.0.1:1/0", "WEB_CONCURRENCY": "1", "WEB_THREADS": "8", "PATIENCE_S": "3"}
    with Intray(tmp_path_factory.mktemp("web") / "home", settings) as one:
        yield one.start_web()


@pytest.fixture(scope="module")
def token(web: Intray) -> str:
    return web.token(web.user("a@example.org"))


@pytest.fixture
def body(token: str) -> bytes:
    """The beginning of a submission whose body does not come."""
    lines = ("POST /api/v1/jobs HTTP/1.1", "Host: intray", f"Authorization: Bearer {token}")
    return "\r\n".join((*lines, "Content-Type: application/json", "Content-Length: 100000", "", "{")).encode()


def answered(web: Intray) -> bool:
    with suppress(requests.RequestException):
        return requests.get(f"{web.base_url}/health", timeout=20).status_code == 200
    return False


def test_clients_that_drip_are_ended_and_others_are_answered_beside_them(web: Intray, body: bytes) -> None:
    before = web.output().count("slow_client")
    drips = [Drip(web.port, body if number % 2 else HEAD) for number in range(DRIPS)]
    assert answered(web)
    until(lambda: all(drip.is_ended.is_set() for drip in drips), or_else=web.output)
    assert [drip.said for drip in drips[::2]] == [b""] * (DRIPS // 2)
    assert all(b" 408 " in drip.said and b"Send it again over a faster connection" in drip.said for drip in drips[1::2])
    assert web.output().count("slow_client") - before == DRIPS
    assert "Traceback" not in web.output()


def test_clients_that_do_not_read_their_answer_are_ended_and_others_are_answered_beside_them(web: Intray, token: str) -> None:
    before = web.output().count("slow_client")
    headers = {"Authorization": f"Bearer {token}"}
    sent = {"file": ("large.txt", "word " * (MEGABYTES * 200_000))}
    made = requests.post(f"{web.base_url}/api/v1/documents", files=sent, headers=headers, timeout=60).json()["document"]
    asking = f"GET /api/v1/documents/{made['id']}/content HTTP/1.1\r\nHost: intray\r\nAuthorization: Bearer {token}\r\n\r\n"
    deaf = [deaf_to(web.port, asking.encode()) for _ in range(DRIPS)]
    assert answered(web)
    until(lambda: web.output().count("slow_client") - before == DRIPS, or_else=web.output)
    for one in deaf:
        assert len(heard_of(one)) < MEGABYTES * 1_000_000
    assert "Traceback" not in web.output()
    slowly = deaf_to(web.port, asking.replace("HTTP/1.1", "HTTP/1.0").encode())
    time.sleep(2)  # this is what the client is like: its second more for each 20 kB is not used up
    assert heard_of(slowly).endswith(b"word ")


def deaf_to(port: int, asking: bytes) -> socket.socket:
    """A connection whose client asks and, so far, reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(asking)
    return connection


def heard_of(connection: socket.socket) -> bytes:
    """All that is heard until the other side closes."""
    connection.settimeout(30)
    with connection, connection.makefile("rb") as heard, suppress(ConnectionResetError):
        return heard.read()
    return b""


def test_connections_on_which_nothing_comes_and_those_that_nobody_closes_keep_nobody_waiting(web: Intray) -> None:
    silent = [socket.create_connection(("127.0.0.1", web.port)) for _ in range(DRIPS)]
    asked = [socket.create_connection(("127.0.0.1", web.port)) for _ in range(DRIPS)]
    for one in asked:
        one.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert one.recv(15) == b"HTTP/1.0 200 OK"
    assert answered(web)
    for one in (*silent, *asked):  # each is closed from there
        one.settimeout(30)
        while one.recv(4096):
            pass
        one.close()


def test_a_large_document_that_comes_in_pieces_over_a_longer_time_than_a_drip_has_is_taken(web: Intray, token: str) -> None:
    content = json.dumps({"text": "word " * (MEGABYTES * 200_000), "title": "Large"}).encode()

    def pieces() -> Iterator[bytes]:
        size = len(content) // 40 + 1
        for start in range(0, len(content), size):
            yield content[start : start + size]
            time.sleep(0.1)  # this is what the client is like

    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    for told in ({"Content-Length": str(len(content))}, {}):  # else it comes in chunks
        connection = HTTPConnection("127.0.0.1", web.port, timeout=60)
        connection.request("POST", "/api/v1/documents", pieces(), {**headers, **told})
        answer = connection.getresponse()
        assert answer.status in (200, 201), answer.read()
        connection.close()
