"""The way to Redis: a URL of redis-py, or one of Sentinel, which names the primary anew whenever somebody connects.

`redis+sentinel://user:password@host:port,host:port/service/0`, or `rediss+sentinel://` where all of them speak TLS. What stands
after `?` is as in other URLs of Redis; `sentinel_password` is that of the sentinels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis import ConnectionPool, Redis
from redis.connection import Connection, SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import ReadOnlyError
from redis.sentinel import Sentinel

BREAK_S = 5.0  # after Redis failed, submissions do not wait for it again for this long
SENTINEL_PORT = 26379
SENTINEL_ANSWERS_WITHIN_S = 0.5
OF_TLS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname")  # what the sentinels are asked with too

Address = tuple[str, int]


class Client(Redis):
    """A client for either kind of URL. RQ's commands take it as `--connection-class`."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Redis:
        return cls.from_pool(ConnectionPool(**options_of(url), **options))


def options_of(url: str) -> dict[str, Any]:
    """What a connection pool is made with. Raises ValueError for what is no URL of Redis."""
    parts = urlsplit(url)
    scheme, _, way = parts.scheme.partition("+")
    if way != "sentinel":
        return parse_url(url)  # type: ignore[no-any-return]
    service, _, number = parts.path.strip("/").partition("/")
    login, _, hosts = parts.netloc.rpartition("@")
    if not service or not hosts:
        raise ValueError("use redis+sentinel://host:port,host:port/service/0")
    options = parse_url(urlunsplit((scheme, f"{login}@primary", f"/{number or 0}", parts.query, "")))
    del options["host"]
    kind = PrimarySSLConnection if scheme == "rediss" else PrimaryConnection
    return {**options, "connection_class": kind, "sentinels": tuple(_addresses(hosts)), "service": service}


def _addresses(hosts: str) -> Iterator[Address]:
    for host in hosts.split(","):
        parts = urlsplit(f"//{host}")
        yield parts.hostname or "", parts.port or SENTINEL_PORT


class PrimaryConnection(Connection):
    """A connection to whoever is the primary when it connects."""

    def __init__(self, *, sentinels: tuple[Address, ...], service: str, sentinel_password: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        login = {"password": sentinel_password} if sentinel_password else {}
        tls = {"ssl": True} if isinstance(self, SSLConnection) else {}
        self._asked_with = {**login, **tls, **{name: options[name] for name in OF_TLS if name in options}}
        self._sentinels, self._service = sentinels, service

    def connect_check_health(self, *given: Any, **options: Any) -> None:
        """Raises RedisError where no sentinel answers, or none knows a primary."""
        if not self._sock:
            self.host, self.port = _sentinel(self._sentinels, *self._asked_with.items()).discover_master(self._service)
        super().connect_check_health(*given, **options)

    def read_response(self, *given: Any, **options: Any) -> Any:
        """A primary that became a replica answers READONLY: the next command finds its successor."""
        try:
            return super().read_response(*given, **options)
        except ReadOnlyError as error:
            self.disconnect()
            raise RedisAway("this Redis server is no longer the primary") from error


class PrimarySSLConnection(PrimaryConnection, SSLConnection):
    """The same over TLS."""


@cache
def _sentinel(addresses: tuple[Address, ...], *options: tuple[str, Any]) -> Sentinel:
    patience = {"socket_timeout": SENTINEL_ANSWERS_WITHIN_S, "socket_connect_timeout": SENTINEL_ANSWERS_WITHIN_S}
    return Sentinel(list(addresses), **patience, **dict(options))


class RedisCooldown:
    """Opens when Redis failed: for BREAK_S nobody waits for it again."""

    def __init__(self) -> None:
        self._closes_at = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._closes_at

    def open(self) -> None:
        self._closes_at = time.monotonic() + BREAK_S

    def close(self) -> None:
        self._closes_at = 0.0
