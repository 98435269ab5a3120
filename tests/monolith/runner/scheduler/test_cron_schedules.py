"""Periodic work: what is due is submitted once for each time, whoever looks; and what goes wrong is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select, update

from monolith.db.engine import now, read_now, read_session, write_session
from monolith.db.models import Job, JobEvent, User
from monolith.errors import Conflict, Invalid, NotFound
from monolith.runner.ledger.audit import Actor, AuditEntry
from monolith.runner.ledger.clock_lease import lead
from monolith.runner.scheduler import cron_schedules
from monolith.runner.scheduler.clock import Clock
from monolith.runner.scheduler.cron_schedules import Schedule, following
from tests.support.callers import Caller
from tests.support.processes import until

pytestmark = pytest.mark.databases

BY = Actor("admin@example.org")
DAILY = {"name": "Every day", "type": "analyze", "params": {"description": "A tool that sorts mail."}, "cron": "0 0 * * *"}


def created(admin: Caller, **changes: Any) -> Schedule:
    return cron_schedules.create({**DAILY, **changes}, admin.user, BY)


def overdue(schedule_id: int, seconds: float) -> None:
    """As if no clock had run since its time."""
    with write_session() as session:
        session.execute(update(Schedule).where(Schedule.id == schedule_id).values(next_at=now() - seconds))


def run_due() -> None:
    for _ in cron_schedules.submit_due():
        pass


def jobs() -> list[Job]:
    with read_session() as session:
        return list(session.scalars(select(Job).order_by(Job.created_at)))


def of(schedule_id: int) -> Schedule:
    with read_session() as session:
        return cron_schedules.find(session, schedule_id)


def test_a_schedule_is_not_silent_after_the_clock_of_the_database_was_set_back(admin: Caller) -> None:
    """Its clock was two hours ahead for a while, and the schedules ran on."""
    hourly, per_minute, daily = (created(admin, name=cron, cron=cron) for cron in ("0 * * * *", "* * * * *", "0 0 * * *"))
    with write_session() as session:
        session.execute(update(Schedule).where(Schedule.id != daily.id).values(next_at=Schedule.next_at + 7200))
        moment = read_now(session)
    for _ in cron_schedules.correct():
        pass
    assert [of(one.id).next_at for one in (hourly, per_minute)] == [following(one.cron, moment) for one in (hourly, per_minute)]
    assert of(daily.id).next_at == daily.next_at


def test_a_schedule_that_has_just_run_does_not_run_again_because_the_clock_was_set_back_by_a_moment(admin: Caller) -> None:
    schedule = created(admin)
    with write_session() as session:  # its time is the next one but one
        session.execute(update(Schedule).values(cron="* * * * *", next_at=following("* * * * *", read_now(session)) + 60))
    before = of(schedule.id).next_at
    for _ in cron_schedules.correct():
        pass
    assert of(schedule.id).next_at == before


def test_what_is_not_due_waits_and_what_is_due_becomes_a_job_that_says_who_and_why(admin: Caller) -> None:
    schedule = created(admin)
    run_due()
    assert jobs() == []
    overdue(schedule.id, 1)
    run_due()
    run_due()
    [job] = jobs()
    assert (job.owner_id, job.type, job.params["description"], job.status) == (
        admin.user.id,
        "analyze",
        DAILY["params"]["description"],
        "queued",
    )
    after = of(schedule.id)
    assert (after.last_job_id, after.last_error) == (job.id, None)
    assert after.next_at == cron_schedules.following("0 0 * * *", after.last_at or 0)
    with read_session() as session:
        [note] = session.scalars(select(JobEvent.note).where(JobEvent.job_id == job.id, JobEvent.name == "mark.by_schedule"))
    assert note == "Schedule “Every day” of admin@example.org: At 00:00 every day."


def test_many_missed_times_are_made_up_for_by_one_job(admin: Caller) -> None:
    schedule = created(admin, cron="* * * * *")
    overdue(schedule.id, 3 * 86400)
    for _ in range(3):
        run_due()
    assert len(jobs()) == 1
    assert (of(schedule.id).next_at or 0) % 60 == 0


def test_however_many_clocks_look_at_once_each_time_is_submitted_once(admin: Caller) -> None:
    made = [created(admin, name=f"Number {number}") for number in range(5)]
    for schedule in made:
        overdue(schedule.id, 1)
    at_once = threading.Barrier(4)

    def look() -> None:
        at_once.wait()
        run_due()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run_due()
    assert len(jobs()) == 5
    assert {of(schedule.id).last_job_id for schedule in made} == {job.id for job in jobs()}


def test_the_clock_submits_what_is_due_and_tells_of_its_duties(admin: Caller) -> None:
    schedule = created(admin)
    overdue(schedule.id, 1)
    assert lead("tests")
    clock = Clock(lambda: False, "tests")

    def has_told() -> bool:
        clock.tick()  # its time for each tick is short: a slow machine needs several
        return "Add up counters" in admin.get("/admin/schedules").text

    until(has_told)
    assert len(jobs()) == 1
    page = admin.get("/admin/schedules").text
    assert "Queue jobs that are due" in page and "Failed" not in page


def test_switched_off_it_does_not_run_and_on_again_it_goes_on_from_now(admin: Caller) -> None:
    schedule = created(admin)
    cron_schedules.change(schedule.id, {"is_on": False}, BY)
    assert of(schedule.id).next_at is None
    run_due()
    assert jobs() == []
    before = datetime.now(UTC).timestamp()
    again = cron_schedules.change(schedule.id, {"is_on": True}, BY)
    assert (again.next_at or 0) > before


def test_run_now_is_besides_its_times_and_is_written_down(admin: Caller) -> None:
    schedule = created(admin)
    job_id = cron_schedules.run_now(schedule.id, BY)
    assert [job.id for job in jobs()] == [job_id]
    after = of(schedule.id)
    assert (after.next_at, after.last_job_id) == (schedule.next_at, job_id)
    cron_schedules.remove(schedule.id, BY)
    with read_session() as session:
        acts = list(session.execute(select(AuditEntry.act, AuditEntry.subject).order_by(AuditEntry.id)))
    assert acts == [(act, "Every day") for act in ("schedule_created", "schedule_run", "schedule_deleted")]
    with pytest.raises(NotFound):
        of(schedule.id)
    assert len(jobs()) == 1, "the jobs it made stay"


def test_what_cannot_be_submitted_is_said_and_tried_again_at_the_next_time(admin: Caller) -> None:
    schedule = created(admin)
    with write_session() as session:
        session.execute(update(Schedule).values(params={"nonsense": 1}, next_at=now() - 1))
    run_due()
    failed = of(schedule.id)
    assert jobs() == [] and "Unknown field" in (failed.last_error or "")
    assert failed.last_at is None and (failed.next_at or 0) > datetime.now(UTC).timestamp()
    with write_session() as session:
        session.execute(update(Schedule).values(params=DAILY["params"], next_at=now() - 1))
    run_due()
    assert (len(jobs()), of(schedule.id).last_error) == (1, None)


def test_a_schedule_of_an_unknown_type_is_left_to_a_newer_clock_for_an_hour(admin: Caller) -> None:
    schedule = created(admin)
    with write_session() as session:
        session.execute(update(Schedule).values(type="newer", next_at=now() - 3500))
    due_at = of(schedule.id).next_at
    run_due()
    assert (of(schedule.id).next_at, of(schedule.id).last_error) == (due_at, None)
    overdue(schedule.id, 3601)
    run_due()
    assert "Unknown job type 'newer'" in (of(schedule.id).last_error or "")
    assert (of(schedule.id).next_at or 0) > datetime.now(UTC).timestamp()


def test_the_schedules_of_who_is_no_admin_any_more_do_not_run(admin: Caller) -> None:
    schedule = created(admin)
    with write_session() as session:
        session.execute(update(User).where(User.id == admin.user.id).values(is_admin=False))
    overdue(schedule.id, 1)
    run_due()
    assert jobs() == [] and "no longer an admin" in (of(schedule.id).last_error or "")


def test_a_name_is_given_once(admin: Caller) -> None:
    created(admin)
    with pytest.raises(Conflict, match="already"):
        created(admin)
    other = created(admin, name="Other")
    with pytest.raises(Conflict):
        cron_schedules.change(other.id, {"name": "Every day"}, BY)
    with read_session() as session:
        assert session.scalar(select(func.count()).select_from(Schedule)) == 2


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"name": " "}, "/name"),
        ({"name": "x" * 101}, "/name"),
        ({"type": "nope"}, "/type"),
        ({"type": "webhook"}, "/type"),
        ({"params": {"nonsense": 1}}, "/params/nonsense"),
        ({"params": {}}, "/document_id"),
        ({"priority": "urgent"}, "/priority"),
    ],
    ids=str,
)
def test_a_wrong_schedule_is_refused_with_its_field(admin: Caller, changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        created(admin, **changes)
    assert [error.pointer for error in caught.value.errors] == [pointer]


# ---- cron expressions


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("expression", "after", "following"),
    [
        ("30 6 * * MON", (2026, 11, 25), (2026, 11, 30, 6, 30)),
        ("*/15 * * * *", (2026, 11, 25, 7, 15), (2026, 11, 25, 7, 30)),
        ("0 0 29 2 *", (2026, 1, 1), (2028, 2, 29)),
        ("0 12 L * *", (2026, 11, 25), (2026, 11, 30, 12)),
        ("@daily", (2026, 12, 31, 5), (2027, 1, 1)),
        ("  5   4 * *   sun ", (2026, 11, 25), (2026, 11, 29, 4, 5)),
    ],
    ids=["monday", "quarters", "leap-day", "last-day", "short", "spaces"],
)
def test_a_cron_expression_comes_when_it_says(expression: str, after: tuple[int, ...], following: tuple[int, ...]) -> None:
    assert cron_schedules.following(cron_schedules.normalize(expression), at(*after)) == at(*following)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "Enter five fields"),
        ("* * * *", "Enter five fields"),
        ("* * * * * *", "Enter five fields"),
        ("60 * * * *", "The minute '60' is not valid"),
        ("0 24 * * *", "The hour '24' is not valid"),
        ("0 0 32 * *", "The day of month '32' is not valid"),
        ("0 0 * 13 *", "The month '13' is not valid"),
        ("0 0 * * 8", "The day of week '8' is not valid"),
        ("0 0 30 2 *", "The day of month '30' is not valid"),
        ("0 0 * * FUN", "The day of week 'FUN' is not valid"),
        ("*/0 * * * *", "The minute"),
        ("1," * 60 + " * * * *", "Enter five fields"),
        ("@sometimes", "Enter five fields"),
    ],
    ids=str,
)
def test_a_wrong_cron_expression_says_which_field(expression: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        cron_schedules.normalize(expression)
    assert said in caught.value.detail and caught.value.errors[0].pointer == "/cron"


def test_five_times_are_previewed(admin: Caller, caller: Callable[..., Caller]) -> None:
    assert len(cron_schedules.upcoming("0 0 * * *", at(2026, 1, 1))) == 5
    page = admin.get("/admin/schedules/preview?cron=30+6+*+*+MON").text
    assert page.count("<li>") == 5 and "At 06:30 on Monday" in page
    assert "The minute" in admin.get("/admin/schedules/preview?cron=61+*+*+*+*").text
