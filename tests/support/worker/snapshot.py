"""The complete state of a Redis, with what differs from run to run made alike: times, ids, addresses, ids of processes."""

from __future__ import annotations

import base64
import hashlib
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

VOLATILE = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?"), "<time>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"(127\.0\.0\.1):\d+"), r"\1:<port>"),
    (re.compile(r"0x[0-9a-f]{8,}"), "<address>"),
]
VOLATILE_FIELDS = {"total_working_time", "pid", "execution_started_at", "execution_ended_at", "created_at", "last_heartbeat"}
OURS = {"children", "memory"}  # fields that this worker alone writes, for the admin pages; RQ overlooks them
LOCKS = ("rq:clean_groups", "rq:clean_registries:")  # of maintenance, which is not about jobs
LONG = 500
SOME = 1
FRAME = re.compile(r'jobs_for_workers\.py", line \d+, in (\w+)')


@dataclass
class About:
    """A number of seconds that depends on when one looks: equal to one that is near."""

    seconds: float
    tolerance = 8.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, About) and abs(self.seconds - other.seconds) <= self.tolerance


def snapshot(connection: redis.Redis) -> dict[str, Any]:
    """Each key with its type, its time to live, and its members."""
    names = sorted(key.decode() for key in connection.scan_iter(count=1000))
    return {alike(name): _value(connection, name) for name in names if not name.startswith(LOCKS)}


def _value(connection: redis.Redis, name: str) -> tuple[str, Any, Any]:
    kind = connection.type(name).decode()
    read = READERS.get(kind)
    seconds = connection.ttl(name)
    if ":worker:" in name:
        seconds = min(seconds, SOME)  # how long it may be silent is a matter of how it beats
    return kind, seconds if seconds < 0 else About(seconds), read(connection, name) if read else None


def _hash(connection: redis.Redis, name: str) -> dict[str, Any]:
    fields = {field.decode(): value for field, value in connection.hgetall(name).items()}
    return {field: _field(field, value) for field, value in fields.items() if field not in OURS}


def _zset(connection: redis.Redis, name: str) -> list[Any]:
    members = [(alike(_text(member)), _score(score)) for member, score in connection.zrange(name, 0, -1, withscores=True)]
    return sorted(members, key=lambda member: member[0])


def _stream(connection: redis.Redis, name: str) -> list[dict[str, Any]]:
    return [{field.decode(): _field(field.decode(), value) for field, value in entry.items()} for _, entry in connection.xrange(name)]


READERS: dict[str, Callable[[redis.Redis, str], Any]] = {
    "hash": _hash,
    "zset": _zset,
    "stream": _stream,
    "string": lambda connection, name: alike(_text(connection.get(name) or b"")),
    "list": lambda connection, name: [alike(_text(one)) for one in connection.lrange(name, 0, -1)],
    "set": lambda connection, name: sorted(alike(_text(one)) for one in connection.smembers(name)),
}


def _score(score: float) -> Any:
    """Registries are ordered by when an entry expires: how far away that is."""
    return About(score - time.time()) if 1e9 < score < 1e12 else score


def _field(name: str, value: bytes) -> Any:
    if name in VOLATILE_FIELDS:
        return f"<{name}>" if value else ""
    if name == "exc_string":
        return trace(zlib.decompress(base64.b64decode(value)).decode())
    if name == "exc_info":
        return trace(zlib.decompress(value).decode())
    if name == "return_value":
        return _text(base64.b64decode(value))
    return alike(_text(_inflated(value)))


def trace(text: str) -> tuple[str, tuple[str, ...]]:
    """Of a traceback, the last line and the functions of the job it went through: what is above is the worker's own."""
    lines = text.strip().split("\n")
    return alike(lines[-1]), tuple(FRAME.findall(text))


def _inflated(value: bytes) -> bytes:
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


def _text(value: bytes) -> str:
    if len(value) > LONG:
        return f"{len(value)} bytes {hashlib.sha256(value).hexdigest()}"
    return value.decode("latin-1")


def alike(text: str) -> str:
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    return text


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where the two differ, one line each: a whole Redis in an assertion is unreadable."""
    if isinstance(expected, dict) and isinstance(found, dict):
        pairs = [(f"{path} {key}", expected.get(key, "nothing"), found.get(key, "nothing")) for key in sorted({*expected, *found})]
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        pairs = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(expected, found, strict=True))]
    else:
        return [] if expected == found else [f"{path.strip()}: stock has {expected!r}, ours {found!r}"]
    return [line for inner, one, other in pairs for line in differences(one, other, inner)]
