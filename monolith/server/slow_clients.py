"""Ends connections whose client sends or reads too slowly, so that a few of them cannot hold all threads.

Only time that a thread spends waiting for the client counts, and every SLOWEST bytes transferred make up for one second of it. The rest
must stay below PATIENCE_S within one request or one answer; below CROWDED_S while more than half of the threads wait for clients.
"""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from gunicorn.http.errors import NoMoreData
from gunicorn.http.unreader import SocketUnreader
from werkzeug.exceptions import RequestTimeout

from monolith.config import settings

SLOWEST = 20_000  # bytes a second
CROWDED_S = 2.0
POLL_S = 0.25  # how often the number of waiting threads is read

log = structlog.get_logger()


class ClientDeadline:
    """The waiting time of one client within one request or one answer. `event` is POLLIN for sending, POLLOUT for reading."""

    def __init__(self, connection: socket.socket, address: str, event: int) -> None:
        self._connection, self._address, self._event = connection, address, event
        self._waited_s, self.moved, self.is_over = 0.0, 0, False  # seconds that nothing has made up for, and bytes

    def move(self, size: int) -> None:
        """Notes that so many bytes were transferred."""
        self.moved += size
        self._waited_s = max(0.0, self._waited_s - size / SLOWEST)

    def wait(self) -> bool:
        """Waits until the client is ready. Returns False if it exceeds its time."""
        ready = select.poll()
        ready.register(self._connection, self._event)
        with _waiting():
            while self._waited_s <= _allowed_s():
                began = time.monotonic()
                is_ready = ready.poll(POLL_S * 1000)
                self._waited_s += time.monotonic() - began
                if is_ready:
                    return True
        self.is_over = True
        does = "send" if self._event == select.POLLIN else "read"
        log.warning("slow_client", address=self._address, does=does, waited_s=round(self._waited_s, 1), moved=self.moved)
        return False


class IncomingBody(SocketUnreader):
    """Reads requests from a connection as gunicorn does, and gives up on a client that is too slow."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        super().__init__(sock)
        self._address = address
        self.begin()

    def begin(self) -> None:
        """Starts the deadline of a new request."""
        self.is_head, self._deadline = True, ClientDeadline(self.sock, self._address, select.POLLIN)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The bytes that have arrived. Raises `NoMoreData` for a slow head, and `RequestTimeout` (answered with 408) for a slow body."""
        if self._deadline.is_over:
            return b""
        size = max(self.mxchunk, min(size_hint or 0, self.max_body_chunk))
        try:
            content: bytes = self.sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if not self._deadline.wait():
                if self.is_head:
                    raise NoMoreData from None
                moved = f"{self._deadline.moved:,} bytes"
                raise RequestTimeout(f"The request timed out after {moved}. Send it again over a faster connection.") from None
            content = self.sock.recv(size)
        self._deadline.move(len(content))
        return content


class OutgoingResponse(socket.socket):
    """A connection that gives up on a client that reads its answer too slowly."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        super().__init__(fileno=connection.detach())
        self._address = address
        self.begin()

    def begin(self) -> None:
        """Starts the deadline of a new answer."""
        self._deadline = ClientDeadline(self, self._address, select.POLLOUT)

    def sendall(self, content: Any, flags: int = 0, /) -> None:
        """Sends all of it. Raises `BrokenPipeError` for a slow client."""
        left = memoryview(content)
        while left:
            try:
                size = self.send(left, flags | socket.MSG_DONTWAIT)
                left = left[size:]
                self._deadline.move(size)
            except BlockingIOError:
                if not self._deadline.wait():
                    raise BrokenPipeError(errno.EPIPE, "The client is reading too slowly") from None


_lock = threading.Lock()
_waiting_threads = 0  # that wait for a client at this moment


@contextmanager
def _waiting() -> Iterator[None]:
    """Counts this thread among those that wait for a client."""
    global _waiting_threads
    with _lock:
        _waiting_threads += 1
    try:
        yield
    finally:
        with _lock:
            _waiting_threads -= 1


def _allowed_s() -> float:
    return min(settings().patience_s, CROWDED_S) if _waiting_threads * 2 > settings().web_threads else settings().patience_s
