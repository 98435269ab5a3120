"""The connections to the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from flask import Flask
from sqlalchemy import text

from monolith.accounts import sessions
from monolith.db import engine
from tests.support.callers import Caller
from tests.support.routes import World, path_of, routes
from tests.support.visitor import signed_in


@pytest.mark.databases("postgresql")
def test_connections_that_died_while_idle_are_not_noticed(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "IDLE_S", 0)
    assert alice.get("/api/v1/me").status_code == 200
    url = engine.get_engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    with psycopg.connect(url) as connection:
        connection.execute(others)
    assert alice.post("/api/v1/jobs", json={"type": "trial_echo"}).status_code == 202


@contextmanager
def somebody_writes() -> Iterator[None]:
    """Another connection has written rows that every request looks up, and does not commit. It came after all pooled connections."""
    with engine.get_engine().connect() as writer:
        writer.execute(text("UPDATE tokens SET last_used_at = NULL"))
        writer.execute(text("UPDATE sessions SET last_used_at = last_used_at - 600"))
        writer.commit()
        writer.execute(text("UPDATE tokens SET name = 'locked'"))
        writer.execute(text("UPDATE sessions SET user_agent = 'locked'"))
        yield
        writer.rollback()


@pytest.mark.databases
def test_no_read_waits_for_a_writer(app: Flask, caller: Callable[..., Caller], intray_settings: Callable[..., None]) -> None:
    intray_settings(FETCH_ALLOW_LOOPBACK="true")
    alice, admin = caller("alice@example.org"), caller("admin@example.org", is_admin=True)
    ids, browser, shown = World(alice).ids(), signed_in(app, admin.user.email), 0
    engine.get_engine().dispose()  # so that a connection is opened meanwhile
    with somebody_writes():
        for rule, method in routes(app):
            if method == "GET":
                path = path_of(app, rule, method, ids)
                for answer in (alice.get(path), browser.get(path)):
                    assert answer.status_code < 500 or path == "/ready", (path, answer.text)
                    shown += answer.status_code == 200
                    answer.close()
        assert browser.get("/ready").json["checks"]["database"]
    assert shown > 100
    assert alice.get("/api/v1/me").status_code == browser.get("/api/v1/me").status_code == 200
    assert alice.get("/api/v1/tokens").json["data"][-1]["last_used_at"], "which is recorded when the writer has gone"
    assert sessions.sessions_of(admin.user)[0].last_used_at > engine.read_now() - 300
