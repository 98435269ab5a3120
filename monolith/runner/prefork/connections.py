"""The worker's two connections to Redis: one to ask, one that hears when to ask again.

An idle worker sends nothing. Redis tells it that a queue has changed: the asking connection tracks the keys that its script has
read (CLIENT TRACKING, Redis 6 and later), and what changes is said to the hearing one, where RQ's commands arrive too.
Nothing blocks in Redis, so a dead worker's connection can swallow no job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from redis import ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import ResponseError
from redis.retry import Retry

INVALIDATED = b"__redis__:invalidate"
ANSWERS_WITHIN_S = 2.0
Command = dict[str, Any]


class SingleConnectionPool(ConnectionPool):
    """A pool of exactly one connection, for a client that one thread uses for one command after the other."""

    def the_one(self) -> Any:
        if not hasattr(self, "_the_one"):
            self._the_one = self.make_connection()
        return self._the_one

    def get_connection(self, *args: Any, **options: Any) -> Any:
        self.the_one().connect()
        return self.the_one()

    def release(self, connection: Any) -> None:
        pass

    def disconnect(self, inuse_connections: bool = True) -> None:
        self.the_one().disconnect()


class Connections:
    """`client` asks. `hear()` gives what the other connection heard."""

    def __init__(self, like: Redis, channel: str) -> None:
        given = like.connection_pool.connection_kwargs.items()
        options = {name: value for name, value in given if not name.startswith("maint_notifications")}  # they need protocol 3
        options |= {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
        options |= {"socket_timeout": ANSWERS_WITHIN_S, "socket_connect_timeout": ANSWERS_WITHIN_S}
        self._asking = SingleConnectionPool(connection_class=like.connection_pool.connection_class, **options)
        self._hearing = like.connection_pool.connection_class(**options)
        self._channel = channel
        self._hearing_id = 0
        self.is_told = True  # False where the server cannot tell us of changes: we must ask every second
        self.client = Redis(connection_pool=self._asking)
        self._asking.the_one().register_connect_callback(self._track)

    def open(self) -> None:
        """Connect both, also again. Raises RedisError while Redis is away."""
        self.close()
        self._hearing.connect()
        self._hearing.send_command("CLIENT", "ID")
        self._hearing_id = self._hearing.read_response()
        self._hearing.send_command("SUBSCRIBE", self._channel, INVALIDATED)
        for _ in range(2):
            self._hearing.read_response()
        self._asking.get_connection()

    def _track(self, connection: Any) -> None:
        connection.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", self._hearing_id, "NOLOOP")
        try:
            connection.read_response()
        except ResponseError:  # an old server, a proxy, or a user who may not
            self.is_told = False

    def filenos(self) -> list[int]:
        """What to poll. The asking one is readable only when Redis has hung up."""
        connections = [self._hearing, self._asking.the_one()]
        return [one._sock.fileno() for one in connections if one._sock]

    def hear(self) -> Iterator[Command | None]:
        """Each command of RQ that has come, and None for a change. Raises RedisError when a connection is gone."""
        if self._asking.the_one().can_read(0):
            raise RedisAway("Redis closed the connection")
        while self._hearing.can_read(0):
            message = self._hearing.read_response()
            if message[1] == INVALIDATED:
                yield None
            elif isinstance(said := _read(message[2]), dict):
                yield said

    def close(self) -> None:
        self._hearing.disconnect()
        self._asking.disconnect()

    def forget(self) -> None:
        """For a forked child: close our copies, which says nothing to Redis and keeps no connection alive for a dead parent."""
        for connection in (self._hearing, self._asking.the_one()):
            if connection._sock:
                connection._sock.close()


def _read(said: bytes) -> Any:
    """What somebody published; None for what is no JSON: anybody may say anything on a channel."""
    try:
        return json.loads(said)
    except (ValueError, TypeError, RecursionError):
        return None
