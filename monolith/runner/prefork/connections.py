"""The worker's two connections to Redis: one for its commands, one on which Redis reports changed queues.

An idle worker sends nothing. The first connection tracks the keys that the worker's script has read (CLIENT TRACKING, Redis 6 and
later), and Redis reports their changes to the second one, where RQ's commands arrive too. Nothing blocks in Redis, so a dead
worker's connection can take no job.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import ResponseError
from redis.retry import Retry

INVALIDATED = b"__redis__:invalidate"
TIMEOUT_S = 2.0
log = logging.getLogger("rq.worker")
Command = dict[str, Any]


class SingleConnectionPool(ConnectionPool):
    """A pool of exactly one connection, for a client that one thread uses for one command after the other."""

    def single(self) -> Any:
        if not hasattr(self, "_single"):
            self._single = self.make_connection()
        return self._single

    def get_connection(self, *args: Any, **options: Any) -> Any:
        self.single().connect()
        return self.single()

    def release(self, connection: Any) -> None:
        pass

    def disconnect(self, inuse_connections: bool = True) -> None:
        self.single().disconnect()


class Connections:
    """`client` sends commands. `receive()` returns what arrived on the other connection."""

    def __init__(self, like: Redis, channel: str) -> None:
        given = like.connection_pool.connection_kwargs.items()
        options = {name: value for name, value in given if not name.startswith("maint_notifications")}  # they need protocol 3
        options |= {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
        options |= {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
        self._pool = SingleConnectionPool(connection_class=like.connection_pool.connection_class, **options)
        self._subscriber = like.connection_pool.connection_class(**options)
        self._channel = channel
        self._subscriber_id = 0
        self.is_tracking = True  # False where the server cannot report changes: it must be asked every second
        self.client = Redis(connection_pool=self._pool)
        self._pool.single().register_connect_callback(self._track)

    def open(self) -> None:
        """Connect both, or connect them again. Raises RedisError while Redis is away."""
        self.close()
        self._subscriber.connect()
        self._subscriber.send_command("CLIENT", "ID")
        with self._refusal("CLIENT ID"):
            self._subscriber_id = self._subscriber.read_response()
        for channel in (self._channel, INVALIDATED):
            self._subscriber.send_command("SUBSCRIBE", channel)
            with self._refusal(f"SUBSCRIBE {channel!r}"):
                self._subscriber.read_response()
        self._pool.get_connection()

    def _track(self, connection: Any) -> None:
        connection.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", self._subscriber_id, "NOLOOP")
        with self._refusal("CLIENT TRACKING"):
            connection.read_response()

    @contextmanager
    def _refusal(self, command: str) -> Iterator[None]:
        """A command that an old server, a proxy, or a user without the right to refuses: the server is asked every second instead."""
        try:
            yield
        except ResponseError as error:
            if self.is_tracking:
                log.warning("Redis refused %s, so it is asked for jobs every second: %s", command, error)
            self.is_tracking = False

    def filenos(self) -> list[int]:
        """The sockets to poll. That of `client` is readable only when Redis has closed the connection."""
        connections = [self._subscriber, self._pool.single()]
        return [one._sock.fileno() for one in connections if one._sock]

    def receive(self) -> Iterator[Command | None]:
        """Each of RQ's commands that has arrived, and None for a changed queue. Raises RedisError when a connection is gone."""
        if self._pool.single().can_read(0):
            raise RedisAway("Redis closed the connection")
        while self._subscriber.can_read(0):
            message = self._subscriber.read_response()
            if message[1] == INVALIDATED:
                yield None
                continue
            try:
                command = json.loads(message[2])
            except (ValueError, TypeError, RecursionError):  # anybody may publish anything on the channel
                continue
            if isinstance(command, dict):
                yield command

    def close(self) -> None:
        self._subscriber.disconnect()
        self._pool.disconnect()

    def close_copies(self) -> None:
        """In a forked child: close its copies of the sockets. Redis sees nothing of it, and no copy outlives a dead parent."""
        for connection in (self._subscriber, self._pool.single()):
            if connection._sock:
                connection._sock.close()
