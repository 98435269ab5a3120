"""Limits on running jobs, and rates: what a claim gets, what it holds, and who is next; on each database, with real Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from monolith.db.engine import now, write_session
from monolith.db.models import Job, Lease
from monolith.db.rates import RateUse
from monolith.job_types import registry
from monolith.runner.ledger import lifecycle, pauses
from monolith.runner.ledger.audit import Actor
from monolith.runner.ledger.clock_lease import LEASE_S
from monolith.runner.ledger.lifecycle import Claim, Failure
from monolith.runner.ledger.outcomes import Outcome
from monolith.runner.queue import rq_queues
from monolith.runner.scheduler import clock
from tests.support.callers import Caller
from tests.support.jobs import new_jobs, stored

pytestmark = pytest.mark.databases

QUEUE = "default.normal"


@pytest.fixture
def submit(alice: Caller) -> Callable[..., list[str]]:
    def some(name: str, number: int, owner: Caller = alice, **wanted: object) -> list[str]:
        return [job.id for job in new_jobs(owner.user.id, name, number, **wanted)]

    return some


@pytest.fixture
def clock_ticks(app: object) -> None:
    """A clock leads, for as long as any test may take."""
    with write_session() as session:
        session.execute(update(Lease).values(holder="tests", expires_at=now() + LEASE_S))


def claim(*job_ids: str) -> dict[str, Claim]:
    """Take these messages, as a worker does, and claim the jobs; the claims by id."""
    for job_id in job_ids:
        rq_queues.connection().lrem(rq_queues.queue(stored(job_id).rq_queue).key, 0, job_id)
    return {one.job_id: one for one in lifecycle.claim_each(job_ids, "a worker")}


def finish(one: Claim) -> None:
    assert lifecycle.succeed(one, Outcome({}))


def statuses(job_ids: list[str]) -> list[str]:
    return [stored(job_id).status for job_id in job_ids]


def messages() -> list[str]:
    return rq_queues.queue(QUEUE).get_job_ids()


def pass_time(seconds: float) -> None:
    """As if so much time had passed for rates."""
    with write_session() as session:
        session.execute(update(RateUse).values(next_at=RateUse.next_at - seconds))


def test_two_run_and_the_others_are_held_without_spending_an_attempt(submit):
    jobs = submit("trial_two", 5)
    assert set(claim(*jobs)) == set(jobs[:2])
    assert statuses(jobs) == ["started", "started", "scheduled", "scheduled", "scheduled"]
    row = stored(jobs[2])
    assert (row.attempt, row.claims, row.run_at) == (0, 0, None)
    assert row.snooze_reason == "2 jobs of this type are running, which is the limit."
    assert [(event.name, event.note) for event in row.events] == [("submitted", None), ("held", row.snooze_reason)]


def test_jobs_of_other_types_are_claimed_in_the_same_call(submit):
    jobs = [*submit("trial_two", 3), *submit("trial_echo", 2)]
    assert set(claim(*jobs)) == {*jobs[:2], *jobs[3:]}


def test_each_end_makes_room_for_the_one_that_was_queued_first(submit):
    jobs = submit("trial_two", 6)
    claims = claim(*jobs[3:], *jobs[:3])  # they came in another order
    assert set(claims) == set(jobs[:2])
    finish(claims[jobs[0]])
    assert messages() == [jobs[2]]
    assert statuses(jobs) == ["finished", "started", "queued", "scheduled", "scheduled", "scheduled"]
    claims |= claim(jobs[2])
    assert jobs[2] in claims
    finish(claims[jobs[1]])
    finish(claims[jobs[2]])
    assert messages() == jobs[3:5]
    assert [event.name for event in stored(jobs[3]).events] == ["submitted", "held", "queued"]


def test_the_most_urgent_held_job_is_first(submit):
    running, held = submit("trial_two", 2), submit("trial_two", 2)
    claims = claim(*running, *held)
    urgent = submit("trial_two", 1, priority="high")
    assert claim(*urgent) == {}
    finish(claims[running[0]])
    assert statuses([*urgent, *held]) == ["queued", "scheduled", "scheduled"]


def test_owners_whose_jobs_a_limit_holds_take_turns(submit, bob):
    jobs = submit("trial_two", 7)
    claims = claim(*jobs)
    others = submit("trial_two", 3, bob)
    assert claim(*others) == {}
    started = jobs[:2]
    for one in [others[0], jobs[2], others[1], jobs[3], others[2], jobs[4], jobs[5], jobs[6]]:
        finish(claims[started.pop(0)])
        assert messages() == [one]
        claims |= claim(one)
        started.append(one)
    assert set(statuses([*jobs[:5], *others])) == {"finished"}


def test_a_new_job_does_not_overtake_held_ones(submit):
    jobs = submit("trial_two", 4)
    claims = claim(*jobs)
    finish(claims[jobs[0]])  # room for the third, which no worker has taken yet
    assert claim(*submit("trial_two", 1)) == {}
    assert set(claim(jobs[2])) == {jobs[2]}
    with write_session() as session:  # room that nobody has given yet
        session.execute(update(Job).where(Job.id == jobs[1]).values(status="finished"))
    assert claim(*submit("trial_two", 1)) == {}
    assert messages() == [jobs[3]]


def test_a_slot_that_was_promised_to_a_job_that_nobody_takes_is_given_to_another(submit):
    jobs = submit("trial_two", 3)
    claims = claim(*jobs)
    finish(claims[jobs[0]])
    with write_session() as session:
        session.execute(update(Job).where(Job.id == jobs[2]).values(queued_at=now() - 10))
    late = submit("trial_two", 1)
    assert set(claim(*late)) == set(late)
    assert claim(jobs[2]) == {}  # it came too late, and keeps its place
    later = submit("trial_two", 1)
    assert claim(*later) == {}
    finish(claims[jobs[1]])
    assert statuses([jobs[2], *later]) == ["queued", "scheduled"]


@pytest.mark.parametrize(
    "end",
    [
        lambda one: lifecycle.fail(one, Failure("x", "y"), registry.fixed(60)),
        lambda one: lifecycle.fail(one, Failure("x", "y", permanent=True), registry.fixed(60)),
        lambda one: lifecycle.snooze(one, 60, "later"),
        lambda one: lifecycle.stop(one.job_id),
        lambda one: lifecycle.stopped(one.job_id, one.number),
    ],
    ids=["retry", "failure", "snooze", "stop", "stopped by RQ"],
)
def test_whatever_ends_a_run_makes_room(submit, end):
    jobs = submit("trial_two", 3)
    claims = claim(*jobs)
    assert end(claims[jobs[0]])
    assert messages() == [jobs[2]]


def test_an_interrupted_job_is_queued_anew_and_so_waits_behind_the_held_ones(submit):
    jobs = submit("trial_two", 3)
    claims = claim(*jobs)
    assert lifecycle.interrupt(jobs[0], claims[jobs[0]].number, "its worker died")
    assert messages() == [jobs[0], jobs[2]]
    claims |= claim(jobs[0], jobs[2])
    assert statuses(jobs) == ["scheduled", "started", "started"]
    finish(claims[jobs[2]])
    assert messages() == [jobs[0]]


def test_the_clock_gives_room_that_nobody_gave_and_no_more(submit):
    jobs = submit("trial_two", 5)
    claim(*jobs)
    with write_session() as session:  # as if a worker had died between the end of a job and the next step
        session.execute(update(Job).where(Job.id == jobs[0]).values(status="finished"))
    assert lifecycle.release_held() is None
    assert messages() == [jobs[2]]
    lifecycle.release_held()
    assert messages() == [jobs[2]]


def test_repair_does_not_push_held_jobs(submit):
    jobs = submit("trial_two", 3)
    claim(*jobs)
    assert clock.repair()
    assert messages() == []


def test_held_jobs_are_cancelled_and_requeued_like_others(submit):
    jobs = submit("trial_two", 4)
    claims = claim(*jobs)
    assert lifecycle.cancel(jobs[2])
    finish(claims[jobs[0]])
    assert statuses(jobs[2:]) == ["canceled", "queued"]
    assert lifecycle.requeue(jobs[2])
    row = stored(jobs[2])
    assert (row.status, row.held_by, row.held_since) == ("queued", None, None)


def test_the_jobs_of_a_paused_type_stay_held_while_others_of_the_user_run(submit, intray_settings):
    intray_settings(MAX_RUNNING_PER_USER="1")
    running, paused, other = submit("trial_echo", 1), submit("trial_two", 1), submit("trial_echo", 1)
    claims = claim(*running, *paused, *other)
    assert set(claims) == set(running)
    pauses.pause("type:trial_two", "Maintenance", Actor("tests"))
    finish(claims[running[0]])
    assert statuses([*paused, *other]) == ["scheduled", "queued"]


def test_a_limit_for_each_user_concerns_nobody_else(submit, bob):
    own, others = submit("trial_one_each", 2), submit("trial_one_each", 2, bob)
    claims = claim(*own, *others)
    assert set(claims) == {own[0], others[0]}
    assert stored(own[1]).snooze_reason == "1 of your jobs of this type is running, which is the limit."
    finish(claims[others[0]])
    assert statuses([own[1], others[1]]) == ["scheduled", "queued"]


def test_a_limit_for_all_jobs_of_a_user_counts_all_types_but_internal_ones(submit, bob, intray_settings):
    intray_settings(MAX_RUNNING_PER_USER="2")
    jobs = [*submit("trial_echo", 1), *submit("trial_sleep", 2), *submit("trial_echo", 2, bob)]
    assert set(claim(*jobs)) == {jobs[0], jobs[1], jobs[3], jobs[4]}
    assert stored(jobs[2]).snooze_reason == "2 of your jobs are running, which is the limit."
    internal = [job.id for job in lifecycle.submit(bob.user.id, [lifecycle.JobSpec(registry.find("webhook"), {"delivery_id": "x"})])]
    assert set(claim(*internal)) == set(internal)


def test_what_a_removed_limit_holds_is_queued_again(submit, intray_settings):
    intray_settings(MAX_RUNNING_PER_USER="1")
    jobs = submit("trial_echo", 4)
    assert len(claim(*jobs)) == 1
    intray_settings(MAX_RUNNING_PER_USER="3")
    lifecycle.release_held()
    assert statuses(jobs) == ["started", "queued", "queued", "scheduled"]
    intray_settings(MAX_RUNNING_PER_USER="0")
    lifecycle.release_held()
    assert statuses(jobs) == ["started", "queued", "queued", "queued"]


def test_a_job_that_another_limit_refuses_waits_for_that_one_and_does_not_block_the_next(submit, caller, alice, bob, intray_settings):
    running = submit("trial_two", 2, bob)
    claims = claim(*running, *submit("trial_echo", 1))
    waiting = [*submit("trial_two", 1), *submit("trial_two", 1, caller("carol@example.org"))]
    assert claim(*waiting) == {}
    assert {stored(one).held_by for one in waiting} == {"max_running:trial_two"}
    intray_settings(MAX_RUNNING_PER_USER="1")
    finish(claims[running[0]])
    assert stored(waiting[0]).held_by == f"user::{alice.user.id}"
    assert statuses(waiting) == ["scheduled", "queued"]


def test_many_workers_at_once_never_run_more_than_the_limit(submit):
    jobs = submit("trial_two", 30)
    most: list[int] = []
    over = threading.Event()

    def work(number: int) -> None:
        while not over.is_set():
            message = rq_queues.connection().lpop(rq_queues.queue(QUEUE).key)
            if message is None:
                over.set() if set(statuses(jobs)) == {"finished"} else over.wait(0.01)
                continue
            for one in lifecycle.claim_each([message.decode()], f"worker {number}"):
                with write_session() as session:
                    most.append(len(session.scalars(select(Job.id).where(Job.status == "started")).all()))
                over.wait(0.03)  # it works
                finish(one)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(60)
    assert set(statuses(jobs)) == {"finished"}
    assert max(most) <= 2


# ---- rates


def test_a_rate_lets_some_start_and_holds_the_rest(submit):
    jobs = submit("trial_paced", 5)
    assert set(claim(*jobs)) == set(jobs[:2])
    row = stored(jobs[2])
    assert (row.status, row.attempt, row.snooze_reason) == ("scheduled", 0, "This job type starts at most 60 jobs an hour.")


def test_held_jobs_start_in_order_as_the_rate_has_room_and_are_charged_once(submit):
    jobs = submit("trial_paced", 5)
    claim(*jobs)
    assert 0 < (lifecycle.release_held() or 0) <= 60
    assert messages() == []
    pass_time(60)
    lifecycle.release_held()
    lifecycle.release_held()
    assert messages() == [jobs[2]]
    assert set(claim(jobs[2])) == {jobs[2]}
    lifecycle.release_held()
    assert messages() == []
    pass_time(60)
    lifecycle.release_held()
    assert messages() == [jobs[3]]


def test_while_no_worker_takes_jobs_their_rate_does_not_pile_up(submit):
    jobs = submit("trial_paced", 8)
    claim(*jobs)
    pass_time(36000)
    lifecycle.release_held()
    assert messages() == jobs[2:4]
    with write_session() as session:  # nobody took them for long
        session.execute(update(Job).where(Job.status == "queued").values(queued_at=now() - 60))
    lifecycle.release_held()
    assert messages() == jobs[2:6]
    assert set(claim(*jobs[2:6])) == set(jobs[2:4])
    assert statuses(jobs[4:6]) == ["scheduled", "scheduled"]
    pass_time(60)
    lifecycle.release_held()
    assert messages() == [jobs[4]]


def test_a_rate_for_each_user_concerns_nobody_else(submit, bob):
    own, others = submit("trial_paced_each", 3), submit("trial_paced_each", 2, bob)
    assert set(claim(*own, *others)) == {*own[:2], *others}
    assert stored(own[2]).snooze_reason == "This job type starts at most 60 of your jobs an hour."


def test_a_job_that_a_rate_holds_says_when_it_starts(submit, alice, clock_ticks):
    jobs = submit("trial_paced", 5)
    claim(*jobs)
    found = [alice.get(f"/api/v1/jobs/{one}").json["waiting_reason"] for one in jobs[2:]]
    assert all(one.startswith("This job type starts at most 60 jobs an hour. It starts at about ") for one in found)
    assert found == sorted(set(found))  # each a minute later
    page = alice.get(f"/jobs/{jobs[2]}").text
    assert "This job type starts at most 60 jobs an hour. It starts at about <time" in page
    assert "Held" in page


def test_a_job_that_a_limit_holds_says_so(submit, alice):
    jobs = submit("trial_two", 3)
    claim(*jobs)
    said = "2 jobs of this type are running, which is the limit."
    assert alice.get(f"/api/v1/jobs/{jobs[2]}").json["waiting_reason"] == said
    assert said in alice.get(f"/jobs/{jobs[2]}").text
