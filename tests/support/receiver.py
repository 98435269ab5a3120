"""A real HTTP server that receives webhooks, as well or as badly as a test wants; what came is verified by the reference library."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from standardwebhooks import Webhook

Respond = Callable[["Request"], None]


@dataclass
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def said(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def verified(self, secret: str) -> dict[str, Any]:
        """What it says. Raises when the reference library does not hold it for signed with this secret."""
        found: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return found


class Request(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.receiver.got(Received(self.path, headers, body))
        try:
            self.receiver.next_answer()(self)
        except ConnectionError:
            return

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Receiver:
    """Answers 204, or as the answers say that it was given, one after the other and the last for ever."""

    def __init__(self, *answers: Respond, address: str = "127.0.0.1") -> None:
        self.requests: list[Received] = []
        self.over = threading.Event()
        self._answers = list(answers) or [status(204)]
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer((address, 0), type("Bound", (Request,), {"receiver": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}/hook"

    def will(self, *answers: Respond) -> None:
        self._answers = list(answers)

    def got(self, received: Received) -> None:
        with self._lock:
            self.requests.append(received)

    def next_answer(self) -> Respond:
        with self._lock:
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def ids(self) -> Counter[str]:
        return Counter(one.id for one in list(self.requests))

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()


def status(code: int, body: bytes = b"", **headers: str) -> Respond:
    def respond(request: Request) -> None:
        request.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return respond


def hang(request: Request) -> None:
    request.receiver.over.wait(60)


def hang_up(request: Request) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def drip(request: Request) -> None:
    """Send headers, a byte at a time and without end."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not request.receiver.over.wait(0.05):
        request.wfile.write(b"x")
