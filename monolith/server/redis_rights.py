"""What the server of REDIS_URL and its user allow; for `manage.py doctor`."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError
from rq.defaults import RQ_KEY_PREFIX

KEY = f"{RQ_KEY_PREFIX}:refused:doctor"  # a text for ten seconds: commands on other types do nothing to it, and are refused all the same
OPTIONAL: tuple[tuple[Any, ...], ...] = (("INFO", "server"), ("CLIENT", "ID"), ("CLIENT", "TRACKING", "OFF"))
NEEDED: tuple[tuple[Any, ...], ...] = (
    ("SET", KEY, "", "EX", 10),
    *(
        (name, KEY)
        for name in ("GET", "TYPE", "EXISTS", "TTL", "HGETALL", "HKEYS", "LLEN", "LPOP", "SMEMBERS", "SCARD", "ZCARD", "ZPOPMIN")
    ),
    *((name, KEY, "x") for name in ("HGET", "HMGET", "HEXISTS", "HDEL", "LPUSH", "RPUSH", "SADD", "SREM", "SISMEMBER", "ZREM", "ZSCORE")),
    ("HSET", KEY, "x", "x"),
    ("HINCRBY", KEY, "x", 1),
    ("HINCRBYFLOAT", KEY, "x", 1),
    ("LINDEX", KEY, 0),
    ("LRANGE", KEY, 0, 0),
    ("LREM", KEY, 0, "x"),
    ("LPOS", KEY, "x"),
    ("ZADD", KEY, 0, "x"),
    ("ZINCRBY", KEY, 1, "x"),
    ("ZRANGE", KEY, 0, 0),
    ("ZRANGEBYSCORE", KEY, 0, 0),
    ("ZREMRANGEBYSCORE", KEY, 0, 0),
    ("XADD", KEY, "*", "x", "x"),
    ("XREVRANGE", KEY, "+", "-"),
    ("INCRBYFLOAT", KEY, 1),
    ("EXPIRE", KEY, 10),
    ("SCAN", 0, "COUNT", 1),
    ("RENAME", KEY, KEY),
    ("SCRIPT", "LOAD", "return 1"),
    ("EVALSHA", "0" * 40, 0),
    ("PUBLISH", f"{RQ_KEY_PREFIX}:pubsub:doctor", "{}"),
    ("UNWATCH",),
    ("MULTI",),
    ("DISCARD",),
    ("PERSIST", KEY),
    ("DEL", KEY),
)


def is_cluster(client: Redis) -> bool:
    """Whether it is a node of a Redis Cluster. Raises RedisError when it does not answer."""
    try:
        return bool(client.info("cluster").get("cluster_enabled"))
    except NoPermissionError:
        pass
    try:
        client.execute_command("CLUSTER", "INFO")
    except ResponseError:  # a server without cluster mode refuses it, and so may the rights
        return False
    return True


def refused(client: Redis, commands: tuple[tuple[Any, ...], ...]) -> list[str]:
    """Those of these commands that the user may not run, or not on our keys. Raises RedisError when Redis does not answer."""
    with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        answers = pipeline.execute(raise_on_error=False)
    names = (" ".join(command[:2]) if command[0] in ("CLIENT", "SCRIPT") else command[0] for command in commands)
    return [name for name, answer in zip(names, answers, strict=True) if isinstance(answer, NoPermissionError)]
