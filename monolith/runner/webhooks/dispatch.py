"""Dispatch: due deliveries become jobs of the type `webhook`, one for each attempt.

A delivery that waits for its next attempt is a row and not a job, so the backlog of a dead endpoint does not count towards its
owner's job limits.
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
MAX_IN_FLIGHT = 50  # to one endpoint
MAX_IN_FLIGHT_FAILING = 2  # an endpoint that hangs must not delay deliveries to others
BATCH = 500
MAX_ATTEMPTS = 10
RETRY_INTERRUPTED_S = 600.0

_deliveries: Any = Delivery.__table__


def dispatch() -> Iterator[None]:
    """Submit a job for each delivery that is due."""
    job_type = registry.discover().get(TYPE)
    if job_type is None:
        return
    _recover_interrupted()
    with read_session() as session:
        due = session.execute(_due()).all()
    of_owner: dict[int, list[str]] = defaultdict(list)
    for delivery_id, owner_id in due:
        of_owner[owner_id].append(delivery_id)
    for owner_id, ids in of_owner.items():
        _send(job_type, owner_id, ids)
        yield


def _due() -> Select[Any]:
    """The query for due deliveries, longest due first, limited by the number in flight to each endpoint."""
    place = func.row_number().over(partition_by=Delivery.webhook_id, order_by=Delivery.due_at)
    moment = select(now()).scalar_subquery()
    waiting = select(Delivery.id, Delivery.webhook_id, Delivery.due_at, place.label("place"))
    waiting_ones = waiting.where(Delivery.state == "waiting", Delivery.due_at <= moment).subquery()
    under_way = select(Delivery.webhook_id, func.count().label("jobs")).where(Delivery.state == "sending").group_by(Delivery.webhook_id)
    in_flight = under_way.subquery()
    most = case((Webhook.failing_since.is_(None), MAX_IN_FLIGHT), else_=MAX_IN_FLIGHT_FAILING)
    return (
        select(waiting_ones.c.id, Webhook.owner_id)
        .join(Webhook, and_(Webhook.id == waiting_ones.c.webhook_id, Webhook.disabled_at.is_(None)))
        .outerjoin(in_flight, in_flight.c.webhook_id == waiting_ones.c.webhook_id)
        .where(waiting_ones.c.place + func.coalesce(in_flight.c.jobs, 0) <= most)
        .order_by(waiting_ones.c.due_at)
        .limit(BATCH)
    )


def _send(job_type: JobType, owner_id: int, delivery_ids: Sequence[str]) -> None:
    specs = [JobSpec(job_type, {"delivery": one}, "high") for one in delivery_ids]
    senders = [(one.params["delivery"], one.id) for one in specs]
    lifecycle.submit(owner_id, specs, before=partial(_assign, senders))


def _assign(senders: list[tuple[str, str]], connection: Connection) -> None:
    """Assign the deliveries to their jobs, in the transaction of the jobs. A job that gets none sends nothing."""
    for delivery_id, job_id in senders:
        waiting = update(_deliveries).where(_deliveries.c.id == delivery_id, _deliveries.c.state == "waiting")
        connection.execute(waiting.values(state="sending", sender_id=job_id))


def _recover_interrupted() -> None:
    """Take deliveries back whose job ended without recording an outcome (poison, stopped by a user); that counts as an attempt."""
    lives = select(Job.id).where(Job.id == Delivery.sender_id, Job.status.not_in(OVER)).exists()
    is_last = Delivery.attempts + 1 >= MAX_ATTEMPTS
    state = case((is_last, "failed"), else_="waiting")
    due_at = case((is_last, None), else_=now() + RETRY_INTERRUPTED_S)
    interrupted = {"attempts": Delivery.attempts + 1, "attempted_at": now(), "sender_id": None, "error": "The attempt was interrupted."}
    with read_session() as session:
        if session.scalar(select(Delivery.id).where(Delivery.state == "sending", ~lives).limit(1)) is None:
            return
    with write_session() as session:
        session.execute(update(Delivery).where(Delivery.state == "sending", ~lives).values(state=state, due_at=due_at, **interrupted))


class WebhookTask:
    """The periodic task that turns events into deliveries, and due deliveries into jobs."""

    def __init__(self) -> None:
        self._outbox = Outbox()
        self._progress = ProgressReporter()

    def work(self) -> Iterator[None]:
        """Read the outbox, add progress deliveries, and dispatch what is due, in steps."""
        yield from self._outbox.read()
        self._progress.report()
        yield
        yield from dispatch()
