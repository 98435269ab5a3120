"""The Redis client, for a URL of redis-py or of Sentinel, which names the current primary at each new connection.

A Sentinel URL is `redis+sentinel://user:password@host:port,host:port/service/0`, or `rediss+sentinel://` where all of them use TLS.
Its query is that of other Redis URLs; `sentinel_password` is the password of the sentinels.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis import ConnectionPool, Redis
from redis.connection import Connection, SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import ReadOnlyError
from redis.sentinel import Sentinel

COOLDOWN_S = 5.0  # after Redis failed, submissions do not wait for it again for this long
SENTINEL_PORT = 26379
SENTINEL_TIMEOUT_S = 0.5
TLS_OPTIONS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname")  # used for the sentinels too

Address = tuple[str, int]


class Client(Redis):
    """A Redis client for both kinds of URLs. RQ's commands accept it as `--connection-class`."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Redis:
        return cls.from_pool(ConnectionPool(**{**options_of(url), **options}))


def options_of(url: str) -> dict[str, Any]:
    """The options of a connection pool for this URL. Raises ValueError for an invalid one."""
    parts = urlsplit(url)
    scheme, _, variant = parts.scheme.partition("+")
    if variant != "sentinel":
        return parse_url(url)  # type: ignore[no-any-return]
    service, _, number = parts.path.strip("/").partition("/")
    login, _, hosts = parts.netloc.rpartition("@")
    if not service or not hosts:
        raise ValueError("use redis+sentinel://host:port,host:port/service/0")
    options = parse_url(urlunsplit((scheme, f"{login}@primary", f"/{number or 0}", parts.query, "")))
    del options["host"]
    kind = PrimarySSLConnection if scheme == "rediss" else PrimaryConnection
    sentinels = [urlsplit(f"//{host}") for host in hosts.split(",")]
    addresses = tuple((one.hostname or "", one.port or SENTINEL_PORT) for one in sentinels)
    return {**options, "connection_class": kind, "sentinels": addresses, "service": service}


class PrimaryConnection(Connection):
    """A connection to the server that is the primary when it connects."""

    def __init__(self, *, sentinels: tuple[Address, ...], service: str, sentinel_password: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        login = {"password": sentinel_password} if sentinel_password else {}
        tls = {"ssl": True} if isinstance(self, SSLConnection) else {}
        self._sentinel_options = {**login, **tls, **{name: options[name] for name in TLS_OPTIONS if name in options}}
        self._sentinels, self._service = sentinels, service

    def connect_check_health(self, *given: Any, **options: Any) -> None:
        """Connect to the current primary. Raises RedisError when no sentinel answers, or none knows a primary."""
        if not self._sock:
            self.host, self.port = _sentinel(self._sentinels, *self._sentinel_options.items()).discover_master(self._service)
        super().connect_check_health(*given, **options)

    def read_response(self, *given: Any, **options: Any) -> Any:
        """Read a response. A primary that became a replica answers READONLY: the next command connects to its successor."""
        try:
            return super().read_response(*given, **options)
        except ReadOnlyError as error:
            self.disconnect()
            raise RedisAway("this Redis server is no longer the primary") from error


class PrimarySSLConnection(PrimaryConnection, SSLConnection):
    """A connection to the primary over TLS."""


@cache
def _sentinel(addresses: tuple[Address, ...], *options: tuple[str, Any]) -> Sentinel:
    timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    return Sentinel(list(addresses), **timeouts, **dict(options))


class RedisCooldown:
    """A pause of COOLDOWN_S after Redis failed, in which this process does not wait for it again."""

    def __init__(self) -> None:
        self._ends_at = 0.0

    @property
    def is_active(self) -> bool:
        return time.monotonic() < self._ends_at

    def start(self) -> None:
        self._ends_at = time.monotonic() + COOLDOWN_S

    def end(self) -> None:
        self._ends_at = 0.0
