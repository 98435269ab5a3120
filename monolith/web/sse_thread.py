"""One thread of a web process that writes to all its open event streams, so that a stream does not occupy a thread of its own.

A request that opens a stream starts its response like any other; then `server/gunicorn_worker.py` hands the connection over to this
thread. Without that server, as in tests, the thread of the request writes the stream.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from monolith.config import settings
from monolith.db.away import DatabaseAway, Outage
from monolith.documents.event_stream import GREETING, HEARTBEAT, Feed, Stream

TICK_S = 0.25  # how often the ledger is read while a stream is open
ERROR_TICK_S = 2.0  # after the ledger could not be read
HEARTBEAT_S = 15.0  # routers end a connection that is silent for 55 s
STOP_TIMEOUT_S = 2.0
MAX_UNSENT = 256 * 1024  # bytes a slow client has not read; then the connection is closed, and the client reconnects

log = structlog.get_logger()


class HandedOver(BaseException):
    """Raised by the body of a response after its first part: the SSE thread writes the rest. Only the server may catch it."""

    def __init__(self, take: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self.take = take


@dataclass(eq=False)
class Connection:
    """An open connection, and the bytes that are not sent yet."""

    socket: socket.socket
    stream: Stream
    is_chunked: bool
    unsent: bytearray = field(default_factory=bytearray)
    written_at: float = field(default_factory=time.monotonic)

    def write(self, text: str) -> None:
        """Append text to what is to be sent."""
        content = text.encode()
        self.unsent += b"%x\r\n%b\r\n" % (len(content), content) if self.is_chunked else content
        self.written_at = time.monotonic()

    def write_end(self) -> None:
        """Append the end of a chunked body."""
        if self.is_chunked:
            self.unsent += b"0\r\n\r\n"

    def send(self) -> None:
        """Send as much as possible without blocking. Raises OSError when the client has disconnected."""
        with suppress(BlockingIOError):
            while self.unsent:
                del self.unsent[: self.socket.send(self.unsent)]

    def check_open(self) -> None:
        """Raises OSError when the client has disconnected. Clients of a stream send nothing else."""
        with suppress(BlockingIOError):
            if not self.socket.recv(4096):
                raise ConnectionResetError


class SseThread(threading.Thread):
    """The thread, with a selector over all its connections. It starts on creation."""

    def __init__(self) -> None:
        super().__init__(name="sse", daemon=True)
        self._connections: set[Connection] = set()
        self._new: deque[Connection] = deque()
        self._feed = Feed()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._tick_at = 0.0
        self._outage = Outage()
        self.is_ending = False
        self.start()

    # ---- called by other threads

    def has_room(self, user_id: int) -> bool:
        """Whether this user may open one more stream. Requests that ask at the same moment may all get one."""
        users = Counter(connection.stream.user_id for connection in list(self._connections))
        if self.is_ending or users.total() >= settings().max_streams:
            return False
        return users[user_id] < settings().max_streams_per_user

    def take(self, connection: Connection) -> None:
        """Take over an open connection."""
        self._new.append(connection)
        self._wake_up()

    def end(self) -> None:
        """Close all streams at once; browsers reconnect to another process. Safe in a signal handler."""
        self.is_ending = True
        self._wake_up()

    def _wake_up(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake, b"!")

    # ---- the thread

    def run(self) -> None:
        while not self.is_ending:
            self._wait()
            self._add_new()
            if self._connections and time.monotonic() >= self._tick_at:
                self._tick()
        self._add_new()
        for connection in list(self._connections):
            self._close(connection)
        self._selector.close()

    def _wait(self) -> None:
        """Serve the connections until the next tick. Without any connection, sleep until there is one."""
        within_s = max(0.0, self._tick_at - time.monotonic()) if self._connections else None
        for key, ready in self._selector.select(within_s):
            if key.data is None:
                os.read(self._woken, 4096)
            else:
                self._serve(key.data, ready)

    def _serve(self, connection: Connection, ready: int) -> None:
        """Send what is unsent, and drop the connection if the client has disconnected."""
        try:
            if ready & selectors.EVENT_READ:
                connection.check_open()
            self._send(connection)
        except OSError:
            self._drop(connection)

    def _send(self, connection: Connection) -> None:
        connection.send()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if self._selector.get_key(connection.socket).events != events:
            self._selector.modify(connection.socket, events, connection)

    def _add_new(self) -> None:
        while self._new:
            connection = self._new.popleft()
            connection.socket.setblocking(False)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._connections.add(connection)

    def _tick(self) -> None:
        """Write new events to all connections."""
        by_stream = {id(connection.stream): connection for connection in self._connections}
        try:
            for stream, text in self._feed.read([connection.stream for connection in self._connections]):
                self._write(by_stream[id(stream)], text)
            self._tick_at = time.monotonic() + TICK_S
            self._outage.ended()
        except DatabaseAway as error:
            self._outage.began(error)
            self._tick_at = time.monotonic() + ERROR_TICK_S
        except Exception:  # an error about one stream must not stop the others for ever
            log.exception("streams_failed")
            self._tick_at = time.monotonic() + ERROR_TICK_S
        for connection in list(self._connections):
            self._check(connection)

    def _write(self, connection: Connection, text: str) -> None:
        if text:
            connection.write(text)
            self._serve(connection, 0)

    def _check(self, connection: Connection) -> None:
        """Close the connection when its job is over, it is too old, or its client does not read; else keep it alive."""
        is_idle = time.monotonic() - connection.written_at > HEARTBEAT_S
        if len(connection.unsent) > MAX_UNSENT or (is_idle and connection.unsent):
            self._drop(connection)
        elif connection.stream.is_over or connection.stream.is_old:
            self._close(connection)
        elif is_idle:
            self._write(connection, HEARTBEAT)

    def _close(self, connection: Connection) -> None:
        """End the response properly if the client still reads, and drop the connection."""
        connection.write_end()
        with suppress(OSError):
            connection.send()
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._selector.unregister(connection.socket)
            connection.socket.close()


_threads: list[SseThread] = []  # of this process: one or none


def start() -> None:
    """Start the thread of this process. Called by a server that catches `HandedOver`."""
    _threads[:] = [SseThread()]


def leave() -> None:
    """Close all streams before the process ends; waits STOP_TIMEOUT_S at most."""
    if thread := current():
        thread.end()
        thread.join(STOP_TIMEOUT_S)


def current() -> SseThread | None:
    """The thread of this process; None without a server that starts it."""
    return _threads[0] if _threads else None


def body(stream: Stream, first: str, is_chunked: bool) -> Iterator[str]:
    """The body of a response: its first part; then the connection is handed over, or the stream is written here."""
    yield GREETING + first
    if stream.is_over:
        return
    if thread := current():
        raise HandedOver(lambda taken: thread.take(Connection(taken, stream, is_chunked)))
    yield from _without_thread(stream)


def _without_thread(stream: Stream) -> Iterator[str]:
    feed, written_at = Feed(), time.monotonic()
    while not stream.is_over and not stream.is_old:
        text = "".join(text for _, text in feed.read([stream]))
        if not text and time.monotonic() - written_at > HEARTBEAT_S:
            text = HEARTBEAT
        if text:
            written_at = time.monotonic()
            yield text
        time.sleep(TICK_S)
