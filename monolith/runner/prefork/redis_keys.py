"""Keys of RQ in Redis that hold something of another type: one would stop every script and pipeline that reads it.

Somebody else wrote them. They are set aside under another name, as refused jobs are, and RQ's code makes them anew.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from redis import Redis
from rq.defaults import RQ_KEY_PREFIX

SET_ASIDE_S = 7 * 24 * 3600
AT_ONCE = 1000
REGISTRIES = ("wip", "finished", "failed", "deferred", "scheduled", "canceled")
# The first pattern that matches a key, without its prefix, has its type. What the worker's script reads for shares, it checks itself.
TYPES = tuple(
    (re.compile(pattern.encode(), re.DOTALL), kind.encode())
    for pattern, kind in {
        "queues|workers|workers:.*|worker:.*:executions": "set",
        "job:.*:(dependents|dependencies)": "set",
        "queue:.*": "list",
        f"({'|'.join(REGISTRIES)}|executions):.*": "zset",
        "results:.*": "stream",
        "(worker|job|execution):.*": "hash",
    }.items()
)
log = logging.getLogger("rq.worker")


def is_wrong_type(error: BaseException) -> bool:
    """Whether Redis has answered that a key holds another type than the command needs."""
    return "WRONGTYPE" in str(error)


def keys_of(queues: Iterable[str], worker: str) -> list[bytes]:
    """The keys that a worker needs to start."""
    names = ["queues", "workers", f"worker:{worker}", f"worker:{worker}:executions"]
    names += [f"{kind}:{queue}" for queue in queues for kind in ("queue", "workers", *REGISTRIES)]
    return [f"{RQ_KEY_PREFIX}:{name}".encode() for name in names]


def set_aside(client: Redis, keys: Iterable[bytes] | None = None) -> list[bytes]:
    """Rename those of these keys, or of all keys of RQ, whose type is wrong. Returns them. Raises RedisError."""
    found: list[bytes] = []
    some: list[bytes] = []
    for key in client.scan_iter(f"{RQ_KEY_PREFIX}:*", count=AT_ONCE) if keys is None else keys:
        some.append(key)
        if len(some) == AT_ONCE:
            found += _wrong(client, some)
            some = []
    found += _wrong(client, some)
    for key in found:
        refused = f"{RQ_KEY_PREFIX}:refused:".encode() + key
        client.rename(key, refused)
        client.expire(refused, SET_ASIDE_S)
        log.error("The key %.200r of Redis held something of another type. It is now %.200r.", key, refused)
    return found


def _wrong(client: Redis, keys: list[bytes]) -> list[bytes]:
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.type(key)
        kinds = pipeline.execute() if keys else []
    return [key for key, kind in zip(keys, kinds, strict=True) if kind not in (b"none", _type_of(key) or kind)]


def _type_of(key: bytes) -> bytes | None:
    name = key.removeprefix(f"{RQ_KEY_PREFIX}:".encode())
    return next((kind for pattern, kind in TYPES if pattern.fullmatch(name)), None)
