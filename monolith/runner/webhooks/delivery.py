"""The deliveries of a sender as that job sees them, and the record of their outcomes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session, joinedload

from monolith.db.engine import now, read_now, read_session, storable, write_session
from monolith.runner.webhooks import secrets
from monolith.runner.webhooks.models import Delivery, SigningSecret, Webhook


class RunningDelivery:
    """A delivery that a job is sending now; see `job_types.interface.Delivery`."""

    def __init__(self, row: Delivery, moment: float) -> None:
        self.id = row.id
        self.type = row.type
        self.endpoint_id = row.webhook_id
        self.url = row.webhook.url
        self.host = row.webhook.host or row.webhook.url
        self.body = row.body
        self.timestamp = int(moment)
        self.attempts = row.attempts
        self.failing_s = moment - (row.webhook.failing_since or moment)
        self.owner_email = row.webhook.owner.email
        self._secret = row.webhook.secret
        self._moment = moment
        self._sender_id = row.sender_id

    @property
    def secrets(self) -> list[str]:
        """The secrets that sign this attempt, newest first. Raises `Conflict` if they cannot be decrypted."""
        return secrets_of(self._secret, self._moment)

    def record(self, *, is_delivered: bool, again_in: float | None = None, disable: str | None = None, **response: Any) -> bool:
        """Record the outcome of this attempt. True if that disabled the endpoint.

        `again_in`: seconds until the next attempt, None for none. `disable`: the reason to disable the endpoint. `response`:
        response_status, response_text, error, duration. Nothing is recorded if the delivery now belongs to another job.
        """
        ours = (Delivery.id == self.id, *_sent_by(self._sender_id))
        with write_session() as session:
            recorded = update(Delivery).where(*ours).values(**_outcome(is_delivered, again_in, response)).returning(Delivery.id)
            if session.scalar(recorded) is None:
                return False
            _update_health(session, self.endpoint_id, is_delivered)
            return disable is not None and disable_endpoint(session, self.endpoint_id, disable)


def load(sender_id: str) -> list[RunningDelivery]:
    """The deliveries that this job has to send to endpoints that are enabled, the longest due first."""
    whole = joinedload(Delivery.webhook)
    query = select(Delivery).where(*_sent_by(sender_id)).options(whole.joinedload(Webhook.secret), whole.joinedload(Webhook.owner))
    with read_session() as session:
        moment = read_now(session)
        return [RunningDelivery(row, moment) for row in session.scalars(query.order_by(Delivery.due_at)) if row.webhook.enabled]


def give_back(sender_id: str, delivery_ids: list[str]) -> None:
    """Let deliveries that this job has not begun to send wait again, as they did before. No attempt is spent."""
    unsent = update(Delivery).where(*_sent_by(sender_id), Delivery.id.in_(delivery_ids))
    with write_session() as session:
        session.execute(unsent.values(state="waiting", sender_id=None))


def _sent_by(sender_id: str | None) -> tuple[ColumnElement[bool], ...]:
    return Delivery.state == "sending", Delivery.sender_id == sender_id


def secrets_of(secret: SigningSecret, moment: float) -> list[str]:
    """The secrets that sign at this moment, newest first."""
    sealed = [secret.sealed]
    if secret.previous and moment < (secret.previous_until or 0):
        sealed.append(secret.previous)
    return [secrets.unseal(one) for one in sealed]


def _outcome(is_delivered: bool, again_in: float | None, response: dict[str, Any]) -> dict[str, Any]:
    texts = {"response_text": 1024, "error": 300}
    stored = {name: storable(value, texts[name]) if name in texts and value else value for name, value in response.items()}
    state = "delivered" if is_delivered else "failed" if again_in is None else "waiting"
    due_at = None if again_in is None else now() + again_in
    return {**stored, "state": state, "due_at": due_at, "sender_id": None, "attempts": Delivery.attempts + 1, "attempted_at": now()}


def _update_health(session: Session, webhook_id: str, is_delivered: bool) -> None:
    """Update `failing_since` only if it changes; otherwise all senders to one endpoint would wait for the lock on its row."""
    is_changed = Webhook.failing_since.is_not(None) if is_delivered else Webhook.failing_since.is_(None)
    session.execute(update(Webhook).where(Webhook.id == webhook_id, is_changed).values(failing_since=None if is_delivered else now()))


def disable_endpoint(session: Session, webhook_id: str, reason: str) -> bool:
    """Disable the endpoint and fail its pending deliveries, which can be replayed. False if it was disabled already."""
    on = update(Webhook).where(Webhook.id == webhook_id, Webhook.disabled_at.is_(None))
    off = on.values(disabled_at=now(), disabled_reason=storable(reason, 300)).returning(Webhook.id)
    if session.scalar(off) is None:
        return False
    waiting = update(Delivery).where(Delivery.webhook_id == webhook_id, Delivery.state.in_(("waiting", "sending")))
    why = func.coalesce(Delivery.error, "The webhook was disabled.")
    session.execute(waiting.values(state="failed", due_at=None, sender_id=None, error=why))
    return True
