"""The clock: one leader, tasks that do not stop each other, and what it pushes again; on each database, with real Redis."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, text, update
from structlog.testing import capture_logs

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job, JobEvent, Lease, Sample
from monolith.runner.ledger import clock_lease, lifecycle
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from monolith.runner.monitoring.alert_snapshot import take_snapshot
from monolith.runner.prefork.redis_writer import held_key
from monolith.runner.queue import rq_queues
from monolith.runner.scheduler import clock, recovery
from monolith.runner.scheduler.clock import Clock, PeriodicTask
from monolith.runner.scheduler.recovery import MissingMessages
from monolith.runner.worker import execute
from monolith.server import doctor
from tests.support.callers import Caller
from tests.support.jobs import new_jobs
from tests.support.processes import Intray, until

pytestmark = pytest.mark.databases

QUEUE = "default.normal"
SILENT = {"heartbeat_at": now() - 31, "run_at": now()}  # of a job whose worker was silent after it had got notice


@pytest.fixture
def submit(alice: Caller) -> Callable[..., list[str]]:
    """Submit so many jobs, some seconds ago."""

    def some(number: int, **wanted: object) -> list[str]:
        jobs = new_jobs(alice.user.id, number=number, **wanted)
        with write_session() as session:
            session.execute(update(Job).where(Job.queued_at.is_not(None)).values(queued_at=Job.queued_at - 5))
        return [job.id for job in jobs]

    return some


def lose(*job_ids: str) -> None:
    for job_id in job_ids:
        assert rq_queues.connection().lrem(rq_queues.queue(QUEUE).key, 0, job_id) == 1


def messages() -> list[str]:
    return rq_queues.queue(QUEUE).get_job_ids()


def push_missing(missing: MissingMessages) -> list[str]:
    """Push what is missing; what was pushed, in its order."""
    before = len(messages())
    for _ in missing.push():
        pass
    return messages()[before:]


def statuses(job_ids: list[str]) -> set[str]:
    with read_session() as session:
        return set(session.scalars(select(Job.status).where(Job.id.in_(job_ids))))


def make_due(job_ids: list[str]) -> None:
    with write_session() as session:
        session.execute(update(Job).where(Job.id.in_(job_ids)).values(run_at=now() - 1))


# ---- messages that are missing


@pytest.mark.parametrize("places", [[0], [2], [3], [8], [0, 4, 5, 8], list(range(9))])
def test_what_is_missing_is_pushed_and_nothing_else_wherever_it_stood(submit, monkeypatch, places):
    monkeypatch.setattr(recovery, "PAGE", 3)
    monkeypatch.setattr(recovery, "BATCH", 2)
    monkeypatch.setattr(rq_queues, "IDS_PER_PAGE", 4)
    jobs = submit(9)
    lose(*(jobs[place] for place in places))
    assert set(push_missing(MissingMessages())) == {jobs[place] for place in places}
    assert sorted(messages()) == sorted(jobs)


@pytest.mark.databases("sqlite")
def test_keys_of_another_type_are_set_aside_and_stop_no_repair_and_no_page(submit, admin, alice):
    jobs, redis = submit(3), rq_queues.connection()
    for key in (rq_queues.queue(QUEUE).key, f"rq:job:{jobs[1]}", "rq:workers", "rq:queues"):
        redis.delete(key)
        redis.set(key, "of another type")
    redis.delete(rq_queues.INCARNATION)
    redis.lpush(rq_queues.INCARNATION, "of another type")
    until(lambda: clock.repair() and sorted(messages()) == sorted(jobs), 10)
    redis.set("rq:workers", "of another type")
    assert alice.get(f"/api/v1/jobs/{jobs[0]}").status_code == 200
    assert not rq_queues.cooldown.is_active
    assert "Start a worker or the clock" in {one.subject: one.message for one in doctor.examine()}["workers"]
    assert take_snapshot().listened is None
    assert take_snapshot().listened == set()
    redis.set("rq:worker:text", "x")
    fields = {"children": '[1, {"pid": "a"}, {"jobs": null}]', "birth": "never", "memory": "²", b"\xff": b"\xff", "queues": b"\xff,high"}
    redis.hset("rq:worker:odd", mapping=fields)
    redis.sadd("rq:workers", "rq:worker:text", "rq:worker:odd", b"rq:worker:\xff")
    assert take_snapshot().listened == {"\ufffd", "high"}
    assert [one["name"] for one in admin.get("/api/v1/workers").json["data"]] == ["odd"]
    pages = [caller.get(path).status_code for caller, path in ((admin, "/admin/"), (alice, f"/jobs/{jobs[0]}"))]
    assert max(pages) < 400
    assert alice.get(f"/api/v1/jobs/{jobs[0]}").status_code == 200


def test_a_job_that_a_worker_claims_meanwhile_is_not_pushed(submit):
    claimed, waiting = submit(2)
    lose(claimed, waiting)
    with read_session() as session:
        moment = session.scalar(select(now()))
    lifecycle.claim(claimed, "w")
    assert recovery._push_again([claimed, waiting], moment) == 1
    assert messages() == [waiting]


def test_what_redis_lost_is_pushed_again_although_the_clock_of_the_database_was_set_back(submit):
    jobs = submit(3)
    with write_session() as session:
        session.execute(update(Job).values(queued_at=now() + 600))
    rq_queues.connection().flushall()
    assert set(push_missing(MissingMessages())) == set(jobs)


def test_a_job_that_was_queued_a_moment_ago_is_not_missing(submit):
    job = submit(1)
    with write_session() as session:
        session.execute(update(Job).values(queued_at=now() - 1))
    lose(*job)
    assert push_missing(MissingMessages()) == []


def test_a_queue_is_not_read_again_and_again_for_the_messages_that_workers_hold(submit, monkeypatch):
    monkeypatch.setattr(recovery, "COOLDOWN_FACTOR", 10**6)
    monkeypatch.setattr(recovery, "BATCH", 2)
    jobs = submit(8)
    missing = MissingMessages()
    lose(jobs[0])
    assert push_missing(missing) == [jobs[0]]
    lose(jobs[1], jobs[2])
    assert push_missing(missing) == []
    lose(jobs[3])  # more than a batch: that is a loss, and no worker's doing
    assert set(push_missing(missing)) == set(jobs[1:4])


def test_what_an_emptied_redis_lost_is_pushed_at_once_although_its_queue_rests(submit, monkeypatch):
    monkeypatch.setattr(recovery, "COOLDOWN_FACTOR", 10**6)
    jobs = submit(3)
    missing = MissingMessages()
    lose(jobs[0])
    assert push_missing(missing) == [jobs[0]]
    rq_queues.connection().flushall()
    assert set(push_missing(missing)) == set(jobs)


def test_a_single_lost_message_is_found_after_the_rest(submit, monkeypatch):
    monkeypatch.setattr(recovery, "COOLDOWN_FACTOR", 0)
    jobs = submit(3)
    missing = MissingMessages()
    for job in jobs:
        lose(job)
        assert push_missing(missing) == [job]


def test_thousands_of_messages_that_redis_lost_are_pushed_within_seconds_and_each_once(submit):
    jobs = submit(5000)
    rq_queues.connection().flushall()
    over = threading.Event()
    ticking = threading.Thread(target=clock.run, args=(over.is_set, over.wait))
    ticking.start()
    try:
        until(lambda: len(messages()) >= len(jobs), within=20)
    finally:
        over.set()
        ticking.join()
    assert sorted(messages()) == sorted(jobs)


# ---- tasks


def test_more_due_jobs_than_one_batch_are_all_queued_in_one_tick(submit, monkeypatch):
    monkeypatch.setattr(clock, "BATCH", 2)
    jobs = submit(5, delay=60)
    make_due(jobs)
    Clock(lambda: False, "a").tick()
    assert statuses(jobs) == {"queued"}


def test_a_fault_in_one_duty_is_logged_and_stops_no_other(submit):
    jobs = submit(1, delay=60)
    silent = submit(1)
    lifecycle.claim(silent[0], "a worker that died")
    with write_session() as session:
        session.execute(text("DROP TABLE samples"))
        session.execute(text("DROP TABLE tallies"))
        session.execute(update(Job).where(Job.id == silent[0]).values(SILENT))
    one = Clock(lambda: False, "a")
    with capture_logs() as logged:
        one.tick()
        make_due(jobs)
        make_up(one, "evaluate_alerts")

        def have_failed() -> bool:
            one.tick()  # its time in each tick is short: a slow machine needs several
            failed = {line["task"] for line in logged if line["log_level"] == "error"}
            return failed == {"sample", "fold_tallies", "evaluate_alerts", "prune"}

        until(have_failed)
    assert statuses([*jobs, *silent]) == {"queued"}


def make_up(one: Clock, duty_name: str) -> None:
    """As if it were time for this task."""
    next(task for task in one._chores if task.name == duty_name).due_at = 0.0


def test_redis_away_stops_no_other_duty_and_its_return_is_seen_in_the_next_ticks(submit, intray_settings, redis_url):
    jobs, silent, waiting = submit(1, delay=60), submit(1), submit(1)
    lose(*silent, *waiting)
    lifecycle.claim(silent[0], "a worker that died")
    with write_session() as session:
        session.execute(update(Job).where(Job.id == silent[0]).values(SILENT))
    make_due(jobs)
    one = Clock(lambda: False, "a")
    intray_settings(REDIS_URL="redis://127.0.0.1:1/0")
    one.tick()
    assert statuses([*jobs, *silent]) == {"queued"}
    intray_settings(REDIS_URL=redis_url)
    for _ in range(20):  # a tick has little time for each task, and a busy machine less
        one.tick()
    assert waiting[0] in messages()


@pytest.mark.parametrize("silent_s", [45, -3600], ids=["the database was away", "its clock was set back"])
def test_workers_get_time_to_say_that_they_live_and_any_clock_knows_for_how_long(submit, silent_s):
    """Each clock is a new one, with nothing in its memory."""
    living, lost = submit(2)
    claims = [(one, lifecycle.claim(one, "a worker that could not write its heartbeat").number) for one in (living, lost)]
    with write_session() as session:
        session.execute(update(Job).values(heartbeat_at=now() - silent_s))
    look_for_lost_jobs()
    assert statuses([living, lost]) == {"started"}
    lifecycle.heartbeat_each(claims[:1])
    later(lifecycle.NOTICE_S - 1)
    look_for_lost_jobs()
    assert statuses([living, lost]) == {"started"}
    later(1)
    look_for_lost_jobs()
    assert (statuses([living]), statuses([lost])) == ({"started"}, {"queued"})


def test_when_the_clock_of_the_database_leaps_ahead_no_living_worker_loses_its_job(submit):
    """On the way it gives notice, and the worker reports."""
    job = submit(1)[0]
    claim = lifecycle.claim(job, "w")
    later(3600)
    for _ in range(3):
        look_for_lost_jobs()
        lifecycle.heartbeat_each([(job, claim.number)])
        later(5)
    assert statuses([job]) == {"started"}


def test_a_worker_that_says_in_redis_that_it_lives_keeps_its_jobs_for_ten_minutes(submit):
    """It cannot say so in the ledger: the database has no connection free for it."""
    jobs = submit(2)
    for job in jobs:
        lifecycle.claim(job, "w")
    with write_session() as session:
        session.execute(update(Job).values(SILENT))
    held = held_key("rq:worker:w")
    rq_queues.connection().set(held, json.dumps({jobs[0]: 1, jobs[1]: 2}))  # the second is another claim
    look_for_lost_jobs()
    assert (statuses(jobs[:1]), statuses(jobs[1:])) == ({"started"}, {"queued"})
    later(600)
    look_for_lost_jobs()
    assert statuses(jobs) == {"queued"}


def look_for_lost_jobs() -> None:
    for _ in recovery.interrupt_lost():
        pass


def later(seconds: float) -> None:
    """As if so many seconds had passed since the last heartbeats and notices."""
    with write_session() as session:
        session.execute(update(Job).values(heartbeat_at=Job.heartbeat_at - seconds, run_at=Job.run_at - seconds))


@pytest.mark.databases("postgresql")
def test_rows_that_somebody_has_locked_hold_up_nothing_else(submit):
    due, lost, running = submit(2, delay=60), submit(2), submit(1)
    make_due(due)
    for one in (*lost, *running):
        lifecycle.claim(one, "a worker that died")
    with write_session() as session:
        session.execute(update(Job).where(Job.id.in_(lost)).values(SILENT))
    one = Clock(lambda: False, "a")
    with write_session() as somebody:
        locked = [due[0], lost[0], *running]
        somebody.execute(select(Job.id).where(Job.id.in_(locked)).with_for_update())
        one.tick()
        look_for_lost_jobs()
        assert statuses([due[1], lost[1]]) == {"queued"}
        assert (statuses(due[:1]), statuses([lost[0], *running])) == ({"scheduled"}, {"started"})
    one.tick()
    look_for_lost_jobs()
    assert (statuses([*due, *lost]), statuses(running)) == ({"queued"}, {"started"})


def test_a_duty_is_done_in_steps_and_goes_on_where_it_was():
    done = []

    def steps():
        for number in range(3):
            done.append(number)
            yield

    task = PeriodicTask("count", steps, every_s=3600)
    for expected in ([0], [0, 1], [0, 1, 2]):
        task.work(lambda: False)
        assert done == expected
    task.work(lambda: True)  # the end of the third step
    task.work(lambda: True)  # not up for an hour
    assert done == [0, 1, 2]


def test_a_clock_that_lost_its_lease_stops_between_two_steps(submit, monkeypatch):
    monkeypatch.setattr(clock, "BATCH", 1)
    monkeypatch.setattr(clock, "RENEW_S", 0)
    jobs = submit(3, delay=60)
    make_due(jobs)
    queue_due = lifecycle.queue_due

    def while_another_takes_over(limit: int) -> list[Job]:
        with write_session() as session:
            session.execute(update(Lease).values(holder="another", expires_at=now() + clock_lease.LEASE_S))
        return queue_due(limit)

    monkeypatch.setattr(lifecycle, "queue_due", while_another_takes_over)
    one = Clock(lambda: False, "a")
    one.tick()
    one.tick()
    with read_session() as session:
        assert sorted(session.scalars(select(Job.status))) == ["queued", "scheduled", "scheduled"]


def test_what_waits_does_not_wait_for_longer_because_the_clock_of_the_database_was_set_back(submit):
    retried, delayed = submit(2, delay=60)
    with write_session() as session:
        retry = update(Job).where(Job.id == retried).values(attempt=1, started_at=now() + 3590, run_at=now() + 3620)
        session.execute(retry)
        session.execute(update(Job).where(Job.id == delayed).values(run_at=now() + 7200))
        session.execute(update(Lease).values(holder="a clock that died", expires_at=now() + 3600 + clock_lease.LEASE_S))
        session.add(CircuitBreaker(name="a server", failures=3, open_until=now() + 3630))
        session.add(Sample(at=now() + 3540, queue="default", type="trial_echo"))
    one = Clock(lambda: False, "a")
    with capture_logs() as logged:
        for one._renew_at in (0.0, 0.0):
            one.tick()
    assert [line["event"] for line in logged].count("database_clock_set_back") == 1
    with read_session() as session:
        in_s = dict(session.execute(select(Job.id, Job.run_at - now())).all())
        assert 0 < in_s[retried] <= 20 and 7100 < in_s[delayed] <= 7200
        assert 0 < session.scalar(select(CircuitBreaker.open_until - now())) <= 30
        assert session.scalar(select(func.count()).where(Sample.at > now())) == 0


# ---- several clocks


@pytest.fixture
def clocks(new_intray: Callable[..., Intray], database_url: str, redis_url: str, intray_settings: object) -> Intray:
    """Three real clocks, of which one leads."""
    one = new_intray(DATABASE_URL=database_url, REDIS_URL=redis_url, JOB_PACKAGES="jobs,tests.trial_jobs", LOG_FORMAT="json")
    for _ in range(3):
        one.spawn("clock")
    one.wait_until(lambda: leader() is not None)
    return one


def leader() -> int | None:
    """The process id of the clock that leads."""
    with read_session() as session:
        holder = session.scalar(select(Lease.holder).where(Lease.expires_at > now()))
    return int(holder.split(":")[-2]) if holder else None


def end(one: Intray, pid: int, number: signal.Signals) -> None:
    process = next(process for process in one.spawned if process.pid == pid)
    process.send_signal(number)
    process.wait(20)


def test_when_the_leading_clock_is_killed_another_takes_over_and_what_is_due_starts_once(clocks, submit):
    killed = leader()
    job = submit(1, delay=60)[0]
    end(clocks, killed, signal.SIGKILL)
    make_due([job])
    clocks.wait_until(lambda: statuses([job]) == {"queued"}, within=15)
    assert leader() not in (None, killed)
    clocks.wait_until(lambda: messages() == [job])
    execute.run(job)
    with read_session() as session:
        events = list(session.scalars(select(JobEvent.name).where(JobEvent.job_id == job)))
    assert (events.count("queued"), events.count("started")) == (1, 1)


def test_a_leading_clock_that_is_stopped_hands_over_at_once(clocks):
    stopped = leader()
    end(clocks, stopped, signal.SIGTERM)
    clocks.wait_until(lambda: leader() not in (None, stopped), within=5)  # its lease would have lasted 10 s


def test_clocks_survive_a_database_that_lacks_their_tables(clocks):
    """An old database, or one in trouble: they wait, and do not end."""
    with write_session() as session:
        session.execute(text("ALTER TABLE leases RENAME TO away"))
    clocks.wait_until(lambda: clocks.output().count("leases") >= 3)
    with write_session() as session:
        session.execute(text("ALTER TABLE away RENAME TO leases"))
        session.execute(update(Lease).values(expires_at=0))
    clocks.wait_until(lambda: leader() is not None)
    assert [process.poll() for process in clocks.spawned] == [None, None, None]
