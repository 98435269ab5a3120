"""Who gets the senders: owners and hosts share them. The clock is ticked by hand, on each database; nothing is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count

import pytest
from sqlalchemy import select, update

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job
from monolith.runner.ledger import lifecycle
from monolith.runner.webhooks import delivery, secrets
from monolith.runner.webhooks.dispatch import BATCH, MAX_SENDERS, Dispatcher
from monolith.runner.webhooks.models import Delivery, SigningSecret, Webhook
from tests.support.callers import Caller

pytestmark = pytest.mark.databases

Owner = Callable[[], int]


@pytest.fixture
def owner(caller: Callable[..., Caller]) -> Owner:
    """Makes users."""
    numbers = count()
    return lambda: int(caller(f"user{next(numbers)}@example.org").user.id)


def add(owner_id: int, *urls: str, late_s: float = 0, attempts: int = 0) -> None:
    """A delivery to each of these URLs, each to an endpoint of its own as that of a single job."""
    secret = SigningSecret(owner_id=owner_id, sealed=secrets.seal(secrets.new_secret()))
    with write_session() as session:
        for url in urls:
            webhook = Webhook(owner_id=owner_id, job_id=url, url=url, events=[], secret=secret)
            session.add(Delivery(webhook=webhook, type="job.finished", body="{}", due_at=now() - late_s, attempts=attempts))


def tick(dispatcher: Dispatcher) -> None:
    for _ in dispatcher.work():
        pass


def senders() -> Counter[int]:
    """How many senders of each user have something to send."""
    query = select(Webhook.owner_id, Delivery.sender_id).join(Delivery).where(Delivery.state == "sending").distinct()
    with read_session() as session:
        return Counter(row.owner_id for row in session.execute(query))


def jobs_of(owner_id: int) -> list[str]:
    with read_session() as session:
        return list(session.scalars(select(Job.id).where(Job.owner_id == owner_id, Job.type == "webhook").order_by(Job.created_at)))


def end(owner_id: int) -> None:
    """The senders of this owner give back what they had, as if nothing had answered in time, and end."""
    for job_id in jobs_of(owner_id):
        delivery.give_back(job_id, [one.id for one in delivery.load(job_id)])
        lifecycle.cancel(job_id)


@pytest.mark.parametrize("hosts", [1, 300])
def test_one_owner_gets_few_senders_whatever_the_hosts_and_others_find_some(owner: Owner, hosts: int) -> None:
    hog, light, dispatcher = owner(), owner(), Dispatcher()
    add(hog, *(f"https://h{number % hosts}.example.org/{number}" for number in range(300)), late_s=60)
    tick(dispatcher)
    tick(dispatcher)
    assert senders() == {hog: 2}
    add(light, "https://light.example.org/")
    tick(dispatcher)
    assert senders() == {hog: 2, light: 1}


def test_a_host_that_many_owners_use_gets_not_all_senders(owner: Owner) -> None:
    dispatcher, many, light = Dispatcher(), [owner() for _ in range(8)], owner()
    for one in many:
        add(one, *(f"https://same.example.org/{number}" for number in range(150)), late_s=60)
    tick(dispatcher)
    assert sum(senders().values()) == 3
    add(light, "https://light.example.org/", "https://same.example.org/")
    tick(dispatcher)
    assert senders()[light] == 1
    with read_session() as session:
        hosts = session.scalars(select(Webhook.host).join(Delivery).where(Delivery.state == "sending", Webhook.owner_id == light)).all()
    assert hosts == ["light.example.org"]


def test_the_last_senders_are_for_owners_whose_deliveries_arrive(owner: Owner) -> None:
    dispatcher, many, light = Dispatcher(), [owner() for _ in range(12)], owner()
    for one in many:
        add(one, f"https://h{one}.example.org/retried", late_s=60, attempts=1)
        add(one, *(f"https://h{one}.example.org/{number}" for number in range(150)), late_s=30)
    tick(dispatcher)
    assert sum(senders().values()) == MAX_SENDERS * 3 // 4
    add(light, "https://light.example.org/")
    tick(dispatcher)
    assert senders()[light] == 1


def test_owners_take_turns_however_long_their_deliveries_have_been_due(owner: Owner) -> None:
    dispatcher, many = Dispatcher(), [owner() for _ in range(12)]
    for one in many:
        add(one, *(f"https://h{one}.example.org/{number}" for number in range(150)), late_s=3600 - one)
    tick(dispatcher)
    first = set(senders())
    late = owner()
    add(late, "https://late.example.org/")
    for one in first:
        end(one)
    tick(dispatcher)
    assert late in senders() and set(many) - first <= set(senders())


def test_a_batch_has_of_each_host_as_many_as_of_another(owner: Owner) -> None:
    hog = owner()
    add(hog, *(f"https://hangs.example.org/{number}" for number in range(3 * BATCH)), late_s=60)
    add(hog, *(f"https://works.example.org/{number}" for number in range(BATCH // 2)))
    tick(Dispatcher())
    batch = Counter(one.host for one in delivery.load(jobs_of(hog)[0]))
    assert batch == {"hangs.example.org": BATCH // 2, "works.example.org": BATCH // 2}


def test_what_a_sender_gives_back_has_spent_no_attempt_and_is_sent_by_the_next(owner: Owner) -> None:
    hog, dispatcher = owner(), Dispatcher()
    add(hog, *(f"https://h.example.org/{number}" for number in range(5)))
    tick(dispatcher)
    (first,) = jobs_of(hog)
    sent, *unsent = delivery.load(first)
    sent.record(is_delivered=True)
    delivery.give_back(first, [one.id for one in (sent, *unsent)])
    lifecycle.cancel(first)
    tick(dispatcher)
    _, second = jobs_of(hog)
    assert [(one.id, one.attempts) for one in delivery.load(second)] == [(one.id, 0) for one in unsent]


def test_an_endpoint_without_a_host_shares_by_its_url(owner: Owner) -> None:
    """Such as the version before inserts while it still works."""
    hog = owner()
    add(hog, "https://h.example.org/")
    with write_session() as session:
        session.execute(update(Webhook).values(host=None))
    tick(Dispatcher())
    assert [one.host for one in delivery.load(jobs_of(hog)[0])] == ["https://h.example.org/"]


@pytest.mark.parametrize(("threads", "most"), [("1", 1), ("4", 2), ("100", MAX_SENDERS)])
def test_inline_half_of_the_threads_stay_for_other_jobs(
    owner: Owner, intray_settings: Callable[..., None], threads: str, most: int
) -> None:
    intray_settings(QUEUE_MODE="inline", WORKER_CONCURRENCY=threads)
    for one in [owner() for _ in range(10)]:
        add(one, f"https://h{one}.example.org/")
    tick(Dispatcher())
    assert sum(senders().values()) == most
