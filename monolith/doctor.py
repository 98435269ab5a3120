"""`manage.py doctor`: what is wrong with this deployment, and how to mend it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from redis import RedisError
from rq.utils import import_attribute
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from monolith import database, launch, llm, logs
from monolith.config import BadSetting, settings
from monolith.errors import Invalid
from monolith.runner import clock, notices, queues, registry
from monolith.runner.webhooks import endpoints

SANDBOX_CHECK = "jobs.tools.opening:why_off"  # found by name: nothing here imports jobs


class Trouble(Exception):
    """A finding: what is wrong, and the mend."""


@dataclass(frozen=True)
class Finding:
    subject: str
    is_trouble: bool
    message: str

    def __str__(self) -> str:
        return f"{'TROUBLE' if self.is_trouble else 'ok':<8} {self.subject:<9} {self.message}"


def examine() -> Iterator[Finding]:
    """Every check, in the order in which to mend."""
    for subject, check in CHECKS.items():
        if queues.is_inline() and subject in ("redis", "eviction", "workers"):
            continue
        try:
            yield Finding(subject, False, check())
        except (Trouble, BadSetting) as trouble:
            yield Finding(subject, True, str(trouble))
        except RedisError:
            yield Finding(subject, True, "Not known while Redis cannot be reached: mend that first.")
        except SQLAlchemyError:
            yield Finding(subject, True, "Not known while the database is in trouble: mend that first.")


def _settings() -> str:
    logs.configure("doctor")
    try:
        import_attribute(settings().worker_class)
    except (ValueError, ImportError, AttributeError) as error:
        raise Trouble(f"WORKER_CLASS {settings().worker_class!r} cannot be imported. Mend or unset it.") from error
    return f"home {settings().home}"


def _database() -> str:
    try:
        with database.engine().connect():
            pass
    except OperationalError as error:
        reason = logs.mask(str(error.orig).strip().splitlines()[-1])
        raise Trouble(f"It cannot be opened: {reason}. Check DATABASE_URL, and that the database runs.") from error
    if not database.is_current():
        raise Trouble("The tables are not up to date. Run `manage.py db upgrade`.")
    return f"{database.engine().dialect.name}, tables up to date"


def _redis() -> str:
    launch.require_redis()
    return logs.mask(settings().redis_url)


def _eviction() -> str:
    policy = str(queues.connection().info("memory").get("maxmemory_policy", "unknown"))
    if policy != "noeviction":
        raise Trouble(f"Redis may throw messages away: its maxmemory-policy is {policy}. Set it to noeviction.")
    return policy


def _workers() -> str:
    missing = [name for name in queues.names() if name not in queues.listened()]
    if missing:
        raise Trouble(f"No worker listens to {', '.join(missing)}. Start one with `manage.py worker`.")
    return f"every queue has a listener: {', '.join(queues.names())}"


def _clock() -> str:
    with database.reading() as session:
        if not clock.is_ticking(session):
            raise Trouble("No clock ticks: nothing scheduled or lost is moved. Start one with `manage.py clock`.")
    return "ticking"


def _llm() -> str:
    if not settings().openai_api_key:
        return "off: the local engine does the work"
    limits = settings().llm_budget_usd or settings().llm_budget_per_user_usd
    if limits and settings().openai_model not in settings().llm_prices:
        raise Trouble(f"The budget holds nothing back: no price is known for {settings().openai_model}. Give it in LLM_PRICES.")
    found = llm.try_out()
    if not found["ok"]:
        raise Trouble(f"{found['message']} `manage.py ai test` asks again.")
    return f"{found['model']} answered in {found['duration_ms']} ms"


def _alerts() -> str:
    """Whether those whom the settings name would hear of an alert."""
    told = ["in the log"]
    if settings().alert_email and not settings().smtp_url:
        raise Trouble("ALERT_EMAIL is set, but no mail goes out from here: set SMTP_URL and MAIL_FROM too, or unset it.")
    if settings().smtp_url:
        told.append(f"by e-mail to {_check_email()}")
    if url := settings().alert_webhook_url:
        try:
            endpoints.check_url(url)
        except Invalid as error:
            raise Trouble(f"ALERT_WEBHOOK_URL cannot be used: {error.detail} Mend or unset it.") from error
        told.append("by a webhook")
    return f"told {', '.join(told)}"


def _check_email() -> str:
    """Whom the mail of an alert goes to."""
    mail = registry.discover().get("email")
    if mail is None or mail.unavailable_reason:
        raise Trouble(f"No alert goes out by e-mail: {mail.unavailable_reason if mail else 'JOB_PACKAGES has no job type email.'}")
    if not settings().alert_email:
        return "all admins"
    try:
        mail.load_params({"to": settings().alert_email[: notices.MAX_RECIPIENTS], "subject": "x", "text": "x"}, False)
    except Invalid as error:
        raise Trouble(f"ALERT_EMAIL cannot be used: {' '.join(one.detail for one in error.errors)} Mend or unset it.") from error
    return ", ".join(settings().alert_email)


def _sandbox() -> str:
    """No trouble where there is none: job types that need one are off then, and say so to whoever asks for them."""
    module, _, function = SANDBOX_CHECK.partition(":")
    try:
        reason: str | None = getattr(importlib.import_module(module), function)()
    except ModuleNotFoundError:
        return "no job type here needs one"
    limits = f"{settings().sandbox_memory_mb} MB, {settings().sandbox_seconds} s"
    return f"none: {reason}" if reason else f"works, was tried just now; a project may use {limits}"


def _job_types() -> str:
    """Which types are off here, and why: no trouble in itself, such as projects on a host that allows no sandbox."""
    reasons = {name: reason for name, one in registry.discover().items() if (reason := one.unavailable_reason)}
    said = [f"{', '.join(name for name in reasons if reasons[name] == reason)} off: {reason}" for reason in dict.fromkeys(reasons.values())]
    return " ".join(said) or "all can be run here"


CHECKS: dict[str, Callable[[], str]] = {
    "settings": _settings,
    "database": _database,
    "redis": _redis,
    "eviction": _eviction,
    "workers": _workers,
    "clock": _clock,
    "alerts": _alerts,
    "sandbox": _sandbox,
    "types": _job_types,
    "llm": _llm,
}
