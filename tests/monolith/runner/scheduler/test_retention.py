"""What is deleted when it is old or too much, and what never is; on each database."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select, update

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Artefact, Document, Job, JobEvent, Sample
from monolith.job_types import registry
from monolith.runner.ledger import balance, lifecycle
from monolith.runner.ledger.insert import JobSpec
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.llm.budget import Spending
from monolith.runner.scheduler import retention
from tests.support.callers import Caller

pytestmark = pytest.mark.databases

DAY_S = 24 * 3600


@pytest.fixture
def end(alice: Caller) -> Callable[..., str]:
    """Make a job that ended so many days ago, in this status."""

    def one(status: str, days: float, name: str = "trial_echo", **wanted: object) -> str:
        job = lifecycle.submit(alice.user.id, [JobSpec(registry.find(name), {}, **wanted)])[0]
        with write_session() as session:
            ended = now() - days * DAY_S  # also of a live job, which has no such time: its status alone must save it
            session.execute(update(Job).where(Job.id == job.id).values(status=status, ended_at=ended, created_at=ended))
        return job.id

    return one


def prune() -> None:
    for _ in retention.prune():
        pass


def kept() -> set[str]:
    with read_session() as session:
        return set(session.scalars(select(Job.id)))


def count(table: type) -> int:
    with read_session() as session:
        return session.scalar(select(func.count()).select_from(table))


@pytest.mark.parametrize(
    ("status", "days", "stays"),
    [
        ("finished", 6.9, True),
        ("finished", 7.1, False),
        *[(status, days, days < 14) for status in ("failed", "stopped", "canceled") for days in (13.9, 14.1)],
        *[(status, 1000, True) for status in ("queued", "scheduled", "started")],
    ],
)
def test_a_job_is_kept_as_long_as_its_status_says_and_a_live_one_for_ever(end, status, days, stays):
    job = end(status, days)
    prune()
    assert kept() == ({job} if stays else set())
    assert balance.balance().imbalance == 0


def test_the_days_are_settings(end, intray_settings):
    intray_settings(KEEP_FINISHED_DAYS="0.5", KEEP_FAILED_DAYS="30")
    end("finished", 1)
    failed = end("failed", 20)
    prune()
    assert kept() == {failed}


def test_of_each_type_and_status_the_newest_are_kept_up_to_the_number(end, intray_settings):
    intray_settings(KEEP_PER_TYPE="2")
    finished = [end("finished", days) for days in (3, 1, 2, 4)]
    others = [end("failed", 3), end("finished", 6, name="trial_permanent"), end("queued", 9)]
    prune()
    assert kept() == {finished[1], finished[2], *others}


def test_more_than_a_batch_goes_batch_by_batch(end, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        end("finished", 8)
    steps = retention.prune()
    left = []
    for _ in range(3):
        next(steps)
        left.append(len(kept()))
    assert left == [3, 1, 0]


def test_a_job_goes_with_its_events_and_files_and_its_document_stays(alice, end):
    document = alice.post("/api/v1/documents", json={"text": "mine"}).get_json()["document"]["id"]
    job = lifecycle.submit(alice.user.id, [JobSpec(registry.find("trial_echo"), {"value": 1}, document_id=document)])[0]
    lifecycle.succeed(lifecycle.claim(job.id, "w"), Outcome({}, [("a.txt", "text/plain", b"a")]))
    with write_session() as session:
        session.execute(update(Job).values(ended_at=now() - 8 * DAY_S))
    assert (count(JobEvent), count(Artefact)) == (3, 1)
    prune()
    assert (kept(), count(JobEvent), count(Artefact), count(Document)) == (set(), 0, 0, 1)


def test_a_child_outlives_its_parent(end):
    parent = end("finished", 8)
    child = end("finished", 1)
    with write_session() as session:
        session.execute(update(Job).where(Job.id == child).values(parent_id=parent))
    prune()
    assert kept() == {child}


@pytest.mark.databases("postgresql")
def test_a_row_that_somebody_has_locked_is_deleted_later(end):
    locked = end("finished", 8)
    end("finished", 8)
    with write_session() as session:
        session.add_all([Sample(at=1, queue="default", type="trial_echo") for _ in range(2)])
    with write_session() as somebody:
        somebody.execute(select(Job.id).where(Job.id == locked).with_for_update())
        somebody.execute(select(Sample.id).limit(1).with_for_update())
        prune()
        assert (kept(), count(Sample)) == ({locked}, 1)
    prune()
    assert (kept(), count(Sample)) == (set(), 0)


def test_samples_are_kept_for_eight_days(intray_settings):
    with write_session() as session:
        session.add_all([Sample(at=now() - days * DAY_S, queue="default", type="trial_echo") for days in (7.9, 8.1)])
    prune()
    assert count(Sample) == 1


def test_what_users_spent_is_kept_for_four_hundred_days(intray_settings):
    with write_session() as session:
        today = int(session.scalar(select(now())) // DAY_S)
        days = [today, today - 399, today - 401]
        session.add_all([Spending(day=day, owner_id=1, input_tokens=1, output_tokens=1, nano_usd=1) for day in days])
    prune()
    with read_session() as session:
        assert set(session.scalars(select(Spending.day))) == set(days[:2])
