"""Dispatch: due deliveries become jobs of the type `webhook`, the senders. Each sends a batch of deliveries of one owner.

A delivery that waits for its next attempt is a row and not a job, so the backlog of a dead endpoint does not count towards its
owner's job limits. There are few senders at a time, so endpoints that hang leave the I/O-bound slots of workers to other jobs. Owners
and hosts share them: the more senders are at work, the fewer may be those of one owner, or send to one host.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Subquery, case, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from monolith.config import settings
from monolith.db.engine import now, read_session, unlocked, write_session
from monolith.db.models import OVER, Job
from monolith.job_types import registry
from monolith.job_types.registry import JobType
from monolith.runner.ledger import lifecycle
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.queue import rq_queues
from monolith.runner.webhooks.models import Delivery, Webhook
from monolith.runner.webhooks.outbox import Outbox, ProgressReporter

TYPE = "webhook"
MAX_SENDERS = 8
OWNER_SHARE, HOST_SHARE = 4, 2  # one owner gets a sender while it has less than a fourth of what is free; one host, half
BATCH = 100  # deliveries for one sender
MAX_IN_FLIGHT_FAILING = 2  # deliveries to one endpoint
MAX_ATTEMPTS = 10
RETRY_INTERRUPTED_S = 600.0
REMEMBERED_S = 60.0

_deliveries: Any = Delivery.__table__
_host: ColumnElement[str] = func.coalesce(Webhook.host, Webhook.url)  # the version before, which still works during a deploy, sets none
_moment = select(now()).scalar_subquery()


class Dispatcher:
    """Submits senders. When it served whom last is kept in memory only, so a clock that takes over begins with who waits longest."""

    def __init__(self) -> None:
        self._served_at: dict[int, float] = {}  # by owner

    def work(self) -> Iterator[None]:
        """Submit senders for the deliveries that are due, one at a time, as long as the shares allow."""
        job_type = registry.discover().get(TYPE)
        if job_type is None:
            return
        _recover_interrupted()
        while batch := self._next_batch():
            _send(job_type, *batch)
            yield

    def _next_batch(self) -> tuple[int, Sequence[str]] | None:
        """The owner that gets the next sender, and the ids of its deliveries; None if nothing is due or may be sent now."""
        with read_session() as session:
            senders = Senders.at_work(session)
            owners = session.execute(_owners(senders)).all() if senders.free > 0 else ()
            if not owners:
                return None
            owner_id = min(
                owners, key=lambda one: (senders.owners[one.owner_id], self._served_at.get(one.owner_id, 0), one.due_at)
            ).owner_id
            batch = session.scalars(_batch_of(owner_id, senders)).all()
        self._note_served(owner_id)
        return (owner_id, batch) if batch else None

    def _note_served(self, owner_id: int) -> None:
        moment = time.monotonic()
        self._served_at = {one: at for one, at in self._served_at.items() if moment - at < REMEMBERED_S} | {owner_id: moment}


class Senders(NamedTuple):
    """How many more senders there may be, and the owners and hosts of those at work, each with the number of its senders."""

    free: int
    owners: Counter[int]
    hosts: Counter[str]

    @classmethod
    def at_work(cls, session: Session) -> Senders:
        """The senders that have deliveries to send, waiting for a worker or running."""
        sending = select(Delivery.sender_id, Webhook.owner_id, _host.label("host")).join(Webhook, Webhook.id == Delivery.webhook_id)
        rows = session.execute(sending.where(Delivery.state == "sending").distinct()).all()
        owner_of = {row.sender_id: row.owner_id for row in rows}
        return cls(_max_senders() - len(owner_of), Counter(owner_of.values()), Counter(row.host for row in rows))

    def may_send(self) -> Iterator[ColumnElement[bool]]:
        """The conditions for deliveries that another sender may send, in a query of `Delivery` and `Webhook`."""
        yield Delivery.state == "waiting"
        yield Delivery.due_at <= _moment
        yield Webhook.disabled_at.is_(None)
        yield Webhook.owner_id.not_in([owner for owner, count in self.owners.items() if count * OWNER_SHARE >= self.free])
        yield _host.not_in([host for host, count in self.hosts.items() if count * HOST_SHARE >= self.free])
        if self.free <= _max_senders() // 4:  # the last ones are for owners whose deliveries arrive
            yield Webhook.owner_id.not_in(_owners_of_retries())


def _max_senders() -> int:
    """Few enough that other jobs find a slot. A thread of the inline runner is one slot, and a worker has at least 16 by default."""
    return max(1, min(MAX_SENDERS, settings().worker_concurrency // 2)) if rq_queues.is_inline() else MAX_SENDERS


def _owners(senders: Senders) -> Select[int, float | None]:
    """The query for the owners that another sender may send for: `owner_id`, and the `due_at` of the delivery that waits longest."""
    in_flight = _in_flight()
    return (
        select(Webhook.owner_id, func.min(Delivery.due_at).label("due_at"))
        .join(Delivery, Delivery.webhook_id == Webhook.id)
        .outerjoin(in_flight, in_flight.c.webhook_id == Webhook.id)
        .where(*senders.may_send(), _has_room(Webhook.failing_since, in_flight.c.deliveries, 1))
        .group_by(Webhook.owner_id)
    )


def _batch_of(owner_id: int, senders: Senders) -> Select[str]:
    """The query for the deliveries of this owner that the next sender gets: the longest due first, in turn for each host."""
    in_flight = _in_flight()
    of_endpoint, of_host = (func.row_number().over(partition_by=key, order_by=Delivery.due_at) for key in (Delivery.webhook_id, _host))
    due = (
        select(Delivery.id, Delivery.due_at, Webhook.failing_since, in_flight.c.deliveries.label("in_flight"))
        .add_columns(of_endpoint.label("of_endpoint"), of_host.label("of_host"))
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .outerjoin(in_flight, in_flight.c.webhook_id == Webhook.id)
        .where(*senders.may_send(), Webhook.owner_id == owner_id)
        .subquery()
    )
    with_room = select(due.c.id).where(_has_room(due.c.failing_since, due.c.in_flight, due.c.of_endpoint))
    return with_room.order_by(due.c.of_host, due.c.due_at).limit(BATCH)


def _owners_of_retries() -> Select[int]:
    """The query for the owners of deliveries that wait for another attempt."""
    failed, endpoint = aliased(Delivery), aliased(Webhook)
    query = select(endpoint.owner_id).join(failed, failed.webhook_id == endpoint.id)
    return query.where(failed.state == "waiting", failed.attempts > 0)


def _in_flight() -> Subquery:
    """How many deliveries to each endpoint are being sent."""
    sending = select(Delivery.webhook_id, func.count().label("deliveries")).where(Delivery.state == "sending")
    return sending.group_by(Delivery.webhook_id).subquery()


def _has_room(failing_since: Any, in_flight: Any, place: Any) -> ColumnElement[bool]:
    """Whether an endpoint may get the delivery with this place in its line: one that fails gets few at a time."""
    return or_(failing_since.is_(None), func.coalesce(in_flight, 0) + place <= MAX_IN_FLIGHT_FAILING)


def _send(job_type: JobType, owner_id: int, delivery_ids: Sequence[str]) -> None:
    sender = JobSpec(job_type, priority="high")
    lifecycle.submit(owner_id, [sender], before=partial(_assign, delivery_ids, sender.id))


def _assign(delivery_ids: Sequence[str], sender_id: str, connection: Connection) -> None:
    """Assign the deliveries to their sender, in the transaction of that job. A sender that gets none sends nothing."""
    waiting = update(_deliveries).where(_deliveries.c.id.in_(delivery_ids), _deliveries.c.state == "waiting")
    connection.execute(waiting.values(state="sending", sender_id=sender_id))


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
        these = Delivery.id.in_(unlocked(select(Delivery.id).where(Delivery.state == "sending", ~lives)))
        session.execute(update(Delivery).where(these).values(state=state, due_at=due_at, **interrupted))


class WebhookTask:
    """The periodic task that turns events into deliveries, and due deliveries into jobs."""

    def __init__(self) -> None:
        self._outbox = Outbox()
        self._progress = ProgressReporter()
        self._dispatcher = Dispatcher()

    def work(self) -> Iterator[None]:
        """Read the outbox, add progress deliveries, and dispatch what is due, in steps."""
        yield from self._outbox.read()
        self._progress.report()
        yield
        yield from self._dispatcher.work()
