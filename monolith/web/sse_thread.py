"""One thread of a web process writes to all its open streams, so that none of them holds a thread.

A request that opens a stream is answered as any other is; then `web.Worker` hands its connection over to here.
Where there is no such server, as in tests, the stream is written by the thread that asked for it.
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
from sqlalchemy.exc import OperationalError

from monolith.config import settings
from monolith.documents.event_stream import GREETING, HEARTBEAT, Feed, Stream

TICK_S = 0.25  # how often the ledger is asked while anybody listens
AWAY_S = 2.0  # the same, after it did not answer
HEARTBEAT_S = 15.0  # routers end a connection on which nothing comes for 55 s
LEAVING_S = 2.0
MAX_UNSENT = 256 * 1024  # bytes that a slow reader has not taken: then it has to come back

log = structlog.get_logger()


class HandedOver(BaseException):
    """Raised by an answer's body after its beginning: what follows is written by the switchboard. Only the server may catch it."""

    def __init__(self, take: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self.take = take


@dataclass(eq=False)
class Connection:
    """An open connection, and what its client has not taken yet."""

    socket: socket.socket
    stream: Stream
    is_chunked: bool
    unsent: bytearray = field(default_factory=bytearray)
    said_at: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        content = text.encode()
        self.unsent += b"%x\r\n%b\r\n" % (len(content), content) if self.is_chunked else content
        self.said_at = time.monotonic()

    def say_end(self) -> None:
        if self.is_chunked:
            self.unsent += b"0\r\n\r\n"

    def send(self) -> None:
        """As much as the client takes without waiting. Raises OSError when it is gone."""
        with suppress(BlockingIOError):
            while self.unsent:
                del self.unsent[: self.socket.send(self.unsent)]

    def hear(self) -> None:
        """Clients of a stream say nothing; at the end of their connection that is read. Raises OSError then."""
        with suppress(BlockingIOError):
            if not self.socket.recv(4096):
                raise ConnectionResetError


class SseThread(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="switchboard", daemon=True)
        self._lines: set[Connection] = set()
        self._coming: deque[Connection] = deque()
        self._feed = Feed()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._tick_at = 0.0
        self.is_ending = False
        self.start()

    # ---- called by other threads

    def has_room(self, user_id: int) -> bool:
        """Whether this user may open one more. As many as are asking at this moment may come in beside."""
        users = Counter(line.stream.user_id for line in list(self._lines))
        if self.is_ending or users.total() >= settings().max_streams:
            return False
        return users[user_id] < settings().max_streams_per_user

    def take(self, line: Connection) -> None:
        """From now on its connection is ours."""
        self._coming.append(line)
        self._awake()

    def end(self) -> None:
        """End all streams at once; browsers come back to whoever listens then. Fit for a signal's handler."""
        self.is_ending = True
        self._awake()

    def _awake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake, b"!")

    # ---- the thread

    def run(self) -> None:
        while not self.is_ending:
            self._wait()
            self._welcome()
            if self._lines and time.monotonic() >= self._tick_at:
                self._tick()
        self._welcome()
        for line in list(self._lines):
            self._close(line)
        self._selector.close()

    def _wait(self) -> None:
        """Until the next tick, and meanwhile do what the connections ask for. Where nobody listens nothing is done at all."""
        within_s = max(0.0, self._tick_at - time.monotonic()) if self._lines else None
        for key, ready in self._selector.select(within_s):
            if key.data is None:
                os.read(self._woken, 4096)
            else:
                self._serve(key.data, ready)

    def _serve(self, line: Connection, ready: int) -> None:
        try:
            if ready & selectors.EVENT_READ:
                line.hear()
            self._send(line)
        except OSError:
            self._drop(line)

    def _send(self, line: Connection) -> None:
        line.send()
        waits_for = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.unsent else 0)
        if self._selector.get_key(line.socket).events != waits_for:
            self._selector.modify(line.socket, waits_for, line)

    def _welcome(self) -> None:
        while self._coming:
            line = self._coming.popleft()
            line.socket.setblocking(False)
            self._selector.register(line.socket, selectors.EVENT_READ, line)
            self._lines.add(line)

    def _tick(self) -> None:
        """Tell all of them what is new."""
        by_stream = {id(line.stream): line for line in self._lines}
        try:
            for stream, text in self._feed.read([line.stream for line in self._lines]):
                self._say(by_stream[id(stream)], text)
            self._tick_at = time.monotonic() + TICK_S
        except OperationalError as error:
            log.warning("database_away", error=str(error.orig))
            self._tick_at = time.monotonic() + AWAY_S
        except Exception:  # a mistake of ours about one stream must not silence the others for ever
            log.exception("streams_not_told")
            self._tick_at = time.monotonic() + AWAY_S
        for line in list(self._lines):
            self._tend(line)

    def _say(self, line: Connection, text: str) -> None:
        if text:
            line.say(text)
            self._serve(line, 0)

    def _tend(self, line: Connection) -> None:
        """A line lives by what is said on it, and ends with its job, with its age, or when its client does not take what is said."""
        is_idle = time.monotonic() - line.said_at > HEARTBEAT_S
        if len(line.unsent) > MAX_UNSENT or (is_idle and line.unsent):
            self._drop(line)
        elif line.stream.is_over or line.stream.is_old:
            self._close(line)
        elif is_idle:
            self._say(line, HEARTBEAT)

    def _close(self, line: Connection) -> None:
        """End it in order, as far as the client listens."""
        line.say_end()
        with suppress(OSError):
            line.send()
        self._drop(line)

    def _drop(self, line: Connection) -> None:
        if line in self._lines:
            self._lines.remove(line)
            self._selector.unregister(line.socket)
            line.socket.close()


_switchboards: list[SseThread] = []


def start() -> None:
    """Let this process hand its streams over: for a server that does so."""
    _switchboards[:] = [SseThread()]


def leave() -> None:
    """End them all, before the process does."""
    if board := current():
        board.end()
        board.join(LEAVING_S)


def current() -> SseThread | None:
    return _switchboards[0] if _switchboards else None


def body(stream: Stream, first: str, is_chunked: bool) -> Iterator[str]:
    """What the answer consists of. The server writes its beginning, and then hands the connection over."""
    yield GREETING + first
    if stream.is_over:
        return
    if board := current():
        raise HandedOver(lambda connection: board.take(Connection(connection, stream, is_chunked)))
    yield from _alone(stream)


def _alone(stream: Stream) -> Iterator[str]:
    feed, said_at = Feed(), time.monotonic()
    while not stream.is_over and not stream.is_old:
        text = "".join(text for _, text in feed.read([stream]))
        if not text and time.monotonic() - said_at > HEARTBEAT_S:
            text = HEARTBEAT
        if text:
            said_at = time.monotonic()
            yield text
        time.sleep(TICK_S)
