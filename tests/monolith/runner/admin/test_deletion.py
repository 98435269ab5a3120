"""Every way of deleting jobs removes what Redis has of them and keeps the balance; webhooks go with what a person deletes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import RedisError
from rq.job import Job as RqJob
from sqlalchemy import func, select, update

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job
from monolith.runner.admin import bulk_actions, trash
from monolith.runner.admin.job_filter import JobFilter
from monolith.runner.admin.trash import Cleaning
from monolith.runner.ledger.audit import Actor
from monolith.runner.ledger.balance import balance
from monolith.runner.queue import rq_queues
from monolith.runner.scheduler import retention
from monolith.runner.webhooks import secrets
from monolith.runner.webhooks.models import Delivery, SigningSecret, Webhook
from tests.support.callers import Caller

pytestmark = pytest.mark.databases

DAY_S = 24 * 3600


def by_document(alice: Caller, document: dict[str, str]) -> None:
    assert alice.delete(f"/api/v1/documents/{document['id']}").status_code == 204


def by_trash(alice: Caller, document: dict[str, str]) -> None:
    assert bulk_actions.run(bulk_actions.ACTIONS["clean"], JobFilter(status="canceled"), Actor("tests")).changed == 1
    with write_session() as session:
        session.execute(update(Cleaning).values(at=now() - 2 * DAY_S))
    for _ in trash.empty_trash():
        pass


def by_retention(alice: Caller, document: dict[str, str]) -> None:
    for _ in retention.prune():
        pass


@pytest.fixture
def with_webhook(alice: Caller) -> tuple[dict[str, str], str]:
    """A document, and the id of its canceled job: a hundred days old, with a message in Redis and a delivery to send."""
    given = alice.post("/api/v1/documents", json={"text": "mine", "jobs": ["analyze"]}).json
    job_id = given["jobs"][0]["id"]
    secret = SigningSecret(owner_id=alice.user.id, sealed=secrets.seal(secrets.new_secret()))
    webhook = Webhook(owner_id=alice.user.id, url="https://example.org/", events=["job.failed"], secret=secret)
    with write_session() as session:
        session.execute(update(Job).values(status="canceled", ended_at=now() - 100 * DAY_S, created_at=now() - 100 * DAY_S))
        session.add(webhook)
        session.flush()
        session.add(Delivery(webhook_id=webhook.id, type="job.finished", job_id=job_id, body="{}"))
    with write_session() as session:  # the outbox has read its end
        session.execute(update(Webhook).values(disabled_at=now()))
    assert rq_queues.connection().exists(RqJob.key_for(job_id))
    return given["document"], job_id


@pytest.mark.parametrize(("delete", "deliveries"), [(by_document, 0), (by_trash, 0), (by_retention, 1)])
def test_jobs_are_deleted_with_what_redis_has_and_the_balance_holds(
    alice: Caller, with_webhook: tuple[dict[str, str], str], delete: Callable[[Caller, dict[str, str]], None], deliveries: int
) -> None:
    document, job_id = with_webhook
    delete(alice, document)
    assert not rq_queues.connection().exists(RqJob.key_for(job_id))
    assert job_id not in {one for name in rq_queues.names() for one in rq_queues.waiting_ids(name)}
    with read_session() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
        assert session.scalar(select(func.count()).select_from(Delivery)) == deliveries
    assert (balance().accepted, balance().pruned, balance().imbalance) == (1, 1, 0)


@pytest.mark.parametrize("delete", [by_document, by_retention])
def test_without_redis_jobs_are_deleted_all_the_same(
    alice: Caller,
    with_webhook: tuple[dict[str, str], str],
    delete: Callable[[Caller, dict[str, str]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document, _ = with_webhook
    monkeypatch.setattr(rq_queues, "forget", away)
    delete(alice, document)
    assert (balance().pruned, balance().imbalance) == (1, 0)


def away(*_: object) -> None:
    raise RedisError
