"""The doctor: each trouble of a deployment is found, and its mend is said; a release asks for what it needs and no more."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from redis import Redis

from monolith.config import settings
from monolith.server import doctor
from tests.support.hosts.pgbouncer import pgbouncer

Settings = Callable[..., None]
OF_A_RELEASE = ["settings", "secret", "database", "redis", "eviction", "tls", "budget", "types"]
NOWHERE = "redis://8.8.8.8:1"  # a public address; nothing is sent but the attempt to connect


def trouble(release: bool = False) -> dict[str, str]:
    """What the doctor says of each subject that is in trouble."""
    return {finding.subject: finding.message for finding in doctor.examine(release) if finding.is_problem}


def test_a_release_needs_no_worker_and_no_clock_and_a_running_deployment_does(intray_settings: Settings) -> None:
    intray_settings(SECRET_KEY="k" * 40)
    assert trouble(release=True) == {}
    assert [finding.subject for finding in doctor.examine(release=True)] == OF_A_RELEASE
    assert set(trouble()) == {"workers", "clock"}
    assert "manage.py worker" in trouble()["workers"] and "manage.py clock" in trouble()["clock"]


@pytest.mark.parametrize(
    ("key", "release", "said"),
    [("", True, "SECRET_KEY is not set"), ("hunter2", True, "can be guessed"), ("hunter2", False, "can be guessed"), ("", False, None)],
    ids=["none in a release", "short in a release", "short", "none on a laptop"],
)
def test_a_secret_that_hosts_do_not_share_or_that_is_short_is_a_problem(
    intray_settings: Settings, key: str, release: bool, said: str | None
) -> None:
    intray_settings(SECRET_KEY=key)
    found = trouble(release).get("secret")
    assert (found is None) if said is None else (found and said in found and "secrets.token_urlsafe" in found)


def test_a_redis_that_throws_messages_away_stops_a_release(intray_settings: Settings, redis_url: str) -> None:
    intray_settings(SECRET_KEY="k" * 40)
    with Redis.from_url(redis_url) as redis:
        redis.config_set("maxmemory-policy", "volatile-lru")
        try:
            assert "Set it to noeviction" in trouble(release=True)["eviction"]
        finally:
            redis.config_set("maxmemory-policy", "noeviction")


def test_a_redis_that_is_away_stops_a_release(intray_settings: Settings) -> None:
    intray_settings(REDIS_URL="redis://127.0.0.1:1", SECRET_KEY="k" * 40)
    assert "Correct REDIS_URL" in trouble(release=True)["redis"]


def test_what_crosses_the_internet_unencrypted_is_a_problem(intray_settings: Settings) -> None:
    intray_settings(REDIS_URL=NOWHERE, SECRET_KEY="k" * 40)
    assert "REDIS_URL: the connection crosses the internet unencrypted" in trouble(release=True)["tls"]
    intray_settings(REDIS_URL=NOWHERE.replace("redis://", "rediss://"))
    assert "tls" not in trouble(release=True)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_the_way_by_sentinel_is_looked_at_too(intray_settings: Settings, scheme: str) -> None:
    intray_settings(REDIS_URL=f"{scheme}+sentinel://8.8.8.8:1,127.0.0.1:1/main", SECRET_KEY="k" * 40)
    assert ("tls" in trouble(release=True)) is (scheme == "redis")


@pytest.mark.databases
def test_a_plan_with_too_few_connections_is_a_problem_before_they_run_out(intray_settings: Settings) -> None:
    if "postgresql" not in settings().database_url:
        intray_settings(SECRET_KEY="k" * 40, WEB_CONCURRENCY="5000")
        assert "Redis allows" in trouble(release=True)["budget"]
        return
    intray_settings(SECRET_KEY="k" * 40)
    url, _, name = settings().database_url.replace("+psycopg", "").rpartition("/")
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 10")
        assert "PostgreSQL allows 10 connections" in trouble(release=True)["budget"]
        intray_settings(WEB_THREADS="2", WORKER_CONCURRENCY="2")
        assert trouble(release=True) == {}
        connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 1")
        assert "of 1 connections of PostgreSQL are in use" in trouble()["crowd"]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("mode", "size", "said"),
    [
        ("session", 5, "pooler in session mode"),
        ("transaction", 1, "pooler in transaction mode"),
        ("transaction", 5, "pooler in transaction mode"),
    ],
)
def test_a_pooler_and_its_mode_are_said(intray_settings: Settings, database_url: str, mode: str, size: int, said: str) -> None:
    with pgbouncer(database_url, mode, size) as url:
        intray_settings(DATABASE_URL=url, SECRET_KEY="k" * 40)
        found = {one.subject: one for one in doctor.examine(release=True)}
        assert said in found["database"].message and "pooler (max_client_conn)" in found["budget"].message
        assert [one for one in found.values() if one.is_problem] == []


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("mode", "said"), [("session", "raise its default_pool_size"), ("statement", "not allowed in statement pooling mode")]
)
def test_a_pooler_that_cannot_serve_is_a_problem(intray_settings: Settings, database_url: str, mode: str, said: str) -> None:
    with pgbouncer(database_url, mode, pool_size=1, wait_s=1) as url:
        intray_settings(DATABASE_URL=url, SECRET_KEY="k" * 40)
        assert said in trouble(release=True)["database"]
