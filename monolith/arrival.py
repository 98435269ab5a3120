"""How long a request may take to arrive, so that clients that send theirs drip by drip do not hold all the threads.

Only the time in which a thread waits for the client counts: a request has ARRIVAL_S of it, and a second more for each
SLOWEST bytes that have come. While more than half of the threads wait for clients, that is CROWDED_S.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from gunicorn.http.errors import NoMoreData
from gunicorn.http.unreader import SocketUnreader
from werkzeug.exceptions import RequestTimeout

from monolith.config import settings

SLOWEST = 20_000  # bytes a second
CROWDED_S = 2.0
LOOK_S = 0.25  # how often it is seen whether it is crowded

log = structlog.get_logger()


class Arrival(SocketUnreader):
    """Reads a client's requests from its connection as gunicorn does, and gives up on one that is too slow."""

    def __init__(self, sock: socket.socket, client: tuple[str, int]) -> None:
        super().__init__(sock)
        self._client = client
        self.begin()

    def begin(self) -> None:
        """A request begins to arrive."""
        self.is_head = True
        self._waited_s, self._came, self._is_given_up = 0.0, 0, False

    def chunk(self, size_hint: int | None = None) -> bytes:
        """What has come. Raises `NoMoreData` for a slow head and `RequestTimeout`, which is answered, for a slow body; then no more."""
        if self._is_given_up:
            return b""
        size = max(self.mxchunk, min(size_hint or 0, self.max_body_chunk))
        try:
            content: bytes = self.sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._wait()
            content = self.sock.recv(size)
        self._came += len(content)
        return content

    def _wait(self) -> None:
        """Until something has come."""
        coming = select.poll()
        coming.register(self.sock, select.POLLIN)
        has_come: object = False
        with _waiting():
            while not has_come:
                if self._waited_s > _allowed_s() + self._came / SLOWEST:
                    self._give_up()
                began = time.monotonic()
                has_come = coming.poll(LOOK_S * 1000)
                self._waited_s += time.monotonic() - began

    def _give_up(self) -> None:
        self._is_given_up = True
        log.warning("slow_client", address=self._client[0] if self._client else "", waited_s=round(self._waited_s, 1), came=self._came)
        if self.is_head:
            raise NoMoreData
        raise RequestTimeout(f"The request did not arrive: {self._came:,} bytes came. Send it again over a faster connection.")


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
    return min(settings().arrival_s, CROWDED_S) if _crowd[0] * 2 > settings().web_threads else settings().arrival_s


def _add(threads: int) -> None:
    with _lock:
        _crowd[0] += threads
