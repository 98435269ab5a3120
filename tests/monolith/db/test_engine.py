"""The connections to the database."""

from __future__ import annotations

import psycopg
import pytest

from monolith.db import engine
from tests.support.callers import Caller


@pytest.mark.databases("postgresql")
def test_connections_that_died_while_idle_are_not_noticed(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "IDLE_S", 0)
    assert alice.get("/api/v1/me").status_code == 200
    url = engine.get_engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    with psycopg.connect(url) as connection:
        connection.execute(others)
    assert alice.post("/api/v1/jobs", json={"type": "trial_echo"}).status_code == 202
