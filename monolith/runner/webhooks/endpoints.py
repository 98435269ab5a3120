"""Users' actions on webhook endpoints: create, change, rotate, test, replay. Every query is filtered by owner."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from monolith.config import settings
from monolith.db.engine import now, read_now, read_session, write_session
from monolith.db.models import User
from monolith.errors import Conflict, Invalid, NotFound
from monolith.runner.webhooks import delivery, payloads, secrets
from monolith.runner.webhooks.models import ENDINGS, EVENTS, Delivery, SigningSecret, Webhook

MAX_PER_USER = 10
DISABLED_BY_OWNER = "You disabled it."


def create(user: User, url: str, events: list[str]) -> tuple[Webhook, str]:
    """Create an endpoint and return it with its secret, which is shown only once.

    Raises `Invalid` naming the field, or `Conflict` if the user has the maximum already.
    """
    check_url(url)
    check_events(events)
    secret = secrets.new_secret()
    webhook = Webhook(owner_id=user.id, url=url, events=list(events), secret=SigningSecret(owner_id=user.id, sealed=secrets.seal(secret)))
    with write_session() as session:
        count = session.scalar(select(func.count()).where(Webhook.owner_id == user.id, Webhook.job_id.is_(None)))
        if (count or 0) >= MAX_PER_USER:
            raise Conflict(f"You already have {MAX_PER_USER} webhooks, the maximum. Delete one first.")
        session.add(webhook)
    return webhook, secret


def for_job(user: User, url: str, job_id: str) -> tuple[list[Any], str | None]:
    """The rows to insert with a job that has this `webhook_url`; and the shared secret if it is new, to be shown once."""
    with read_session() as session:
        shared = _shared(session, user)
    new = None if shared else secrets.new_secret()
    made = [] if new is None else [SigningSecret(id=f"shared-{user.id}", owner_id=user.id, is_shared=True, sealed=secrets.seal(new))]
    secret_id = shared.id if shared else made[0].id
    return [*made, Webhook(owner_id=user.id, job_id=job_id, url=url, events=list(ENDINGS.values()), secret_id=secret_id)], new


def _shared(session: Session, user: User) -> SigningSecret | None:
    return session.scalar(select(SigningSecret).where(SigningSecret.owner_id == user.id, SigningSecret.is_shared))


def check_url(url: str, pointer: str = "/url") -> None:
    """Raises `Invalid` if the URL is not http(s), or leads into a private network."""
    from monolith.content import http_post  # a slow import, needed only when a webhook changes

    if reason := http_post.target_problem(url):
        raise Invalid.field(pointer, reason)


def check_events(events: list[str]) -> None:
    """Raises `Invalid` if no event is given, or an unknown one."""
    unknown = [name for name in events if name not in EVENTS]
    if unknown or not events:
        detail = f"Unknown event {unknown[0][:40]!r}." if unknown else "Choose at least one event."
        raise Invalid.field("/events", f"{detail} Available events: {', '.join(EVENTS)}.")


def find(session: Session, user: User, webhook_id: str) -> Webhook:
    """The user's endpoint. Raises `NotFound`, also for another user's endpoint and for admins."""
    row = session.scalar(select(Webhook).where(Webhook.id == webhook_id, Webhook.owner_id == user.id))
    if row is None:
        raise NotFound(f"Webhook {webhook_id[:60]!r} does not exist, or is not yours.")
    return row


def change(user: User, webhook_id: str, url: str | None = None, events: list[str] | None = None, enabled: bool | None = None) -> None:
    """Change what is not None. An endpoint that is enabled again receives events from then on."""
    if url is not None:
        check_url(url)
    if events is not None:
        check_events(events)
    with write_session() as session:
        webhook = find(session, user, webhook_id)
        webhook.url = url if url is not None else webhook.url
        webhook.events = list(events) if events is not None else webhook.events
        if enabled is False:
            delivery.disable_endpoint(session, webhook_id, DISABLED_BY_OWNER)
        elif enabled and not webhook.enabled:
            on = {"disabled_at": None, "disabled_reason": None, "failing_since": None, "listening_since": now()}
            session.execute(update(Webhook).where(Webhook.id == webhook_id).values(**on))


def remove(user: User, webhook_id: str) -> None:
    """Delete the endpoint, its deliveries, and its secret unless single jobs share that."""
    with write_session() as session:
        secret_id = find(session, user, webhook_id).secret_id
        session.execute(delete(Webhook).where(Webhook.id == webhook_id))
        session.execute(delete(SigningSecret).where(SigningSecret.id == secret_id, ~SigningSecret.is_shared))


def rotate(user: User, webhook_id: str, overlap_s: float | None = None) -> tuple[str, float]:
    """Create a new secret, shown only once; return it with the time until which the old one signs too."""
    with write_session() as session:
        return _rotate(session, find(session, user, webhook_id).secret, overlap_s)


def rotate_shared(user: User, overlap_s: float | None = None) -> tuple[str, float | None]:
    """Rotate the secret that the user's single jobs share, or create it. The time is None if there was none before."""
    with write_session() as session:
        shared = _shared(session, user)
        if shared:
            return _rotate(session, shared, overlap_s)
        secret = secrets.new_secret()
        session.add(SigningSecret(id=f"shared-{user.id}", owner_id=user.id, is_shared=True, sealed=secrets.seal(secret)))
        return secret, None


def _rotate(session: Session, row: SigningSecret, overlap_s: float | None) -> tuple[str, float]:
    secret = secrets.new_secret()
    overlap = settings().webhook_overlap_hours * 3600 if overlap_s is None else overlap_s
    until = read_now(session) + overlap
    row.sealed, row.previous, row.previous_until = secrets.seal(secret), row.sealed, until
    return secret, until


def test(user: User, webhook_id: str) -> Delivery:
    """Send a test delivery. Raises `Conflict` if the endpoint is disabled."""
    with write_session() as session:
        webhook = find(session, user, webhook_id)
        _require_enabled(webhook)
        delivery = payloads.of_test(webhook, read_now(session))
        session.add(delivery)
        session.flush()
        session.refresh(delivery)
        return delivery


def replay(user: User, webhook_id: str, delivery_id: str) -> Delivery:
    """Send a delivery again now, under the same id and with all attempts.

    Raises `NotFound`, or `Conflict` while it is being sent or if the endpoint is disabled.
    """
    with write_session() as session:
        _require_enabled(find(session, user, webhook_id))
        mine = (Delivery.id == delivery_id, Delivery.webhook_id == webhook_id)
        again = update(Delivery).where(*mine, Delivery.state != "sending").values(state="waiting", due_at=now(), attempts=0)
        if session.scalar(again.returning(Delivery.id)) is None:
            if session.scalar(select(Delivery.id).where(*mine)) is None:
                raise NotFound(f"This webhook has no delivery {delivery_id[:60]!r}.")
            raise Conflict("This delivery is being sent right now. Wait for its result.")
        return session.scalars(select(Delivery).where(*mine)).one()


def _require_enabled(webhook: Webhook) -> None:
    if not webhook.enabled:
        raise Conflict("This webhook is disabled. Enable it first.")


def delete_for_jobs(session: Session, job_ids: list[str]) -> None:
    """Delete the deliveries and single-job endpoints of jobs that a user deletes, because deliveries contain results."""
    session.execute(delete(Delivery).where(Delivery.job_id.in_(job_ids)))
    session.execute(delete(Webhook).where(Webhook.job_id.in_(job_ids)))
