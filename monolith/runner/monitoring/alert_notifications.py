"""Telling people of alerts: in the log, by e-mail and by a signed webhook. E-mail and webhook are jobs, written with the alert itself.

Where no worker could take these jobs, because Redis is away or nobody listens, the clock runs them itself, in a thread.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from monolith.config import settings
from monolith.content.formatting import rfc3339
from monolith.db.engine import read_now, read_session, write_transaction
from monolith.db.models import User, new_id
from monolith.errors import Invalid
from monolith.job_types import registry
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.transitions import JobRecord
from monolith.runner.monitoring.alert_rules import RULES
from monolith.runner.monitoring.alert_snapshot import Snapshot
from monolith.runner.queue import rq_queues
from monolith.runner.webhooks import secrets
from monolith.runner.webhooks.models import Delivery, SigningSecret, Webhook
from monolith.runner.worker import execute

OURS = "alerts"  # the id of the endpoint and of its secret; no job has it
MAX_RECIPIENTS = 20
MAX_SUBJECT = 150

log = structlog.get_logger()


@dataclass(frozen=True)
class Change:
    """An alert that has opened, or closed."""

    code: str
    subject: str
    severity: str
    message: str
    is_open: bool

    def __str__(self) -> str:
        return f"[{self.severity if self.is_open else 'resolved'}] {self.message}"


def tell(changes: Sequence[Change], write: Callable[[Connection], None], seen: Snapshot) -> None:
    """Run `write`, which changes the alerts, and submit the notices in the same transaction; then log them.

    Raises what `write` raises, with nothing told.
    """
    senders = _senders(changes)
    if senders is None:
        with write_transaction() as connection:
            write(connection)
    else:
        _submit(senders, write, seen)
    for one in changes:
        name, said = ("alert_opened", log.error) if one.is_open else ("alert_closed", log.info)
        said(name, code=one.code, subject=one.subject, severity=one.severity, message=one.message)


@dataclass
class Senders:
    """The jobs that tell of it, whose they are, and what the webhook's are to send."""

    owner_id: int
    jobs: list[JobSpec]
    deliveries: list[Delivery]

    def keep(self, connection: Connection) -> None:
        if self.deliveries:
            with Session(connection, expire_on_commit=False) as session:
                _keep_endpoint(session, self.owner_id)
                session.add_all(self.deliveries)
                session.flush()


def _senders(changes: Sequence[Change]) -> Senders | None:
    """None where nobody is to be told but the log."""
    with read_session() as session:
        admins = session.execute(select(User.id, User.email).where(User.is_admin).order_by(User.id)).all()
        moment = read_now(session)
    if not admins:
        return None
    found = Senders(admins[0].id, _mails(changes, settings().alert_email or [one.email for one in admins]), [])
    if settings().alert_webhook_url and (job_type := registry.discover().get("webhook")):
        for one in changes:
            job = JobSpec(job_type, {"delivery": new_id()}, "critical")
            found.jobs.append(job)
            found.deliveries.append(_delivery(one, job, moment))
    return found if found.jobs else None


def _submit(senders: Senders, write: Callable[[Connection], None], seen: Snapshot) -> None:
    def first(connection: Connection) -> None:
        write(connection)
        senders.keep(connection)

    jobs = lifecycle.submit(senders.owner_id, senders.jobs, before=first)
    alone = [job for job in jobs if not rq_queues.is_inline() and job.rq_queue not in (seen.listened or ())]
    if alone:
        threading.Thread(target=_run, args=(alone,), daemon=True).start()


def _run(jobs: list[JobRecord]) -> None:
    """What nobody else would run just now. Whoever claims one runs it: none is sent twice."""
    for job in jobs:
        try:
            execute.run(job.id)
        except Exception:
            log.exception("notification_not_sent", job_id=job.id)


# ---- e-mail


def _mails(changes: Sequence[Change], recipients: list[str]) -> list[JobSpec]:
    """One message for all that has changed at once."""
    job_type = registry.discover().get("email")
    if not settings().smtp_url or job_type is None or job_type.unavailable_reason:
        return []
    text = "\n\n".join(_paragraph(one) for one in changes)
    params = {"to": recipients[:MAX_RECIPIENTS], "subject": _subject(changes), "text": f"{text}\n\nAll alerts: /admin/alerts\n"}
    try:
        return [JobSpec(job_type, job_type.load_params(params, False), "critical")]
    except Invalid as error:  # an address that is none must not keep the alert itself from being opened
        log.error("alert_email_refused", error=error.detail, fix="Correct ALERT_EMAIL.")
        return []


def _subject(changes: Sequence[Change]) -> str:
    if len(changes) == 1:
        said = str(changes[0])
    else:
        opened = sum(one.is_open for one in changes)
        said = f"{opened} {'alert' if opened == 1 else 'alerts'} opened, {len(changes) - opened} resolved"
    return "".join(letter if letter.isprintable() else " " for letter in f"Intray: {said}")[:MAX_SUBJECT]


def _paragraph(change: Change) -> str:
    return f"{change}\nWhat to do: {RULES[change.code].mend}" if change.is_open and change.code in RULES else str(change)


# ---- the webhook


def _delivery(change: Change, job: JobSpec, moment: float) -> Delivery:
    """Handed to its job from the start. Later attempts are the clock's, as of every delivery."""
    data: dict[str, Any] = asdict(change)
    kind = "alert.opened" if data.pop("is_open") else "alert.closed"
    body = json.dumps({"type": kind, "timestamp": rfc3339(moment), "data": data}, ensure_ascii=False, separators=(",", ":"))
    return Delivery(id=job.params["delivery"], webhook_id=OURS, type=kind, body=body, state="sending", sender_id=job.id)


def _keep_endpoint(session: Session, owner_id: int) -> None:
    """The endpoint of ALERT_WEBHOOK_URL, as the settings have it now. With a `job_id` that no job has, it hears of no job."""
    url, secret = settings().alert_webhook_url or "", settings().alert_webhook_secret or ""
    kept = session.get(SigningSecret, OURS) or SigningSecret(id=OURS, owner_id=owner_id, sealed="")
    endpoint = session.get(Webhook, OURS) or Webhook(id=OURS, owner_id=owner_id, job_id=OURS, secret_id=OURS, url=url, events=[])
    kept.sealed = secrets.seal(secret)
    if endpoint.url != url:
        endpoint.url, endpoint.disabled_at, endpoint.disabled_reason, endpoint.failing_since = url, None, None, None
    session.add(kept)
    session.flush()
    session.add(endpoint)
    session.flush()
