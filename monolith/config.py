"""All settings, read once from the environment. docs/operations.md documents each."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import re
import secrets
import tempfile
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from environs import Env, EnvError
from marshmallow import ValidationError, fields
from marshmallow.validate import Length, OneOf, Range

from monolith import rate
from monolith.errors import BadSetting
from monolith.rate import Rate

ROOT = Path(__file__).resolve().parent.parent  # of the checkout: manage.py, templates/, jobs/
MEGABYTE = 1024 * 1024
SHORTEST_TOKEN = 16  # characters
PRIORITIES = ("critical", "high", "normal", "low")  # of jobs, the most urgent first
MAX_FIGURE = 10_000_000  # of a job type's attempts, seconds and running jobs: more fits no column and no timer
LONGEST_SOCKET_PATH = 100  # bytes; the system's limit is 104 to 108


@dataclass(frozen=True)
class Settings:
    """The settings of this process. docs/operations.md documents each environment variable."""

    home: Path
    port: int
    host: str
    database_url: str
    redis_url: str
    redis_is_ours: bool  # no REDIS_URL: `manage.py run` starts a Redis under the home
    secret_key: str
    secret_is_kept: bool  # no SECRET_KEY: the key is in a file under the home
    trusted_proxies: int
    job_packages: list[str]
    queue_mode: str
    worker_class: str
    worker_concurrency: int
    waiting_per_child: int
    child_max_jobs: int
    child_max_growth_mb: int
    shutdown_grace: float
    web_threads: int
    web_concurrency: int
    patience_s: float
    request_rate: str  # per web process, as is the next
    anonymous_rate: str
    max_streams: int  # per web process, as is the next
    max_streams_per_user: int
    max_upload_bytes: int
    max_request_bytes: int
    max_artefact_bytes: int  # of one file that a job attaches
    max_artefact_bytes_per_job: int
    max_artefacts_per_job: int
    sign_in_rate: str
    session_idle_hours: float
    session_days: float
    max_queued: int
    max_queued_per_user: int
    max_running_per_user: int  # 0: no limit
    highest_priority: str  # that users who are no admins may ask for
    keep_finished_days: float
    keep_failed_days: float
    keep_per_type: int
    log_level: str
    metrics_token: str | None = field(repr=False)
    openai_api_key: str | None
    openai_base_url: str | None
    openai_model: str
    openai_timeout: float
    openai_rate: Rate | None  # of requests
    openai_tokens: Rate | None
    llm_prices: dict[str, list[Decimal]]  # by model, in USD per million tokens: input, output, cached input
    llm_budget_usd: Decimal  # per day, as is the next; 0: no budget
    llm_budget_per_user_usd: Decimal
    llm_over_budget: str
    fetch_allow_loopback: bool
    smtp_url: str | None = field(repr=False)  # this and the next hold passwords
    caldav_url: str | None = field(repr=False)
    mail_from: str | None
    webhook_overlap_hours: float
    sandbox_memory_mb: int
    sandbox_disk_mb: int
    sandbox_seconds: int
    sandbox_cgroup: str | None
    alert_failed: int
    alert_waiting: int
    alert_oldest_s: float
    alert_no_worker_s: float
    alert_silence_s: float
    alert_pause_s: float
    alert_redis_percent: float
    alert_disk_mb: float
    alert_email: list[str]
    alert_webhook_url: str | None
    alert_webhook_secret: str | None = field(repr=False)

    def overrides_of(self, job_type: str) -> dict[str, Any]:
        """The values of `<TYPE>_MAX_ATTEMPTS`, `<TYPE>_TIMEOUT` and the like (`OVERRIDES`) that are set, by name.

        Raises `BadSetting` for a value that cannot be used.
        """
        variables = {name: f"{job_type}_{name}".upper() for name in OVERRIDES}
        return {name: OVERRIDES[name](one, os.environ[one]) for name, one in variables.items() if one in os.environ}


@cache
def version() -> str:
    """The version in pyproject.toml; without that file, that of the installed package, or `unknown`."""
    with suppress(FileNotFoundError):
        return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("intray")
    return "unknown"


@cache
def settings() -> Settings:
    """The settings of this process. Raises `BadSetting` for one that cannot be used."""
    try:
        return _read(Env())
    except EnvError as error:
        message = str(error).replace("['", "").replace("']", "").rstrip(".")
        raise BadSetting(f"{message}. Correct it or unset it.") from error


def _read(env: Env) -> Settings:
    home = Path(env.str("INTRAY_HOME", "instance")).resolve()
    database_url = env.str("DATABASE_URL", "") or f"sqlite:///{home / 'intray.sqlite3'}"
    return Settings(
        home=home,
        port=env.int("PORT", 8000),
        host=env.str("HOST", "0.0.0.0" if on_dyno() else "127.0.0.1"),  # noqa: S104 - a dyno must be reachable from outside
        database_url=re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", database_url),
        redis_url=_redis_url(env) or f"unix://{quote(str(redis_socket(home)))}",
        redis_is_ours=not env.str("REDIS_URL", ""),
        secret_key=_secret_key(env, home),
        secret_is_kept=not env.str("SECRET_KEY", ""),
        job_packages=env.list("JOB_PACKAGES", ["jobs"]),
        queue_mode=env.str("QUEUE_MODE", "redis", validate=OneOf(("redis", "inline"))),
        **_worker(env),
        **_web(env),
        max_upload_bytes=env.int("MAX_UPLOAD_BYTES", 10 * MEGABYTE),
        max_request_bytes=env.int("MAX_REQUEST_BYTES", 50 * MEGABYTE),
        sign_in_rate=env.str("SIGN_IN_RATE", "10 per minute"),
        session_idle_hours=env.float("SESSION_IDLE_HOURS", 12.0, validate=Range(min=0)),
        session_days=env.float("SESSION_DAYS", 14.0, validate=Range(min=0)),
        **_limits(env),
        log_level=env.str("LOG_LEVEL", "INFO").upper(),
        **_llm(env),
        fetch_allow_loopback=env.bool("FETCH_ALLOW_LOOPBACK", False),
        smtp_url=env.str("SMTP_URL", "") or None,
        caldav_url=env.str("CALDAV_URL", "") or None,
        mail_from=env.str("MAIL_FROM", "") or None,
        webhook_overlap_hours=env.float("WEBHOOK_OVERLAP_HOURS", 24.0, validate=Range(min=0)),
        **_sandbox(env),
        **_monitoring(env),
    )


def _worker(env: Env) -> dict[str, Any]:
    """Settings of the worker."""
    return {
        "worker_class": env.str("WORKER_CLASS", "monolith.runner.worker.ledger_worker.LedgerWorker"),
        "worker_concurrency": env.int("WORKER_CONCURRENCY", 5, validate=Range(min=1)),
        "waiting_per_child": env.int("WAITING_PER_CHILD", 16, validate=Range(min=1)),
        "child_max_jobs": env.int("CHILD_MAX_JOBS", 10_000, validate=Range(min=1)),
        "child_max_growth_mb": env.int("CHILD_MAX_GROWTH_MB", 200, validate=Range(min=1)),
        "shutdown_grace": env.float("SHUTDOWN_GRACE", 20.0),
    }


def _limits(env: Env) -> dict[str, Any]:
    """Limits on waiting jobs, their priority and their files, and retention."""
    return {
        "max_queued": env.int("MAX_QUEUED", 20_000, validate=Range(min=0)),
        "max_queued_per_user": env.int("MAX_QUEUED_PER_USER", 1000, validate=Range(min=0)),
        "max_running_per_user": env.int("MAX_RUNNING_PER_USER", 0, validate=Range(min=0)),
        "highest_priority": env.str("HIGHEST_PRIORITY", "high", validate=OneOf(PRIORITIES)),
        "max_artefact_bytes": env.int("MAX_ARTEFACT_BYTES", 20 * MEGABYTE, validate=Range(min=1)),
        "max_artefact_bytes_per_job": env.int("MAX_ARTEFACT_BYTES_PER_JOB", 100 * MEGABYTE, validate=Range(min=1)),
        "max_artefacts_per_job": env.int("MAX_ARTEFACTS_PER_JOB", 200, validate=Range(min=1)),
        "keep_finished_days": env.float("KEEP_FINISHED_DAYS", 7.0, validate=Range(min=0)),
        "keep_failed_days": env.float("KEEP_FAILED_DAYS", 14.0, validate=Range(min=0)),
        "keep_per_type": env.int("KEEP_PER_TYPE", 10_000, validate=Range(min=1)),
    }


def _web(env: Env) -> dict[str, Any]:
    """Settings of the web process."""
    return {
        "trusted_proxies": env.int("TRUSTED_PROXIES", int(on_dyno()), validate=Range(0, 10)),
        "web_threads": env.int("WEB_THREADS", 8),
        "web_concurrency": env.int("WEB_CONCURRENCY", 1),
        "patience_s": env.float("PATIENCE_S", 20.0, validate=Range(min=0.1)),
        "request_rate": env.str("REQUEST_RATE", "1200 per minute"),
        "anonymous_rate": env.str("ANONYMOUS_RATE", "300 per minute"),
        "max_streams": env.int("MAX_STREAMS", 500, validate=Range(min=0)),
        "max_streams_per_user": env.int("MAX_STREAMS_PER_USER", 50, validate=Range(min=0)),
    }


def _llm(env: Env) -> dict[str, Any]:
    return {
        "openai_api_key": env.str("OPENAI_API_KEY", "") or None,
        "openai_base_url": env.str("OPENAI_BASE_URL", "") or None,
        "openai_model": env.str("OPENAI_MODEL", "gpt-5-mini"),
        "openai_timeout": env.float("OPENAI_TIMEOUT", 60.0),
        "openai_rate": _rate("OPENAI_RATE", env.str("OPENAI_RATE", "")),
        "openai_tokens": _rate("OPENAI_TOKENS", env.str("OPENAI_TOKENS", "")),
        "llm_prices": _prices(env.str("LLM_PRICES", "")),
        "llm_budget_usd": env.decimal("LLM_BUDGET_USD", Decimal(0), validate=Range(min=0)),
        "llm_budget_per_user_usd": env.decimal("LLM_BUDGET_PER_USER_USD", Decimal(0), validate=Range(min=0)),
        "llm_over_budget": env.str("LLM_OVER_BUDGET", "park", validate=OneOf(("park", "local"))),
    }


def _sandbox(env: Env) -> dict[str, Any]:
    """Limits of the sandbox."""
    return {
        "sandbox_memory_mb": env.int("SANDBOX_MEMORY_MB", 512, validate=Range(min=64)),
        "sandbox_disk_mb": env.int("SANDBOX_DISK_MB", 256, validate=Range(min=16)),
        "sandbox_seconds": env.int("SANDBOX_SECONDS", 300, validate=Range(min=1)),
        "sandbox_cgroup": env.str("SANDBOX_CGROUP", "") or None,
    }


def _monitoring(env: Env) -> dict[str, Any]:
    """Metrics and alerts."""
    token = env.str("METRICS_TOKEN", "")
    if 0 < len(token) < SHORTEST_TOKEN:
        raise BadSetting(f"METRICS_TOKEN is too short. Use at least {SHORTEST_TOKEN} random characters, or unset it.")
    return {
        "metrics_token": token or None,
        "alert_failed": env.int("ALERT_FAILED", 10, validate=Range(min=0)),
        "alert_waiting": env.int("ALERT_WAITING", 50, validate=Range(min=0)),
        "alert_oldest_s": env.float("ALERT_OLDEST_S", 300.0, validate=Range(min=0)),
        "alert_no_worker_s": env.float("ALERT_NO_WORKER_S", 10.0, validate=Range(min=0)),
        "alert_silence_s": env.float("ALERT_SILENCE_S", 600.0, validate=Range(min=0)),
        "alert_pause_s": env.float("ALERT_PAUSE_S", 3600.0, validate=Range(min=0)),
        "alert_redis_percent": env.float("ALERT_REDIS_PERCENT", 80.0, validate=Range(1, 100)),
        "alert_disk_mb": env.float("ALERT_DISK_MB", 200.0, validate=Range(min=0)),
        "alert_email": env.list("ALERT_EMAIL", []),
        **_alert_webhook(env.str("ALERT_WEBHOOK_URL", ""), env.str("ALERT_WEBHOOK_SECRET", "")),
    }


def _alert_webhook(url: str, secret: str) -> dict[str, str | None]:
    """The secret has the format of Standard Webhooks; without one, a receiver could not verify who sent the notification."""
    try:
        is_valid = secret.startswith("whsec_") and 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64
    except ValueError:
        is_valid = False
    if url and not is_valid:
        raise BadSetting(
            "ALERT_WEBHOOK_URL needs a signing secret. Set ALERT_WEBHOOK_SECRET to whsec_ followed by 24 to 64 random bytes in base64."
        )
    return {"alert_webhook_url": url or None, "alert_webhook_secret": secret or None}


def _secret_key(env: Env, home: Path) -> str:
    key: str = env.str("SECRET_KEY", "")
    if not key and on_dyno():
        raise BadSetting("SECRET_KEY is not set. This host does not keep its disk, so set it to a long random string.")
    return key or kept_secret(home)


def on_dyno() -> bool:
    """Whether this is Heroku or a host like it: one router in front, and a disk that is not kept."""
    return "DYNO" in os.environ


def redis_socket(home: Path) -> Path:
    """The socket of the embedded Redis: under the home, or in the temporary directory where that path is too long for a socket."""
    if len(os.fsencode(socket := home / "redis.sock")) <= LONGEST_SOCKET_PATH:
        return socket
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"intray-{os.getuid()}-{digest}", "redis.sock")


def _redis_url(env: Env) -> str:
    """REDIS_TLS_VERIFY=false becomes part of the URL, so that it holds for `rq` and every other program that gets the URL."""
    url: str = env.str("REDIS_URL", "")
    verify = env.bool("REDIS_TLS_VERIFY", not on_dyno())  # the Redis of a dyno has a self-signed certificate
    if verify or not url.startswith("rediss") or "ssl_cert_reqs=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=none"


_PRICES = fields.Dict(fields.String(), fields.List(fields.Decimal(validate=Range(0, 1_000_000)), validate=Length(2, 3)))


def _prices(text: str) -> dict[str, list[Decimal]]:
    try:
        prices: dict[str, list[Decimal]] = _PRICES.deserialize(json.loads(text or "{}", parse_float=str))
    except (ValueError, ValidationError) as error:
        why = json.dumps(error.messages) if isinstance(error, ValidationError) else f"not valid JSON: {error}"
        raise BadSetting(
            f"LLM_PRICES is not valid: {why}. Give the prices in USD per million tokens, "
            'such as {"some-model": [0.25, 2.00]}: input and output. An optional third price is for cached input.'
        ) from error
    return prices


def _rate(variable: str, text: str) -> Rate | None:
    try:
        return rate.parse_optional(text)
    except ValueError as error:
        raise BadSetting(f"{variable}: {error}. Write a rate as 60/m, 10/s or 1000/h; unset it for no limit.") from None


def _number(variable: str, text: str, kind: type[int] | type[float], least: int) -> float:
    with suppress(ValueError):
        if 0 < (value := kind(text)) <= MAX_FIGURE or value == least:
            return value
    wanted = f"a {'whole ' if kind is int else ''}number above 0" if least else "a whole number, 0 for no limit"
    raise BadSetting(f"{variable} is {text[:40]!r}. Set it to {wanted}, at most {MAX_FIGURE:,}, or unset it.")


# What can be overridden for each job type, and how the variable is read; tools/job_types.py documents each.
OVERRIDES: dict[str, Callable[[str, str], Any]] = {
    "max_attempts": lambda variable, text: _number(variable, text, int, 1),
    "timeout": lambda variable, text: _number(variable, text, int, 1),
    "backoff": lambda variable, text: _number(variable, text, float, 1),
    "max_running": lambda variable, text: _number(variable, text, int, 0),
    "max_running_per_user": lambda variable, text: _number(variable, text, int, 0),
    "rate": _rate,
    "rate_per_user": _rate,
}


def kept_secret(home: Path) -> str:
    """The secret from its file under the home, which is created if missing. Raises `BadSetting` where that is not possible."""
    path = home / "secret_key"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write_privately(path, secrets.token_urlsafe(48))
        return path.read_text()
    except OSError as error:
        raise BadSetting(
            f"The folder INTRAY_HOME ({home}) is not writable ({error.strerror}). Set INTRAY_HOME to a folder you own."
        ) from error


def _write_privately(path: Path, text: str) -> None:
    """Write the whole file or nothing, readable by its owner only; the first of several processes wins."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
