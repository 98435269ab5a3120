"""The promises that one fault at a time can show: each test breaks one thing in a running fleet."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine, insert, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from monolith.db.models import Job, User, new_id
from monolith.runner.scheduler.clock import LOST_S
from tests.support.chaos.fleet import EXIT_S, Fleet, Post, new_fleet
from tests.support.chaos.ledger import runs_in
from tests.support.databases import has_postgresql
from tests.support.processes import until

WAITING = 5000
NewFleet = Callable[..., Fleet]


@pytest.fixture
def fleet_of(tmp_path: Path) -> Iterator[NewFleet]:
    """Start a fleet: `fleet_of("sqlite", workers=2)`."""
    with ExitStack() as stack:
        yield lambda database, **options: stack.enter_context(new_fleet(tmp_path, database, **options))


@pytest.mark.timeout(300)
def test_when_redis_is_emptied_with_5000_waiting_all_are_pushed_again_and_none_runs_twice(fleet_of: NewFleet, tmp_path: Path) -> None:
    fleet = fleet_of("sqlite", workers=0, clocks=2)
    _queue(fleet, WAITING)
    fleet.redis.flushall()
    emptied_at = time.monotonic()
    until(lambda: fleet.redis.llen("rq:queue:default.normal") == WAITING, 60)
    seconds = time.monotonic() - emptied_at
    assert seconds < 20, f"pushed again after {seconds:.1f} s"
    fleet.hire(2)
    until(lambda: len(runs_in(tmp_path / "runs")) >= 40, 60)
    fleet.redis.flushall()
    until(lambda: fleet.redis.llen("rq:queue:default.normal") > 0, 60)
    known = len(runs_in(tmp_path / "runs"))
    until(lambda: len(runs_in(tmp_path / "runs")) >= known + 40, 60)
    runs = runs_in(tmp_path / "runs")
    assert set(runs.values()) == {1}
    assert {claim for _, claim in runs} == {1}


@pytest.mark.timeout(300)
def test_sigterm_of_everything_with_20_running_jobs_ends_all_in_time_and_spends_no_attempt(fleet_of: NewFleet) -> None:
    fleet = fleet_of("sqlite", workers=4, SHUTDOWN_GRACE="3")
    ids = [fleet.submit("chaos_sleep", seconds=20) for _ in range(20)]
    until(lambda: _count(fleet, "started") == 20, 60)
    assert fleet.deploy() < EXIT_S
    jobs = fleet.when_over(60).jobs
    assert {(jobs[one].status, jobs[one].attempt, jobs[one].claims, jobs[one].crashes) for one in ids} == {("finished", 1, 2, 0)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["stopped", "read-only"])
def test_jobs_that_end_while_the_database_is_away_keep_their_outcome_and_run_once(fleet_of: NewFleet, tmp_path: Path, fault: str) -> None:
    if not has_postgresql():
        pytest.skip("PostgreSQL is not installed")
    fleet = fleet_of("postgresql", workers=3, LOG_FORMAT="json")
    ids = [fleet.submit("chaos_sleep", seconds=4) for _ in range(2)]
    talkative = fleet.submit("chaos_steps", seconds=4)
    until(lambda: all(_note(fleet, one) for one in (*ids, talkative)), 60)  # one that cannot say its step is put aside, and runs again
    if fault == "stopped":
        fleet.keep_away(fleet.posts["postgresql"], signal.SIGQUIT, 20)
        until(lambda: not fleet.posts["postgresql"].pid, 20)
    else:
        _make_read_only(fleet, "on")
    answer = requests.post(f"{fleet.intray.base_url}/api/v1/jobs", json={"type": "chaos_quick"}, headers=fleet.headers, timeout=30)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    assert not fleet.intray.is_ready()
    if fault == "stopped":
        until(lambda: bool(fleet.cluster and fleet.cluster.answers()), 60)
    else:
        away_until = time.monotonic() + 20
        until(lambda: time.monotonic() > away_until, 30)
        _make_read_only(fleet, "off")
    until(fleet.intray.is_ready, 30, fleet.intray.output)
    jobs = fleet.when_over(60).jobs
    assert {(jobs[one].status, jobs[one].attempt, jobs[one].claims) for one in ids} == {("finished", 1, 1)}
    printed = [json.loads(line) for line in fleet.intray.output().splitlines() if line.startswith("{")]
    lines = [line for line in printed if line["process"] == "clock"]
    assert sum(line["event"] == "database_away" for line in lines) <= 2  # one of each clock
    assert not [line for line in lines if "exception" in line]
    assert (jobs[talkative].status, jobs[talkative].attempt, jobs[talkative].crashes) == ("finished", 1, 0)
    assert set(runs_in(tmp_path / "runs").values()) == {1}


@pytest.mark.timeout(300)
def test_what_killed_processes_could_not_record_is_recorded_by_the_next_ones_and_not_done_again(fleet_of: NewFleet, tmp_path: Path) -> None:
    fleet = fleet_of("sqlite", workers=1)
    refuse = (
        "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN NEW.status = 'finished' BEGIN SELECT RAISE(ABORT, 'the archive is full'); END"
    )
    _execute(fleet, refuse)
    (fleet.points / "finish").touch()
    ids = [fleet.submit("chaos_sleep", seconds=0), fleet.submit("chaos_large", until=str(fleet.points / "finish"))]
    until(lambda: len(list(fleet.home.glob("outcomes/*.json"))) == 2, 60, fleet.intray.output)
    killed = {post.name: post.pid for kind in ("worker", "clock") for post in fleet.named(kind)}
    for name in killed:
        fleet.kill(fleet.posts[name])
    until(lambda: all(fleet.posts[name].pid not in (0, pid) for name, pid in killed.items()), 60)
    _execute(fleet, "DROP TRIGGER refuse")
    jobs = fleet.when_over(60).jobs
    assert {(jobs[one].status, jobs[one].attempt, jobs[one].claims) for one in ids} == {("finished", 1, 1)}
    assert set(runs_in(tmp_path / "runs").values()) == {1}
    assert not list(fleet.home.glob("outcomes/*.json"))


@pytest.mark.timeout(300)
def test_a_worker_and_its_job_outlive_redis_and_nothing_runs_twice(fleet_of: NewFleet, tmp_path: Path) -> None:
    fleet = fleet_of("sqlite", workers=1)
    worker = fleet.posts["worker-0"].pid
    ids = [fleet.submit("chaos_sleep", seconds=3), fleet.submit("chaos_quick")]
    until(lambda: _count(fleet, "started") == 1, 60)
    fleet.keep_away(fleet.posts["redis"], signal.SIGKILL, 6)
    jobs = fleet.when_over(90).jobs
    assert {(jobs[one].status, jobs[one].attempt, jobs[one].claims) for one in ids} == {("finished", 1, 1)}
    assert fleet.posts["worker-0"].pid == worker
    assert set(runs_in(tmp_path / "runs").values()) == {1}


@pytest.mark.timeout(300)
def test_the_outcome_of_a_worker_that_was_frozen_and_given_up_changes_nothing(fleet_of: NewFleet, tmp_path: Path) -> None:
    fleet = fleet_of("sqlite", workers=1)
    job_id = fleet.submit("chaos_sleep", seconds=3)
    until(lambda: _count(fleet, "started") == 1 and len(runs_in(tmp_path / "runs")) == 1, 60)
    frozen = fleet.posts["worker-0"]
    until(lambda: _frozen_between_writes(fleet, frozen), 20)
    fleet.hire(1)
    second = fleet.when_over(90).jobs[job_id]
    fleet.thaw()
    # Its outcome came too late, or its heartbeat showed first that the job is no longer its.
    until(lambda: "job_overtaken" in fleet.intray.output() or f"job {job_id}: taken" in fleet.intray.output(), 30)
    pages = fleet.read()
    assert pages.jobs[job_id].ended_at == second.ended_at
    assert (pages.jobs[job_id].claims, pages.jobs[job_id].attempt) == (2, 1)
    assert (pages.follow_ups[job_id], pages.files[job_id]) == (1, 1)
    assert [name for _, name, _, _ in pages.events[job_id]].count("finished") == 1
    assert set(runs_in(tmp_path / "runs").values()) == {1}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", ["claimed, not handed over", "reported, not recorded"])
def test_a_hook_process_killed_in_its_statement_loses_and_doubles_nothing(fleet_of: NewFleet, tmp_path: Path, point: str) -> None:
    """The statement of the dead process is committed only after its successor has begun to ask again."""
    if not has_postgresql():
        pytest.skip("PostgreSQL is not installed")
    fleet = fleet_of("postgresql", workers=1)
    job_id = fleet.submit("chaos_sleep", seconds=1)
    if point == "claimed, not handed over":
        job_id = _taken_and_not_claimed(fleet)
    else:
        until(lambda: len(runs_in(tmp_path / "runs")) == 1, 60)
    hooks = fleet.hook_process_of(fleet.posts["worker-0"])
    with create_engine(fleet.database_url, poolclass=NullPool).connect() as locking:
        locking.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
        os.kill(hooks, signal.SIGCONT)
        until(lambda: _waits_for_a_lock(fleet), 20)
        os.kill(hooks, signal.SIGKILL)
        until(lambda: fleet.hook_process_of(fleet.posts["worker-0"]) != hooks, 20)
    jobs = fleet.when_over(60).jobs
    job = jobs[job_id]
    assert (job.status, job.attempt, job.interruptions, job.crashes) == ("finished", 1, 0, 0)
    assert sorted(job for job, _ in runs_in(tmp_path / "runs")) == sorted(jobs)  # each once


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", ["before its claim", "while it runs"])
def test_a_locked_row_holds_up_its_own_job_alone_which_goes_on_when_it_is_free(fleet_of: NewFleet, tmp_path: Path, point: str) -> None:
    if not has_postgresql():
        pytest.skip("PostgreSQL is not installed")
    fleet = fleet_of("postgresql", workers=1)
    locked = fleet.submit("chaos_sleep", seconds=1)
    if point == "before its claim":
        locked = _taken_and_not_claimed(fleet)
    else:
        until(lambda: len(runs_in(tmp_path / "runs")) == 1, 60)
    with create_engine(fleet.database_url, poolclass=NullPool).connect() as locking:
        locking.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": locked})
        os.kill(fleet.hook_process_of(fleet.posts["worker-0"]), signal.SIGCONT)
        until(lambda: _waits_for_a_lock(fleet), 20)
        others = [fleet.submit("chaos_sleep", seconds=0) for _ in range(20)]
        until(lambda: all(fleet.read().jobs[one].status == "finished" for one in others), 10, fleet.intray.output)
        assert fleet.read().jobs[locked].status == ("queued" if point == "before its claim" else "started")
    jobs = fleet.when_over(60).jobs
    assert {(jobs[one].status, jobs[one].attempt, jobs[one].claims) for one in (locked, *others)} == {("finished", 1, 1)}
    assert sorted(job for job, _ in runs_in(tmp_path / "runs")) == sorted(jobs)  # each once


@pytest.mark.timeout(300)
def test_a_frozen_hook_process_is_replaced_and_nothing_runs_twice(fleet_of: NewFleet, tmp_path: Path) -> None:
    fleet = fleet_of("sqlite", workers=1)
    running = fleet.submit("chaos_sleep", seconds=2)
    until(lambda: len(runs_in(tmp_path / "runs")) == 1, 60)
    frozen = fleet.hook_process_of(fleet.posts["worker-0"])
    os.kill(frozen, signal.SIGSTOP)
    waiting = fleet.submit("chaos_sleep", seconds=0)
    jobs = fleet.when_over(60).jobs
    assert fleet.hook_process_of(fleet.posts["worker-0"]) != frozen
    assert {(jobs[one].status, jobs[one].attempt, jobs[one].interruptions) for one in (running, waiting)} == {("finished", 1, 0)}
    assert set(runs_in(tmp_path / "runs").values()) == {1}


@pytest.mark.timeout(300)
def test_a_worker_without_a_connection_to_the_database_keeps_its_job_while_the_clock_has_one(fleet_of: NewFleet, tmp_path: Path) -> None:
    """Its connection is cut, and the server takes no other."""
    if not has_postgresql():
        pytest.skip("PostgreSQL is not installed")
    fleet = fleet_of("postgresql", workers=1, clocks=1)
    job_id = fleet.submit("chaos_large", until=str(fleet.points / "finish"))
    until(lambda: len(runs_in(tmp_path / "runs")) == 1, 60)
    cut = fleet.hook_process_of(fleet.posts["worker-0"])
    fleet.hire(1)
    until(lambda: fleet.redis.scard("rq:workers") == 2, 60)
    engine = create_engine(fleet.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    elsewhere = create_engine(engine.url.set(database="template1"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as looking, elsewhere.connect() as admin:
        admin.execute(text("ALTER DATABASE postgres ALLOW_CONNECTIONS false"))
        cutting = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port = ANY(:ports)")
        assert admin.execute(cutting, {"ports": _ports_of(cut)}).scalars().all() == [True]
        is_over = "status <> 'started' OR run_at + :sweep < extract(epoch FROM clock_timestamp())"  # the clock has had two occasions
        ask = text(f"SELECT {is_over} FROM jobs WHERE id = :id")
        until(lambda: looking.scalar(ask, {"id": job_id, "sweep": 2 * LOST_S}), 90, fleet.intray.output)
        admin.execute(text("ALTER DATABASE postgres ALLOW_CONNECTIONS true"))
    (fleet.points / "finish").touch()
    job = fleet.when_over(60).jobs[job_id]
    assert (job.status, job.claims, job.interruptions) == ("finished", 1, 0)
    assert runs_in(tmp_path / "runs")[job_id, 1] == 1


@pytest.mark.timeout(300)
def test_the_clock_of_the_database_may_be_set_and_nothing_stops_or_runs_twice(fleet_of: NewFleet, tmp_path: Path) -> None:
    """Back by an hour as the leader dies and Redis is emptied, with a job that runs and one that waits; then ahead, and back again.

    The worker reports only after the clock has looked for lost jobs.
    """
    if not has_postgresql():
        pytest.skip("PostgreSQL is not installed")
    fleet = fleet_of("postgresql", workers=1, clocks=2, WORKER_CONCURRENCY="1")
    engine = create_engine(fleet.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as admin:
        for statement in SETTABLE_CLOCK:
            admin.execute(text(statement))
        until(fleet.intray.is_ready, 60)
        running = fleet.submit("chaos_large", until=str(fleet.points / "finish"))
        until(lambda: len(runs_in(tmp_path / "runs")) == 1, 60)
        worker = fleet.posts["worker-0"].pid
        fleet.freeze([worker], 60)  # so that the next job waits
        waiting = fleet.submit("chaos_quick")
        for post in fleet.named("clock"):
            fleet.kill(post)
        admin.execute(SET_CLOCK, {"ahead_s": -3600})
        fleet.redis.flushall()
        until(lambda: fleet.redis.exists("rq:queue:default.normal") and fleet.intray.is_ready(), 60, fleet.intray.output)
        fleet.thaw()
        for ahead_s in (0, -3600):
            until(lambda: admin.scalar(HAS_REPORTED, {"id": running}), 30)
            fleet.freeze([worker], 60)
            admin.execute(SET_CLOCK, {"ahead_s": ahead_s})
            set_at = time.monotonic()
            until(lambda: time.monotonic() > set_at + 2 * LOST_S + 1, 60)  # noqa: B023 - it is called at once
            fleet.thaw()
        (fleet.points / "finish").touch()
        jobs = fleet.when_over(60).jobs
    assert "database_clock_set_back" in fleet.intray.output()
    assert {(jobs[one].status, jobs[one].interruptions) for one in (running, waiting)} == {("finished", 0)}
    assert sorted(job for job, _ in runs_in(tmp_path / "runs").elements()) == sorted(jobs)  # each once


SET_CLOCK = text("UPDATE settable.clock SET ahead_s = :ahead_s")
HAS_REPORTED = text("SELECT run_at IS NULL FROM jobs WHERE id = :id")
# Statements of new connections find this clock before PostgreSQL's own.
SETTABLE_CLOCK = (
    "CREATE SCHEMA settable",
    "CREATE TABLE settable.clock AS SELECT 0 AS ahead_s",
    "CREATE FUNCTION settable.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE"
    " AS 'SELECT pg_catalog.clock_timestamp() + make_interval(secs => ahead_s) FROM settable.clock'",
    "ALTER DATABASE postgres SET search_path = settable, pg_catalog, public",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
)


@pytest.mark.timeout(300)
def test_a_hook_process_that_asks_again_returns_no_claim_of_another_worker(fleet_of: NewFleet, tmp_path: Path) -> None:
    """The message of a running job comes to a second worker, whose hook process dies over it."""
    fleet = fleet_of("sqlite", workers=1)
    job_id = fleet.submit("chaos_large", until=str(fleet.points / "finish"))
    until(lambda: len(runs_in(tmp_path / "runs")) == 1, 60)
    fleet.hire(1)
    second = fleet.posts["worker-1"]
    until(lambda: fleet.redis.scard("rq:workers") == 2, 60)
    hooks = fleet.hook_process_of(second)
    for pid in (hooks, fleet.posts["worker-0"].pid):  # so that the second takes it
        os.kill(pid, signal.SIGSTOP)
    fleet.redis.rpush("rq:queue:default.normal", job_id)
    until(lambda: fleet.redis.llen("rq:queue:default.normal") == 0, 20)
    os.kill(hooks, signal.SIGKILL)
    until(lambda: fleet.hook_process_of(second) not in (0, hooks), 20)
    until(lambda: fleet.executions_of(job_id) == 1, 20)  # that of the first
    os.kill(fleet.posts["worker-0"].pid, signal.SIGCONT)
    (fleet.points / "finish").touch()
    job = fleet.when_over(60).jobs[job_id]
    assert (job.status, job.claims, job.interruptions) == ("finished", 1, 0)


def _execute(fleet: Fleet, statement: str) -> None:
    with closing(sqlite3.connect(f"{fleet.home}/intray.sqlite3", timeout=20, isolation_level=None)) as connection:
        connection.execute(statement)


def _make_read_only(fleet: Fleet, value: str) -> None:
    """Refuse writes, in the sessions that there are too, or take them again."""
    engine = create_engine(fleet.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER SYSTEM SET default_transaction_read_only = {value}"))
        connection.execute(text("SELECT pg_reload_conf()"))


def _taken_and_not_claimed(fleet: Fleet) -> str:
    """A new job whose message the only worker has taken, while the hook process that would claim it is frozen. All others are over."""
    fleet.when_over(60)  # so the worker is up
    os.kill(fleet.hook_process_of(fleet.posts["worker-0"]), signal.SIGSTOP)
    job_id = fleet.submit("chaos_sleep", seconds=0)
    until(lambda: fleet.redis.llen("rq:queue:default.normal") == 0, 20)
    return job_id


def _waits_for_a_lock(fleet: Fleet) -> bool:
    with create_engine(fleet.database_url, poolclass=NullPool).connect() as connection:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE jobs%'"
        return bool(connection.scalar(text(waiting)))


def _frozen_between_writes(fleet: Fleet, post: Post) -> bool:
    """Freeze the worker; False, and thawed again, where that hit a write: SQLite's only lock would then be held for ever."""
    fleet.freeze([post.pid, *fleet.children_of(post)], 600)
    try:
        with closing(sqlite3.connect(f"{fleet.home}/intray.sqlite3", timeout=2, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        fleet.thaw()
        return False
    return True


def _note(fleet: Fleet, job_id: str) -> str | None:
    """What the job has said that it does."""
    note: str | None = requests.get(f"{fleet.intray.base_url}/api/v1/jobs/{job_id}", headers=fleet.headers, timeout=30).json()[
        "progress_note"
    ]
    return note


def _queue(fleet: Fleet, count: int) -> None:
    """Jobs in the ledger that wait since a minute: by HTTP, five thousand would take most of the test's time."""
    engine = create_engine(f"sqlite:///{fleet.home}/intray.sqlite3")
    row = {"type": "chaos_quick", "queue": "default", "priority": "normal", "params": {}, "status": "queued", "max_attempts": 1}
    with Session(engine) as session, session.begin():
        owner = session.query(User.id).scalar()
        rows = [{**row, "id": new_id(), "owner_id": owner, "queued_at": time.time() - 60} for _ in range(count)]
        session.execute(insert(Job), rows)
    engine.dispose()


def _count(fleet: Fleet, status: str) -> int:
    return sum(job.status == status for job in fleet.read().jobs.values())


def _ports_of(pid: int) -> list[int]:
    """The local ports of a process's TCP connections."""
    sockets = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].partition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in sockets]
