"""Notifications of alerts: log lines, e-mails and a signed webhook. E-mails and webhook are jobs, inserted together with the alert.

If no worker can take these jobs, because Redis is away or no worker listens, the clock runs them itself in a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from monolith import strict_json
from monolith.config import settings
from monolith.content.formatting import rfc3339
from monolith.db.engine import read_now, read_session, write_transaction
from monolith.db.models import User
from monolith.errors import Invalid
from monolith.job_types import registry
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.guarded_update import JobRecord
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.monitoring.alert_rules import RULES
from monolith.runner.monitoring.alert_snapshot import Snapshot
from monolith.runner.queue import rq_queues
from monolith.runner.webhooks import secrets
from monolith.runner.webhooks.models import Delivery, SigningSecret, Webhook
from monolith.runner.worker import execute

ENDPOINT_ID = "alerts"  # the id of the endpoint and of its secret; no job has this id
MAX_RECIPIENTS = 20
MAX_SUBJECT = 150

log = structlog.get_logger()


@dataclass(frozen=True)
class Change:
    """An alert that has just opened or closed."""

    code: str
    subject: str
    severity: str
    message: str
    is_open: bool

    def __str__(self) -> str:
        return f"[{self.severity if self.is_open else 'resolved'}] {self.message}"


def notify(changes: Sequence[Change], write: Callable[[Connection], None], snapshot: Snapshot) -> None:
    """Run `write`, which changes the alerts, and submit the notifications in the same transaction; then log the changes.

    Raises what `write` raises; then nothing is sent.
    """
    notifications = _notification_jobs(changes)
    if notifications is None:
        with write_transaction() as connection:
            write(connection)
    else:
        _submit(notifications, write, snapshot)
    for one in changes:
        event, write_line = ("alert_opened", log.error) if one.is_open else ("alert_closed", log.info)
        write_line(event, code=one.code, subject=one.subject, severity=one.severity, message=one.message)


@dataclass
class NotificationJobs:
    """The jobs that send notifications, the id of their owner, and the deliveries that the webhook jobs send."""

    owner_id: int
    jobs: list[JobSpec]
    deliveries: list[Delivery]

    def insert_deliveries(self, connection: Connection) -> None:
        if self.deliveries:
            with Session(connection, expire_on_commit=False) as session:
                _upsert_endpoint(session, self.owner_id)
                session.add_all(self.deliveries)
                session.flush()


def _notification_jobs(changes: Sequence[Change]) -> NotificationJobs | None:
    """The notification jobs; None if only the log is written."""
    with read_session() as session:
        admins = session.execute(select(User.id, User.email).where(User.is_admin).order_by(User.id)).all()
        moment = read_now(session)
    if not admins:
        return None
    found = NotificationJobs(admins[0].id, _emails(changes, settings().alert_email or [one.email for one in admins]), [])
    if settings().alert_webhook_url and (job_type := registry.discover().get("webhook")):
        for one in changes:
            job = JobSpec(job_type, priority="critical")
            found.jobs.append(job)
            found.deliveries.append(_delivery(one, job, moment))
    return found if found.jobs else None


def _submit(notifications: NotificationJobs, write: Callable[[Connection], None], snapshot: Snapshot) -> None:
    def first(connection: Connection) -> None:
        write(connection)
        notifications.insert_deliveries(connection)

    jobs = lifecycle.submit(notifications.owner_id, notifications.jobs, before=first)
    without_worker = [job for job in jobs if not rq_queues.is_inline() and job.rq_queue not in (snapshot.listened or ())]
    if without_worker:
        threading.Thread(target=_run, args=(without_worker,), daemon=True).start()


def _run(jobs: list[JobRecord]) -> None:
    """Run jobs that no worker can take now. A worker that comes back does not run them again: each is claimed once."""
    for job in jobs:
        try:
            execute.run(job.id)
        except Exception:
            log.exception("notification_not_sent", job_id=job.id)


# ---- e-mail


def _emails(changes: Sequence[Change], recipients: list[str]) -> list[JobSpec]:
    """One e-mail about all changes; none if e-mail is off or the addresses are invalid."""
    job_type = registry.discover().get("email")
    if not settings().smtp_url or job_type is None or job_type.unavailable_reason:
        return []
    text = "\n\n".join([*map(_paragraph, changes), f"All alerts: {settings().address_of('/admin/alerts')}\n"])
    params = {
        "to": recipients[:MAX_RECIPIENTS],
        "subject": _subject(changes),
        "text": text,
    }
    try:
        return [JobSpec(job_type, job_type.load_params(params, False), "critical")]
    except Invalid as error:  # an invalid address must not prevent the alert from being opened
        log.error("alert_email_refused", error=error.detail, fix="Correct ALERT_EMAIL.")
        return []


def _subject(changes: Sequence[Change]) -> str:
    if len(changes) == 1:
        text = str(changes[0])
    else:
        opened = sum(one.is_open for one in changes)
        text = f"{opened} {'alert' if opened == 1 else 'alerts'} opened, {len(changes) - opened} resolved"
    return "".join(letter if letter.isprintable() else " " for letter in f"Intray: {text}")[:MAX_SUBJECT]


def _paragraph(change: Change) -> str:
    return f"{change}\nWhat to do: {RULES[change.code].fix}" if change.is_open and change.code in RULES else str(change)


# ---- the webhook


def _delivery(change: Change, job: JobSpec, moment: float) -> Delivery:
    """A delivery already assigned to its job. The clock schedules later attempts, as for every delivery."""
    data: dict[str, Any] = asdict(change)
    kind = "alert.opened" if data.pop("is_open") else "alert.closed"
    body = strict_json.dumps({"type": kind, "timestamp": rfc3339(moment), "data": data}, ensure_ascii=False, separators=(",", ":"))
    return Delivery(webhook_id=ENDPOINT_ID, type=kind, body=body, state="sending", sender_id=job.id)


def _upsert_endpoint(session: Session, owner_id: int) -> None:
    """Insert or update the endpoint of ALERT_WEBHOOK_URL. Its `job_id` matches no job, so it receives alerts only."""
    url, secret = settings().alert_webhook_url or "", settings().alert_webhook_secret or ""
    secret_row = session.get(SigningSecret, ENDPOINT_ID) or SigningSecret(id=ENDPOINT_ID, owner_id=owner_id, sealed="")
    endpoint = session.get(Webhook, ENDPOINT_ID) or Webhook(
        id=ENDPOINT_ID, owner_id=owner_id, job_id=ENDPOINT_ID, secret_id=ENDPOINT_ID, url=url, events=[]
    )
    secret_row.sealed = secrets.seal(secret)
    if endpoint.url != url:
        endpoint.url, endpoint.disabled_at, endpoint.disabled_reason, endpoint.failing_since = url, None, None, None
    session.add(secret_row)
    session.flush()
    session.add(endpoint)
    session.flush()
