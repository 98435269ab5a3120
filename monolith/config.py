"""All settings, read once from the environment. docs/operations.md documents each."""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pkgutil
import re
import secrets
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from environs import Env, EnvValidationError
from marshmallow.validate import OneOf, Range

from monolith import rate
from monolith import setting_rules as rules
from monolith.errors import BadSetting
from monolith.rate import Rate

ROOT = Path(__file__).resolve().parent.parent  # of the checkout: manage.py, templates/, jobs/
MEGABYTE = 1024 * 1024
SHORTEST_MASKED = 8  # characters; a shorter secret may also be part of a word
SHORTEST_MISSPELT = 6  # characters; shorter names have too many neighbours
NEAR = 0.85  # of difflib
HIDDEN = ("_URL", "_KEY", "_SECRET", "_TOKEN", "_PRICES")  # ends of the names of settings whose values are not repeated
READ_BY_LIBRARIES = {"RQ_KEY_PREFIX"}
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
PRIORITIES = ("critical", "high", "normal", "low")  # of jobs, the most urgent first
LONGEST_SOCKET_PATH = 100  # bytes; the system's limit is 104 to 108


@dataclass(frozen=True, repr=False)  # a dump of variables must not show the secrets in it
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
    public_url: str | None  # without a slash at the end
    prefix: str  # that all paths have for people; empty for none
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
    log_format: str  # empty: text on a terminal, else json
    metrics_token: str | None
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
    smtp_url: str | None
    caldav_url: str | None
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
    alert_webhook_secret: str | None

    def overrides_of(self, job_type: str) -> dict[str, Any]:
        """The values of `<TYPE>_MAX_ATTEMPTS`, `<TYPE>_TIMEOUT` and the like (`OVERRIDES`) that are set, by name.

        Raises `BadSetting` for values that cannot be used.
        """
        env = Environment()
        found = {name: env.override(job_type, name) for name in OVERRIDES if _variable(job_type, name) in os.environ}
        env.check()
        return found

    def address_of(self, path: str) -> str:
        """The address at which people open a page, such as `/jobs`; a path from the root of the host where PUBLIC_URL is not set."""
        return f"{self.public_url or self.prefix}{path}"

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown anywhere: keys, tokens, and passwords of URLs, as written there and decoded. The longest first."""
        urls = (self.database_url, self.redis_url, self.smtp_url, self.caldav_url, self.openai_base_url, self.alert_webhook_url)
        passwords = [one for url in urls if url for one in _passwords(url)]
        keys = [self.secret_key, self.metrics_token, self.openai_api_key, self.alert_webhook_secret]
        found = {one for one in (*keys, *passwords, *map(unquote, passwords)) if one and len(one) >= SHORTEST_MASKED}
        found |= {json.dumps(one)[1:-1] for one in found}  # as it stands in a line of JSON
        return tuple(sorted(found, key=len, reverse=True))


def _passwords(url: str) -> list[str]:
    """What may be a password in a URL, which may be quoted wrongly: from the colon to the last @, with and without the query."""
    start, _, query = url.partition("?")
    credentials = [one.rpartition("@")[0].partition("://")[2] for one in (start, url)]
    queried = [value for name, value in parse_qsl(query) if name.endswith("password")]
    return [*(one.partition(":")[2] for one in credentials), *queried]


@cache
def version() -> str:
    """The version in pyproject.toml; without that file, that of the installed package, or `unknown`."""
    with suppress(FileNotFoundError):
        return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("intray")
    return "unknown"


class Environment(Env):
    """Reads variables, and keeps what is wrong with them: `check` says all of it at once. What is wrong reads as its default."""

    def __init__(self) -> None:
        super().__init__(eager=False)
        self.wrong: list[str] = []

    def override(self, job_type: str, name: str) -> Any:
        """The override of a job type's declaration, such as `ANALYZE_TIMEOUT`; None if it is not set or wrong."""
        check, parse = OVERRIDES[name]
        text = self.str(_variable(job_type, name), None, validate=check)
        return None if text is None else parse(text)

    def check(self) -> None:
        """Raises `BadSetting` with a line for each variable that is wrong."""
        try:
            self.seal()
        except EnvValidationError as error:
            self.wrong[:0] = [_line(name, messages) for name, messages in cast(dict[str, list[Any]], error.error_messages).items()]
        if self.wrong:
            raise BadSetting(*self.wrong)

    @property
    def names(self) -> set[str]:
        """The variables that were read."""
        return set(self._fields)


def _variable(job_type: str, name: str) -> str:
    return f"{job_type}_{name}".upper()


def _line(name: str, messages: Any) -> str:
    """What is wrong with a variable. Its value is shown unless it may hold a secret."""
    shown = "cannot be used" if name.endswith(HIDDEN) else f"is {os.environ.get(name, '')[:60]!r}"
    said = " ".join(map(str, messages))
    return f"{name} {shown}. {said} Correct it or unset it."


@cache
def settings() -> Settings:
    """The settings of this process. Raises `BadSetting` with a line for each that cannot be used.

    Overrides of a job type are not among them: one that cannot be used turns off its type alone (`overrides_of`).
    """
    env = Environment()
    found = _read(env)
    env.check()
    return found


def misspelt() -> dict[str, str]:
    """Variables that are not settings but nearly have the name of one, with that name. Others' variables may be among them."""
    env = Environment()
    for job_type, name in product(_file_names(_read(env).job_packages), OVERRIDES):
        env.override(job_type, name)
    known = sorted(env.names | READ_BY_LIBRARIES)
    unknown = [name for name in os.environ if name not in known and len(name) >= SHORTEST_MISSPELT]
    near = {name: difflib.get_close_matches(name.upper(), known, 1, NEAR) for name in unknown if not name.lower().endswith("_proxy")}
    return {name: found[0] for name, found in near.items() if found and found[0] not in os.environ}


def _file_names(job_packages: list[str]) -> Iterator[str]:
    """The names of the files with job types, which most types have too."""
    for package in job_packages:
        spec = importlib.util.find_spec(package)
        yield from (module.name for module in pkgutil.iter_modules(spec.submodule_search_locations if spec else []) if not module.ispkg)


def _read(env: Environment) -> Settings:
    home = Path(env.str("INTRAY_HOME", "instance", validate=rules.plain) or "instance").resolve()
    database_url = env.str("DATABASE_URL", "", validate=lambda url: rules.database_url(_with_driver(url)))
    return Settings(
        home=home,
        port=env.int("PORT", 8000, validate=rules.port),
        host=env.str("HOST", "0.0.0.0" if on_dyno() else "127.0.0.1", validate=rules.host),  # noqa: S104 - a dyno must be reachable from outside
        database_url=_with_driver(database_url or f"sqlite:///{home / 'intray.sqlite3'}"),
        redis_url=_redis_url(env) or f"unix://{quote(str(redis_socket(home)))}",
        redis_is_ours=not os.environ.get("REDIS_URL"),
        secret_key=_secret_key(env, home),
        secret_is_kept=not os.environ.get("SECRET_KEY"),
        job_packages=[name.strip() for name in env.list("JOB_PACKAGES", ["jobs"], validate=rules.packages) or ["jobs"]],
        queue_mode=env.str("QUEUE_MODE", "redis", validate=OneOf(("redis", "inline"))),
        **_worker(env),
        **_web(env),
        max_upload_bytes=env.int("MAX_UPLOAD_BYTES", 10 * MEGABYTE, validate=rules.size),
        max_request_bytes=env.int("MAX_REQUEST_BYTES", 50 * MEGABYTE, validate=rules.size),
        sign_in_rate=env.str("SIGN_IN_RATE", "10 per minute", validate=rules.strict_rate),
        session_idle_hours=env.float("SESSION_IDLE_HOURS", 12.0, validate=rules.some_days),
        session_days=env.float("SESSION_DAYS", 14.0, validate=rules.some_days),
        **_limits(env),
        log_level=(env.str("LOG_LEVEL", "INFO", validate=rules.one_of(*LOG_LEVELS)) or "INFO").upper(),
        log_format=(env.str("LOG_FORMAT", "", validate=rules.one_of("", "json", "text")) or "").lower(),
        **_llm(env),
        fetch_allow_loopback=env.bool("FETCH_ALLOW_LOOPBACK", False),
        smtp_url=env.str("SMTP_URL", "", validate=rules.mail_url) or None,
        caldav_url=env.str("CALDAV_URL", "", validate=rules.calendar_url) or None,
        mail_from=env.str("MAIL_FROM", "", validate=rules.plain) or None,
        webhook_overlap_hours=env.float("WEBHOOK_OVERLAP_HOURS", 24.0, validate=rules.days),
        **_sandbox(env),
        **_monitoring(env),
    )


def _with_driver(database_url: str) -> str:
    return re.sub(r"^postgres(ql)?://", f"{rules.POSTGRESQL}://", database_url)


def _worker(env: Environment) -> dict[str, Any]:
    """Settings of the worker."""
    return {
        "worker_class": env.str("WORKER_CLASS", "monolith.runner.worker.ledger_worker.LedgerWorker", validate=rules.class_path),
        "worker_concurrency": env.int("WORKER_CONCURRENCY", 5, validate=rules.a_few),
        "waiting_per_child": env.int("WAITING_PER_CHILD", 16, validate=rules.a_few),
        "child_max_jobs": env.int("CHILD_MAX_JOBS", 10_000, validate=rules.some),
        "child_max_growth_mb": env.int("CHILD_MAX_GROWTH_MB", 200, validate=rules.some),
        "shutdown_grace": env.float("SHUTDOWN_GRACE", 20.0, validate=rules.seconds),
    }


def _public_address(env: Environment) -> dict[str, str | None]:
    """Where people open Intray. SCRIPT_NAME is the prefix alone, as WSGI servers have it."""
    url = (env.str("PUBLIC_URL", "", validate=rules.public_url) or "").rstrip("/")
    name = env.str("SCRIPT_NAME", "", validate=rules.prefix) or ""
    if url and name and urlsplit(url).path != name:
        env.wrong.append(f"SCRIPT_NAME is {name!r}, but it is not the path of PUBLIC_URL. Unset it: PUBLIC_URL is enough.")
    return {"public_url": url or None, "prefix": urlsplit(url).path or name}


def _limits(env: Environment) -> dict[str, Any]:
    """Limits on waiting jobs, their priority and their files, and retention."""
    return {
        "max_queued": env.int("MAX_QUEUED", 20_000, validate=rules.count),
        "max_queued_per_user": env.int("MAX_QUEUED_PER_USER", 1000, validate=rules.count),
        "max_running_per_user": env.int("MAX_RUNNING_PER_USER", 0, validate=rules.count),
        "highest_priority": env.str("HIGHEST_PRIORITY", "high", validate=OneOf(PRIORITIES)),
        "max_artefact_bytes": env.int("MAX_ARTEFACT_BYTES", 20 * MEGABYTE, validate=rules.size),
        "max_artefact_bytes_per_job": env.int("MAX_ARTEFACT_BYTES_PER_JOB", 100 * MEGABYTE, validate=rules.size),
        "max_artefacts_per_job": env.int("MAX_ARTEFACTS_PER_JOB", 200, validate=rules.some),
        "keep_finished_days": env.float("KEEP_FINISHED_DAYS", 7.0, validate=rules.days),
        "keep_failed_days": env.float("KEEP_FAILED_DAYS", 14.0, validate=rules.days),
        "keep_per_type": env.int("KEEP_PER_TYPE", 10_000, validate=rules.some),
    }


def _web(env: Environment) -> dict[str, Any]:
    """Settings of the web process."""
    return {
        "trusted_proxies": env.int("TRUSTED_PROXIES", int(on_dyno()), validate=Range(0, 10)),
        **_public_address(env),
        "web_threads": env.int("WEB_THREADS", 8, validate=rules.a_few),
        "web_concurrency": env.int("WEB_CONCURRENCY", 1, validate=rules.a_few),
        "patience_s": env.float("PATIENCE_S", 20.0, validate=rules.some_seconds),
        "request_rate": env.str("REQUEST_RATE", "1200 per minute", validate=rules.rate),
        "anonymous_rate": env.str("ANONYMOUS_RATE", "300 per minute", validate=rules.rate),
        "max_streams": env.int("MAX_STREAMS", 500, validate=rules.count),
        "max_streams_per_user": env.int("MAX_STREAMS_PER_USER", 50, validate=rules.count),
    }


def _llm(env: Environment) -> dict[str, Any]:
    return {
        "openai_api_key": env.str("OPENAI_API_KEY", "", validate=rules.header) or None,
        "openai_base_url": env.str("OPENAI_BASE_URL", "", validate=rules.web_url) or None,
        "openai_model": env.str("OPENAI_MODEL", "gpt-5-mini", validate=rules.plain),
        "openai_timeout": env.float("OPENAI_TIMEOUT", 60.0, validate=rules.some_seconds),
        "openai_rate": rate.parse_optional(env.str("OPENAI_RATE", "", validate=rules.rate) or ""),
        "openai_tokens": rate.parse_optional(env.str("OPENAI_TOKENS", "", validate=rules.rate) or ""),
        "llm_prices": rules.parse_prices(env.str("LLM_PRICES", "", validate=rules.prices) or ""),
        "llm_budget_usd": env.decimal("LLM_BUDGET_USD", Decimal(0), validate=rules.usd),
        "llm_budget_per_user_usd": env.decimal("LLM_BUDGET_PER_USER_USD", Decimal(0), validate=rules.usd),
        "llm_over_budget": env.str("LLM_OVER_BUDGET", "park", validate=OneOf(("park", "local"))),
    }


def _sandbox(env: Environment) -> dict[str, Any]:
    """Limits of the sandbox."""
    return {
        "sandbox_memory_mb": env.int("SANDBOX_MEMORY_MB", 512, validate=Range(64, 2**20)),
        "sandbox_disk_mb": env.int("SANDBOX_DISK_MB", 256, validate=Range(16, 2**20)),
        "sandbox_seconds": env.int("SANDBOX_SECONDS", 300, validate=Range(1, 10**6)),
        "sandbox_cgroup": env.str("SANDBOX_CGROUP", "", validate=rules.control_group) or None,
    }


def _monitoring(env: Environment) -> dict[str, Any]:
    """Metrics and alerts."""
    return {
        "metrics_token": env.str("METRICS_TOKEN", "", validate=rules.token) or None,
        "alert_failed": env.int("ALERT_FAILED", 10, validate=rules.count),
        "alert_waiting": env.int("ALERT_WAITING", 50, validate=rules.count),
        "alert_oldest_s": env.float("ALERT_OLDEST_S", 300.0, validate=rules.seconds),
        "alert_no_worker_s": env.float("ALERT_NO_WORKER_S", 10.0, validate=rules.seconds),
        "alert_silence_s": env.float("ALERT_SILENCE_S", 600.0, validate=rules.seconds),
        "alert_pause_s": env.float("ALERT_PAUSE_S", 3600.0, validate=rules.seconds),
        "alert_redis_percent": env.float("ALERT_REDIS_PERCENT", 80.0, validate=Range(1, 100)),
        "alert_disk_mb": env.float("ALERT_DISK_MB", 200.0, validate=rules.seconds),
        "alert_email": env.list("ALERT_EMAIL", []) or [],
        **_alert_webhook(env),
    }


def _alert_webhook(env: Environment) -> dict[str, str | None]:
    """Without the secret, a receiver could not verify who sent the notification."""
    url = env.str("ALERT_WEBHOOK_URL", "", validate=rules.web_url)
    secret = env.str("ALERT_WEBHOOK_SECRET", "", validate=rules.signing_secret)
    if url and secret == "":
        env.wrong.append(
            "ALERT_WEBHOOK_URL needs a signing secret. Set ALERT_WEBHOOK_SECRET to whsec_ followed by 24 to 64 random bytes in base64."
        )
    return {"alert_webhook_url": url or None, "alert_webhook_secret": secret or None}


def _secret_key(env: Environment, home: Path) -> str:
    key = env.str("SECRET_KEY", "", validate=rules.encodable)
    if key == "" and on_dyno():
        env.wrong.append("SECRET_KEY is not set. This host does not keep its disk, so set it to a long random string.")
    elif key == "":
        try:
            return kept_secret(home)
        except BadSetting as error:
            env.wrong.append(str(error))
    return key or ""


def on_dyno() -> bool:
    """Whether this is Heroku or a host like it: one router in front, and a disk that is not kept."""
    return "DYNO" in os.environ


def redis_socket(home: Path) -> Path:
    """The socket of the embedded Redis: under the home, or in the temporary directory where that path is too long for a socket."""
    if len(os.fsencode(socket := home / "redis.sock")) <= LONGEST_SOCKET_PATH:
        return socket
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"intray-{os.getuid()}-{digest}", "redis.sock")


def _redis_url(env: Environment) -> str:
    """REDIS_TLS_VERIFY=false becomes part of the URL, so that it holds for `rq` and every other program that gets the URL."""
    url: str = env.str("REDIS_URL", "", validate=rules.redis_url) or ""
    verify = env.bool("REDIS_TLS_VERIFY", not on_dyno())  # the Redis of a dyno has a self-signed certificate
    if verify or not url.startswith("rediss") or "ssl_cert_reqs=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=none"


# What can be overridden for each job type: how the variable is checked, and read; tools/job_types.py documents each.
OVERRIDES: dict[str, tuple[Callable[[str], None], Callable[[str], Any]]] = {
    "max_attempts": (rules.number(int, 1), int),
    "timeout": (rules.number(int, 1), int),
    "backoff": (rules.number(float, 1), float),
    "max_running": (rules.number(int, 0), int),
    "max_running_per_user": (rules.number(int, 0), int),
    "rate": (rules.rate, rate.parse_optional),
    "rate_per_user": (rules.rate, rate.parse_optional),
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
