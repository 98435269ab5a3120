"""`manage.py doctor`: checks this deployment and says how to fix each problem."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import RedisError
from redis.connection import SSLConnection
from redis.exceptions import NoPermissionError, ResponseError
from rq.defaults import RQ_KEY_PREFIX
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from monolith import logs
from monolith.config import misspelt, settings
from monolith.db import engine, postgresql_session
from monolith.errors import BadSetting, Invalid
from monolith.job_types import registry
from monolith.runner.ledger import clock_lease, counts
from monolith.runner.llm import connection_test
from monolith.runner.monitoring import alert_notifications
from monolith.runner.prefork import redis_keys
from monolith.runner.queue import rq_queues
from monolith.runner.queue.redis_client import options_of
from monolith.runner.webhooks import endpoints
from monolith.server import redis_rights, redis_server, run_all

SHORTEST_SECRET = 16  # characters
FULL = 0.9  # of the connections that a server gives
# What one process of each kind may open: docs/operations.md, "Connections".
REDIS_OF_WEB, REDIS_OF_WORKER, OF_CLOCK = rq_queues.MAX_CONNECTIONS, 2, 1
NEW_KEY = "`python3 -c 'import secrets; print(secrets.token_urlsafe(48))'`"
POOLERS = {
    "session": "through a connection pooler in session mode: each of our connections keeps one of the server's, so its "
    "default_pool_size must be as many as all processes open",
    "transaction": "through a connection pooler in transaction mode: settings are sent with each transaction, nothing is prepared; "
    "keepalives to the server are the pooler's",
}
LIMIT_OF_DATABASE = """
    SELECT least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
    )
"""


class CheckFailed(Exception):
    """Raised by a check: what is wrong, and how to fix it."""


@dataclass(frozen=True)
class CheckReport:
    """What one check found: `message` is the state, or the problem with its fix."""

    subject: str
    is_problem: bool
    message: str
    is_warning: bool = False

    def __str__(self) -> str:
        state = "PROBLEM" if self.is_problem else "WARNING" if self.is_warning else "ok"
        return f"{state:<8} {self.subject:<9} {self.message}"


def examine(release: bool = False) -> Iterator[CheckReport]:
    """Runs the checks, in the order in which to fix problems. `release`: only what a new version needs before its processes start.

    Where a setting cannot be used, nothing else is checked.
    """
    for name, meant in misspelt().items():
        yield CheckReport(
            "settings", False, f"{name} is not a setting. Did you mean {meant}? If another program reads it, all is well.", True
        )
    try:
        settings()
    except BadSetting as problem:
        yield from (CheckReport("settings", True, line) for line in problem.lines)
        return
    for subject, check in (RELEASE_CHECKS if release else CHECKS).items():
        if rq_queues.is_inline() and subject in ("redis", "eviction", "workers"):
            continue
        try:
            yield CheckReport(subject, False, check())
        except BadSetting as problem:
            yield from (CheckReport(subject, True, line) for line in problem.lines)
        except CheckFailed as problem:
            yield CheckReport(subject, True, str(problem))
        except ResponseError as error:
            fix = "Start a worker or the clock: they set such keys aside." if redis_keys.is_wrong_type(error) else "See `redis` above."
            yield CheckReport(subject, True, f"Not checked, because Redis refused it: {error}. {fix}")
        except RedisError:
            yield CheckReport(subject, True, "Not checked, because Redis cannot be reached. Fix that first.")
        except SQLAlchemyError:
            yield CheckReport(subject, True, "Not checked, because of the database problem above. Fix that first.")


def _settings() -> str:
    run_all.check_machine(may_be_taken=True)
    if (settings().public_url or "").startswith("https:") and not settings().trusted_proxies:
        raise CheckFailed(
            "PUBLIC_URL is https, but TRUSTED_PROXIES is 0: cookies are not marked Secure, and all callers seem to have one address. "
            "Set it to the number of proxies in front."
        )
    return f"home {settings().home}"


def _secret() -> str:
    if len(settings().secret_key) < SHORTEST_SECRET:
        raise CheckFailed(f"SECRET_KEY has fewer than {SHORTEST_SECRET} characters and can be guessed. Set it to the output of {NEW_KEY}.")
    return "stored in INTRAY_HOME" if settings().secret_is_kept else "set"


def _shared_secret() -> str:
    """For a release: its processes may share no disk, and each would create a secret of its own."""
    if settings().secret_is_kept:
        raise CheckFailed(
            f"SECRET_KEY is not set, so hosts without a shared disk would reject each other's sessions. Set it to the output of {NEW_KEY}."
        )
    return _secret()


def _database() -> str:
    try:
        with engine.get_engine().connect() as connection:
            is_pooled = postgresql_session.is_pooled(connection)
        is_writable = engine.is_writable()
    except DBAPIError as error:
        reason = logs.mask(str(error.orig).strip().partition("\n\t")[0].splitlines()[-1].rstrip("."))
        raise CheckFailed(f"Cannot connect: {reason}. Check DATABASE_URL and that the database is running.") from error
    if not is_writable:
        raise CheckFailed(
            "The database is read-only. Let DATABASE_URL name the primary, or end what keeps it read-only (default_transaction_read_only, "
            "a full disk, the permissions of the file)."
        )
    mode = _pooler_mode() if is_pooled else ""
    if not engine.is_current():
        raise CheckFailed("The tables are out of date. Run `manage.py db upgrade`.")
    return f"{engine.get_engine().dialect.name}, tables up to date{mode and f'; {POOLERS[mode]}'}"


def _pooler_mode() -> str:
    try:
        return postgresql_session.pooler_mode(engine.get_engine())
    except OperationalError as error:
        raise CheckFailed(
            "The connection pooler gives no second connection to PostgreSQL. In session mode raise its default_pool_size to the "
            "number of all connections, or use transaction mode."
        ) from error


def _redis() -> str:
    run_all.require_redis()
    client = rq_queues.connection()
    if redis_rights.is_cluster(client):
        raise CheckFailed("REDIS_URL is a Redis Cluster, but Intray needs all keys on one server. Use a Redis without cluster mode.")
    if missing := redis_rights.refused(client, redis_rights.NEEDED):
        raise CheckFailed(
            f"The user of REDIS_URL may not run {', '.join(missing)} on {RQ_KEY_PREFIX}:*. Allow it, for example with ACL SETUSER."
        )
    less = redis_rights.refused(client, redis_rights.OPTIONAL)
    return redis_server.address() + (f"; works, but its user may not run {', '.join(less)}" if less else "")


def _eviction() -> str:
    try:
        policy = str(rq_queues.connection().info("memory").get("maxmemory_policy", "unknown"))
    except NoPermissionError:
        return "not known, because the user of REDIS_URL may not run INFO. Make sure that maxmemory-policy is noeviction"
    if policy != "noeviction":
        raise CheckFailed(f"Redis can evict messages: its maxmemory-policy is {policy}. Set it to noeviction.")
    return policy


def _tls() -> str:
    bare = [name for name, is_bare in (("REDIS_URL", _redis_is_bare()), ("DATABASE_URL", _database_is_bare())) if is_bare]
    if bare:
        raise CheckFailed(
            f"{' and '.join(bare)}: the connection crosses the internet unencrypted. Use rediss:// and, for PostgreSQL, ?sslmode=require."
        )
    return (
        "Redis with TLS, certificate not checked"
        if "ssl_cert_reqs=none" in settings().redis_url
        else "no unencrypted connections over the internet"
    )


def _redis_is_bare() -> bool:
    if rq_queues.is_inline():
        return False
    options = options_of(settings().redis_url)
    hosts = [host for host, _ in options.get("sentinels", ())] or [options.get("host")]
    return not issubclass(options.get("connection_class", object), SSLConnection) and any(map(_is_public, hosts))


def _database_is_bare() -> bool:
    if engine.get_engine().dialect.name == "sqlite" or not _is_public(engine.get_engine().url.host):
        return False
    with engine.read_connection() as connection:  # the server would say it of its own connection, which may be the pooler's
        return not connection.connection.driver_connection.pgconn.ssl_in_use  # type: ignore[union-attr]


def _is_public(host: str | None) -> bool:
    """Whether the host is reached over the internet, and not on this machine, by a socket or in a private network."""
    with suppress(OSError, ValueError):
        return any(ipaddress.ip_address(one[4][0]).is_global for one in socket.getaddrinfo(host, None)) if host else False
    return False


def _query(sql: str) -> Any:
    with engine.read_connection() as connection:
        return connection.execute(text(sql)).scalar()


def _connections_allowed() -> str:
    """Whether the servers allow all connections that one web process, one worker and the clock may open."""
    webs, children = settings().web_concurrency, settings().worker_concurrency
    redis = webs * REDIS_OF_WEB + REDIS_OF_WORKER + OF_CLOCK
    sql = webs * settings().web_threads + children + OF_CLOCK + 1
    for server, (_, limit), wanted in (("Redis", _in_redis(), redis), ("PostgreSQL", _in_database(), sql)):
        if limit < wanted:
            raise CheckFailed(
                f"{server} allows {limit:.0f} connections, but a web process, a worker and the clock may open {wanted}. "
                "Lower WEB_CONCURRENCY, WEB_THREADS or WORKER_CONCURRENCY, or use a larger plan."
            )
    return f"at most {redis} connections to Redis and {sql} to {_database_server()} for one web process, one worker and the clock"


def _connections_used() -> str:
    for server, (used, limit) in (("Redis", _in_redis()), ("PostgreSQL", _in_database())):
        if used >= FULL * limit:
            raise CheckFailed(
                f"{used} of {limit:.0f} connections of {server} are in use. Run fewer processes, lower WEB_THREADS or "
                "WORKER_CONCURRENCY, or use a larger plan."
            )
    return f"{_in_redis()[0]} connections to Redis, {_in_database()[0]} to PostgreSQL"


def _database_server() -> str:
    return "the connection pooler (max_client_conn)" if _is_pooled() else "PostgreSQL"


def _is_pooled() -> bool:
    with engine.read_connection() as connection:
        return postgresql_session.is_pooled(connection)


def _in_redis() -> tuple[int, float]:
    """The number of connections that all clients use, and the most that Redis allows."""
    if rq_queues.is_inline():
        return 0, float("inf")
    try:
        clients = rq_queues.connection().info("clients")
    except NoPermissionError:  # not known
        return 0, float("inf")
    return int(clients["connected_clients"]), float(clients.get("maxclients", "inf"))


def _in_database() -> tuple[int, float]:
    if engine.get_engine().dialect.name == "sqlite":
        return 0, float("inf")
    used = int(_query("SELECT count(*) FROM pg_stat_activity WHERE usename = current_user"))
    return used, float("inf") if _is_pooled() else float(_query(LIMIT_OF_DATABASE))  # a pooler fills the server as it was told to


def _workers() -> str:
    missing = [name for name in rq_queues.names() if name not in rq_queues.listened()]
    if missing:
        raise CheckFailed(f"No worker is running for {', '.join(missing)}. Start one with `manage.py worker`.")
    return f"every queue has a worker: {', '.join(rq_queues.names())}"


def _clock() -> str:
    with engine.read_session() as session:
        if not clock_lease.is_ticking(session):
            raise CheckFailed("No clock is running, so retries, delayed jobs and schedules do not start. Start it with `manage.py clock`.")
    return "running"


def _llm() -> str:
    if not settings().openai_api_key:
        return "off; the built-in engine is used"
    limits = settings().llm_budget_usd or settings().llm_budget_per_user_usd
    if limits and settings().openai_model not in settings().llm_prices:
        raise CheckFailed(f"The budget has no effect, because no price is set for {settings().openai_model}. Set it in LLM_PRICES.")
    found = connection_test.run_connection_test()
    if not found["ok"]:
        raise CheckFailed(f"{found['message']} Run `manage.py ai test` to try again.")
    return f"{found['model']} answered in {found['duration_ms']} ms"


def _alerts() -> str:
    """Whether alerts reach the recipients that the settings name."""
    channels = ["the log"]
    if settings().alert_email and not settings().smtp_url:
        raise CheckFailed("ALERT_EMAIL is set, but Intray cannot send e-mail. Set SMTP_URL and MAIL_FROM too, or unset ALERT_EMAIL.")
    if settings().smtp_url:
        channels.append(f"e-mail to {_check_email()}")
    if url := settings().alert_webhook_url:
        try:
            endpoints.check_url(url)
        except Invalid as error:
            raise CheckFailed(f"ALERT_WEBHOOK_URL is not valid: {error.detail} Correct or unset it.") from error
        channels.append("a webhook")
    return f"sent to {', '.join(channels)}"


def _check_email() -> str:
    """The recipients of alert e-mails."""
    mail = registry.discover().get("email")
    if mail is None or mail.unavailable_reason:
        raise CheckFailed(f"Alerts cannot be e-mailed: {mail.unavailable_reason if mail else 'JOB_PACKAGES has no job type `email`.'}")
    if not settings().alert_email:
        return "all admins"
    try:
        mail.load_params({"to": settings().alert_email[: alert_notifications.MAX_RECIPIENTS], "subject": "x", "text": "x"}, False)
    except Invalid as error:
        raise CheckFailed(f"ALERT_EMAIL is not valid: {' '.join(one.detail for one in error.errors)} Correct or unset it.") from error
    return ", ".join(settings().alert_email)


def _sandbox() -> str:
    """A missing sandbox is not a problem: the job types that need one are off and say so."""
    build = registry.discover().get("build")
    if build is None:
        return "not needed by any job type"
    reason = build.unavailable_reason
    limits = f"{settings().sandbox_memory_mb} MB, {settings().sandbox_seconds} s"
    return f"not available: {reason}" if reason else f"works (tested just now); each project may use {limits}"


def _job_types() -> str:
    """The job types that are off here, and why. Not a problem in itself: some hosts allow no sandbox, for example."""
    broken = _broken_job_types()
    try:
        waiting = _waiting_without_type()
    except SQLAlchemyError:
        _job_types_load()
        raise
    if waiting:
        problem = f"Jobs wait for job types that this version lacks: {waiting}. Start workers of the version that has them."
        raise CheckFailed(f"{broken} {problem}".strip())
    _job_types_load()
    reasons = {name: reason for name, one in registry.discover().items() if (reason := one.unavailable_reason)}
    off = [f"{', '.join(name for name in reasons if reasons[name] == reason)} off: {reason}" for reason in dict.fromkeys(reasons.values())]
    return " ".join(off) or "all job types are available"


def _job_types_load() -> str:
    """Whether every file of job types can be imported. Else its types are off, and jobs of them wait, and fail after an hour."""
    if broken := _broken_job_types():
        raise CheckFailed(broken)
    return f"{len(registry.discover())} job types can be imported"


def _broken_job_types() -> str:
    broken = registry.broken_files()
    return logs.mask(f"Cannot import {'; '.join(map(str, broken))}. Correct that, or remove the file.") if broken else ""


def _waiting_without_type() -> str:
    with engine.read_session() as session:
        counted = counts.counts(session, "queued", "scheduled", "started")
    waiting: Counter[str] = Counter()
    for kind, number in counted.items():
        if kind.type not in registry.discover():
            waiting[kind.type] += number
    return ", ".join(f"{name} ({number:,})" for name, number in sorted(waiting.items()))


CHECKS: dict[str, Callable[[], str]] = {
    "settings": _settings,
    "secret": _secret,
    "database": _database,
    "redis": _redis,
    "eviction": _eviction,
    "tls": _tls,
    "budget": _connections_allowed,
    "crowd": _connections_used,
    "workers": _workers,
    "clock": _clock,
    "alerts": _alerts,
    "sandbox": _sandbox,
    "types": _job_types,
    "llm": _llm,
}
RELEASE_SUBJECTS = ("settings", "secret", "database", "redis", "eviction", "tls", "budget")
RELEASE_CHECKS = {subject: CHECKS[subject] for subject in RELEASE_SUBJECTS} | {"secret": _shared_secret, "types": _job_types_load}
