"""When the database is away: read-only, without a free connection, or gone. Every part says the same of it, and goes on afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from monolith.db import engine
from monolith.db.away import DatabaseAway
from monolith.runner.ledger import lifecycle
from monolith.runner.prefork.hooks import LATER
from monolith.runner.scheduler import clock
from monolith.runner.scheduler.clock import Clock
from monolith.runner.worker.ledger_worker import LedgerHooks
from monolith.server import doctor
from tests.support.callers import Caller
from tests.support.jobs import new_jobs

AWAY = ("08006", "25006", "25P03", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03", "58030")
OURS = ("22001", "23505", "42P01", "54000", "P0001")

pytestmark = pytest.mark.databases("postgresql")


@pytest.fixture
def read_only(database_url: str) -> Iterator[Callable[[bool], None]]:
    """Make the database read-only for sessions that begin from now on, and end those that there are; or the opposite."""

    def make(is_read_only: bool) -> None:
        url = engine.get_engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
            value = "= on" if is_read_only else "= off"
            connection.execute(f"ALTER DATABASE {engine.get_engine().url.database} SET default_transaction_read_only {value}")
            if is_read_only:
                others = (
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
                )
                connection.execute(others)
                engine.get_engine().dispose()

    yield make


def submission(caller: Caller) -> int:
    return caller.post("/api/v1/jobs", json={"type": "trial_echo"}).status_code


def test_while_the_database_is_read_only_everything_waits_and_goes_on_at_once_when_it_takes_writes(
    alice: Caller, read_only: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "TICK_S", 0)
    monkeypatch.setattr(clock, "RENEW_S", 0)
    ticking = Clock(lambda: False, "a")
    job_id = new_jobs(alice.user.id)[0].id
    claim = lifecycle.claim(new_jobs(alice.user.id)[0].id, "w")
    assert claim
    ticking.tick()
    read_only(True)
    with capture_logs() as logged:
        for _ in range(3):
            ticking.tick()
        hooks = LedgerHooks("w")
        assert hooks.claim([job_id]) == [LATER]
        assert hooks.heartbeat([(claim.job_id, claim.number)]) == [LATER]
        assert hooks.lost([(claim.job_id, claim.number, "killed")]) == hooks.interrupted([(claim.job_id, claim.number)]) == [LATER]
    assert [(line["event"], "read-only" in line["error"]) for line in logged] == [("database_away", True)]
    answer = alice.post("/api/v1/jobs", json={"type": "trial_echo"})
    assert (answer.status_code, answer.json["code"], "Retry-After" in answer.headers) == (503, "unavailable", True)
    assert alice.get(f"/api/v1/jobs/{job_id}").status_code == 200
    assert alice.client.get("/ready").json["checks"]["database"] is False
    with pytest.raises(doctor.CheckFailed, match="read-only"):
        doctor.CHECKS["database"]()
    with ExitStack() as stack:  # as many as a busy process has open
        for _ in range(8):
            stack.enter_context(engine.read_connection()).scalar(sa.select(1))
    read_only(False)
    assert [submission(alice) for _ in range(14)] == [202] * 14
    assert alice.client.get("/ready").json["checks"]["database"] is True
    with capture_logs() as logged:
        ticking._away_until = 0
        for _ in range(3):
            ticking.tick()
    assert [line["event"] for line in logged].count("database_back") == 1
    answer_to_claim = hooks.claim([job_id])[0]
    assert answer_to_claim and answer_to_claim != LATER


@pytest.mark.parametrize("prepared", [False, True], ids=["by SQLAlchemy", "by the driver"])
def test_a_connection_that_was_opened_while_the_database_was_read_only_is_used_once_at_most(
    alice: Caller, read_only: Callable[[bool], None], prepared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no server says so, as behind a pooler: its first write fails, and all that were opened before it are closed."""
    monkeypatch.setattr(engine.away, "TOLD_READ_ONLY", ())
    read_only(True)
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(engine.read_connection()).scalar(sa.select(1))
    read_only(False)
    change = sa.text("UPDATE users SET email = email RETURNING id")
    with pytest.raises(DatabaseAway):
        if prepared:
            engine.PreparedStatement(change).run()
        else:
            with engine.write_transaction() as connection:
                connection.execute(change)
    assert [submission(alice) for _ in range(14)] == [202] * 14


def test_what_may_succeed_later_is_told_from_what_never_will(intray_settings: Callable[..., None]) -> None:
    for code in (*AWAY, *OURS):
        raising = f"DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{code}'; END $$"
        with pytest.raises(DBAPIError) as caught, engine.write_transaction() as connection:
            connection.execute(sa.text(raising))
        assert isinstance(caught.value, DatabaseAway) == (code in AWAY), code


def test_a_pool_whose_connections_are_all_in_use_is_a_database_that_is_away(
    alice: Caller, intray_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.get_engine().pool, "_timeout", 0.1)
    with ExitStack() as stack:
        for _ in range(engine.MAX_CONNECTIONS):
            stack.enter_context(engine.read_connection())
        assert submission(alice) == 503
        assert alice.client.get("/ready").json["checks"]["database"] is False
    assert submission(alice) == 202
