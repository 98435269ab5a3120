"""How long clients are waited for, so that those that send or read drip by drip do not hold all the threads.

Only the time in which a thread waits for the client counts, and each SLOWEST bytes that move make up for a second of it: what is left
may not grow over PATIENCE_S, within one request or one answer. While more than half of the threads wait for clients, that is CROWDED_S.
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
LOOK_S = 0.25  # how often it is seen whether it is crowded

log = structlog.get_logger()


class ClientDeadline:
    """With one client, over one request or one answer: `event` is what it is waited for, POLLIN or POLLOUT."""

    def __init__(self, connection: socket.socket, address: str, event: int) -> None:
        self._connection, self._address, self._event = connection, address, event
        self._waited_s, self.moved, self.is_over = 0.0, 0, False  # seconds that nothing has made up for, and bytes

    def move(self, size: int) -> None:
        """So many bytes came, or were taken."""
        self.moved += size
        self._waited_s = max(0.0, self._waited_s - size / SLOWEST)

    def wait(self) -> bool:
        """Until the client is ready; whether it was so in time."""
        ready = select.poll()
        ready.register(self._connection, self._event)
        with _waiting():
            while self._waited_s <= _allowed_s():
                began = time.monotonic()
                is_ready = ready.poll(LOOK_S * 1000)
                self._waited_s += time.monotonic() - began
                if is_ready:
                    return True
        self.is_over = True
        does = "send" if self._event == select.POLLIN else "read"
        log.warning("slow_client", address=self._address, does=does, waited_s=round(self._waited_s, 1), moved=self.moved)
        return False


class IncomingBody(SocketUnreader):
    """Reads a client's requests from its connection as gunicorn does, and gives up on one that is too slow."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        super().__init__(sock)
        self._address = address
        self.begin()

    def begin(self) -> None:
        """A request begins to arrive."""
        self.is_head, self._patience = True, ClientDeadline(self.sock, self._address, select.POLLIN)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """What has come. Raises `NoMoreData` for a slow head and `RequestTimeout`, which is answered, for a slow body; then no more."""
        if self._patience.is_over:
            return b""
        size = max(self.mxchunk, min(size_hint or 0, self.max_body_chunk))
        try:
            content: bytes = self.sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if not self._patience.wait():
                self._give_up()
            content = self.sock.recv(size)
        self._patience.move(len(content))
        return content

    def _give_up(self) -> None:
        if self.is_head:
            raise NoMoreData
        raise RequestTimeout(f"The request timed out after {self._patience.moved:,} bytes. Send it again over a faster connection.")


class OutgoingResponse(socket.socket):
    """A client's connection, which gives up on a client that is too slow to read its answer."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        super().__init__(fileno=connection.detach())
        self._address = address
        self.begin()

    def begin(self) -> None:
        """An answer begins to leave."""
        self._patience = ClientDeadline(self, self._address, select.POLLOUT)

    def sendall(self, content: Any, flags: int = 0, /) -> None:
        """Send it all. Raises `BrokenPipeError` for a slow client."""
        left = memoryview(content)
        while left:
            try:
                size = self.send(left, flags | socket.MSG_DONTWAIT)
                left = left[size:]
                self._patience.move(size)
            except BlockingIOError:
                if not self._patience.wait():
                    raise BrokenPipeError(errno.EPIPE, "The client is reading too slowly") from None


_lock = threading.Lock()
_crowd = [0]  # threads that wait for a client at this moment


@contextmanager
def _waiting() -> Iterator[None]:
    """Count this thread among those that wait."""
    _add(1)
    try:
        yield
    finally:
        _add(-1)


def _allowed_s() -> float:
    return min(settings().patience_s, CROWDED_S) if _crowd[0] * 2 > settings().web_threads else settings().patience_s


def _add(threads: int) -> None:
    with _lock:
        _crowd[0] += threads
