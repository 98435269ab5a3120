"""Events of jobs are read once each, whatever the order they are committed in, whoever reads them; on each database."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from monolith.db.engine import get_engine, now, read_session, write_session, write_transaction
from monolith.db.models import Document, Job, JobEvent, new_id
from monolith.job_types.registry import find
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.lifecycle import Claim, claim, submit, succeed
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.scheduler import retention
from monolith.runner.webhooks import outbox, secrets
from monolith.runner.webhooks.models import Bookmark, Delivery, SigningSecret, Webhook
from monolith.runner.webhooks.outbox import Outbox
from tests.support.callers import Caller

pytestmark = pytest.mark.databases


@pytest.fixture
def webhook(alice: Caller) -> Webhook:
    secret = SigningSecret(owner_id=alice.user.id, sealed=secrets.seal(secrets.new_secret()))
    one = Webhook(owner_id=alice.user.id, url="https://example.org/", events=["job.finished"], secret=secret)
    with write_session() as session:
        session.add(one)
    return one


def started(alice: Caller) -> Claim:
    job = submit(alice.user.id, [JobSpec(find("trial_echo"))])[0]
    mine = claim(job.id, "w")
    assert mine is not None
    return mine


def finish(alice: Caller, number: int = 1) -> list[str]:
    claims = [started(alice) for _ in range(number)]
    assert all(succeed(one, Outcome({})) for one in claims)
    return [one.job_id for one in claims]


def told() -> list[str]:
    with read_session() as session:
        return list(session.scalars(select(Delivery.job_id)))


def read(one: Outbox) -> None:
    for _ in one.read():
        pass


def test_many_ends_are_told_in_steps_and_each_once(alice, webhook, monkeypatch):
    monkeypatch.setattr(outbox, "STEP", 4)
    jobs = finish(alice, 9)
    one = Outbox()
    read(one)
    read(one)
    assert Counter(told()) == Counter(jobs)


def test_two_clocks_that_read_at_once_tell_each_once(alice, webhook, monkeypatch):
    monkeypatch.setattr(outbox, "STEP", 2)
    jobs = finish(alice, 20)
    readers = [threading.Thread(target=lambda: read(Outbox())) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    read(Outbox())
    assert Counter(told()) == Counter(jobs)


ON_POSTGRESQL = pytest.mark.databases("postgresql")  # SQLite has one writer at a time


@ON_POSTGRESQL
@pytest.mark.parametrize("commits", [True, False])
def test_an_event_that_is_committed_after_one_of_a_higher_number_is_not_passed_over(alice, webhook, commits):
    late = started(alice)
    one = Outbox()
    with get_engine().connect() as slow:
        transaction = slow.begin()
        slow.execute(update(Job).where(Job.id == late.job_id).values(status="finished", result={}))
        slow.execute(insert(JobEvent).values(job_id=late.job_id, name="finished", attempt=1))
        early = finish(alice)
        read(one)
        read(one)
        assert told() == []
        if commits:
            transaction.commit()
        else:
            transaction.rollback()
    read(one)
    assert sorted(told()) == sorted(early + [late.job_id] * commits)


@ON_POSTGRESQL
def test_a_long_transaction_that_writes_no_events_holds_nothing_up(alice, webhook):
    with get_engine().connect() as other, other.begin():
        other.execute(text("UPDATE leases SET expires_at = expires_at"))
        other.execute(text("SELECT count(*) FROM job_events"))
        jobs = finish(alice)
        read(Outbox())
        assert told() == jobs


def test_the_number_of_a_deleted_event_is_not_given_again(alice, webhook):
    """Else the next events would stand before the bookmark."""
    gone = finish(alice, 2)
    read(Outbox())
    with write_session() as session:
        session.execute(delete(Delivery))
        session.execute(delete(Job).where(Job.id.in_(gone)))
    jobs = finish(alice)
    read(Outbox())
    assert told() == jobs


def test_where_nobody_listens_events_are_passed_over_now_and_then(alice):
    with write_session() as session:
        session.execute(update(Bookmark).values(at=now()))
    finish(alice)
    read(Outbox())
    with read_session() as session:
        before = session.scalar(select(Bookmark.position))
    with write_session() as session:
        session.execute(update(Bookmark).values(at=now() - outbox.IDLE_S - 1))
    read(Outbox())
    with read_session() as session:
        newest = session.scalar(select(func.max(JobEvent.id)))
        assert before < session.scalar(select(Bookmark.position)) == newest


def test_jobs_are_not_pruned_before_their_end_was_read(alice, webhook, intray_settings):
    intray_settings(KEEP_FINISHED_DAYS="0")
    jobs = finish(alice)
    with write_session() as session:
        session.execute(update(Job).values(ended_at=now() - 3600))
        session.execute(update(Bookmark).values(at=now() - 7200))
    for _ in retention.prune():
        pass
    read(Outbox())
    assert told() == jobs
    for _ in retention.prune():
        pass
    with read_session() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
    assert told() == jobs  # what is still to be delivered outlives the job


def test_deliveries_and_single_webhooks_are_pruned_when_they_are_old(alice, webhook):
    with write_session() as session:
        session.add(Webhook(owner_id=alice.user.id, job_id=new_id(), url=webhook.url, events=webhook.events, secret_id=webhook.secret_id))
    finish(alice)
    read(Outbox())
    with write_session() as session:
        session.execute(update(Delivery).values(created_at=now() - 19 * 86400))
    for _ in retention.prune():
        pass
    with read_session() as session:
        assert list(session.scalars(select(Webhook.id))) == [webhook.id]
    assert told() == []


def test_deleting_a_document_deletes_what_was_told_of_its_jobs(alice, webhook):
    document = alice.post("/api/v1/documents", json={"text": "Marlin keeps tasks.", "jobs": ["analyze"]}).json
    mine = claim(document["jobs"][0]["id"], "w")
    assert mine and succeed(mine, Outcome({"secret": "of the document"}))
    read(Outbox())
    assert told() == [mine.job_id]
    assert alice.delete(document["document"]["links"]["self"]).status_code == 204
    assert told() == []


def test_a_move_and_its_event_are_one_so_the_outbox_is_complete(alice, webhook):
    """What is rolled back is told to nobody."""
    mine = started(alice)
    with pytest.raises(RuntimeError), write_transaction() as connection:
        connection.execute(insert(JobEvent.__table__).values(job_id=mine.job_id, name="finished", attempt=1))
        raise RuntimeError
    read(Outbox())
    assert told() == []
    with read_session() as session:
        assert session.scalar(select(func.count()).select_from(Document)) == 0
