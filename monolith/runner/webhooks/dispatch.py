"""Deliveries whose time has come become jobs of the type `webhook`, one for each attempt.

What waits for its next attempt is a row here and no job: a dead endpoint's backlog takes up none of its owner's room.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, select, update

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import OVER, Job
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.webhooks.models import Delivery, Webhook
from monolith.runner.webhooks.outbox import Outbox, ProgressReporter

TYPE = "webhook"
AT_ONCE = 50  # to one endpoint
AT_ONCE_WHILE_FAILING = 2  # one that hangs must not hold up what others are to be told
BATCH = 500
MOST_ATTEMPTS = 10
BROKEN_OFF_S = 600.0

_deliveries: Any = Delivery.__table__


def dispatch() -> Iterator[None]:
    """Submit a job for each delivery that is due."""
    job_type = registry.discover().get(TYPE)
    if job_type is None:
        return
    _take_back()
    with read_session() as session:
        due = session.execute(_due()).all()
    of_owner: dict[int, list[str]] = defaultdict(list)
    for delivery_id, owner_id in due:
        of_owner[owner_id].append(delivery_id)
    for owner_id, ids in of_owner.items():
        _send(job_type, owner_id, ids)
        yield


def _due() -> Select[Any]:
    """The longest due, of each endpoint as many as may be under way at once."""
    place = func.row_number().over(partition_by=Delivery.webhook_id, order_by=Delivery.due_at)
    moment = select(now()).scalar_subquery()
    waiting = select(Delivery.id, Delivery.webhook_id, Delivery.due_at, place.label("place"))
    waiting_ones = waiting.where(Delivery.state == "waiting", Delivery.due_at <= moment).subquery()
    under_way = select(Delivery.webhook_id, func.count().label("jobs")).where(Delivery.state == "sending").group_by(Delivery.webhook_id)
    flying = under_way.subquery()
    most = case((Webhook.failing_since.is_(None), AT_ONCE), else_=AT_ONCE_WHILE_FAILING)
    return (
        select(waiting_ones.c.id, Webhook.owner_id)
        .join(Webhook, and_(Webhook.id == waiting_ones.c.webhook_id, Webhook.disabled_at.is_(None)))
        .outerjoin(flying, flying.c.webhook_id == waiting_ones.c.webhook_id)
        .where(waiting_ones.c.place + func.coalesce(flying.c.jobs, 0) <= most)
        .order_by(waiting_ones.c.due_at)
        .limit(BATCH)
    )


def _send(job_type: JobType, owner_id: int, delivery_ids: Sequence[str]) -> None:
    wanted = [JobSpec(job_type, {"delivery": one}, "high") for one in delivery_ids]
    senders = [(one.params["delivery"], one.id) for one in wanted]
    lifecycle.submit(owner_id, wanted, before=partial(_hand_over, senders))


def _hand_over(senders: list[tuple[str, str]], connection: Connection) -> None:
    """In the transaction of the jobs. A job whose delivery has gone another way meanwhile will send nothing."""
    for delivery_id, job_id in senders:
        waiting = update(_deliveries).where(_deliveries.c.id == delivery_id, _deliveries.c.state == "waiting")
        connection.execute(waiting.values(state="sending", sender_id=job_id))


def _take_back() -> None:
    """A sender that ended without a word (set aside as poison, stopped by a person) has spent an attempt."""
    lives = select(Job.id).where(Job.id == Delivery.sender_id, Job.status.not_in(OVER)).exists()
    is_last = Delivery.attempts + 1 >= MOST_ATTEMPTS
    state = case((is_last, "failed"), else_="waiting")
    due_at = case((is_last, None), else_=now() + BROKEN_OFF_S)
    said = {"attempts": Delivery.attempts + 1, "attempted_at": now(), "sender_id": None, "error": "The attempt was interrupted."}
    with read_session() as session:
        if session.scalar(select(Delivery.id).where(Delivery.state == "sending", ~lives).limit(1)) is None:
            return
    with write_session() as session:
        session.execute(update(Delivery).where(Delivery.state == "sending", ~lives).values(state=state, due_at=due_at, **said))


class WebhookTask:
    """Where the clock is in it."""

    def __init__(self) -> None:
        self._outbox = Outbox()
        self._progress = ProgressReporter()

    def work(self) -> Iterator[None]:
        yield from self._outbox.read()
        self._progress.tell()
        yield
        yield from dispatch()
