"""The engine, sessions and the clock of the one database: SQLite in WAL mode, or PostgreSQL by `DATABASE_URL`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Float, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement

from monolith.config import BadSetting, settings

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_TIMEOUT_S = 15
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class now(FunctionElement[float]):
    """The database's clock: seconds since 1970 (UTC), as it is at this statement.

    Never a host's clock: a worker whose clock is an hour wrong then harms nobody. Seconds as a number, because both
    databases add and compare them in the same words.
    """

    type = Float()
    name = "now"
    inherit_cache = True  # a statement with it is compiled once, not each time


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


@cache
def engine() -> Engine:
    """The engine of this process. Raises `BadSetting` when `DATABASE_URL` is not a URL of SQLite or PostgreSQL."""
    url = settings().database_url
    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError as error:
        raise BadSetting("DATABASE_URL is not a database URL. Write postgresql://user:password@host/name, or unset it.") from error
    if backend == "sqlite":
        return _sqlite_engine(url)
    if backend == "postgresql":
        return create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=10, connect_args={"connect_timeout": 5})
    raise BadSetting(f"DATABASE_URL names {backend}, but only postgresql:// and sqlite:/// are supported. Mend or unset it.")


def _sqlite_engine(url: str) -> Engine:
    path = make_url(url).database
    if path and path != ":memory:":
        _make_folder(Path(path).parent)
    made = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(made, "connect", _set_up_sqlite)
    event.listen(made, "begin", _begin_sqlite)
    return made


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(
            f"The folder {folder} of the database cannot be made ({error.strerror}). Mend DATABASE_URL or INTRAY_HOME."
        ) from error


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself: _begin_sqlite does
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", f"busy_timeout = {BUSY_TIMEOUT_S * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the write lock at once: a read lock raised later fails at once when another writer was faster."""
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reading") else "BEGIN IMMEDIATE")


def storable(text: str, limit: int | None = None) -> str:
    """The text without what a database or UTF-8 refuses (NUL, lone surrogates), and not longer than `limit` characters."""
    return _UNSTORABLE.sub("\ufffd", text[:limit])


@contextmanager
def writing() -> Iterator[Session]:
    """A session in one transaction: committed at the end of the block, rolled back when it raises."""
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session


def transaction() -> AbstractContextManager[Connection]:
    """What `writing` gives, without what a session costs: for what is done a thousand times a second."""
    return engine().begin()


def one_statement() -> AbstractContextManager[Connection]:
    """A connection for a single statement: it is a transaction by itself where the database spares two round trips by that."""
    return engine().execution_options(isolation_level="AUTOCOMMIT").connect() if engine().dialect.name == "postgresql" else transaction()


@contextmanager
def reading() -> Iterator[Session]:
    """A session that only reads; nothing it changes is kept."""
    with Session(engine().execution_options(reading=True), expire_on_commit=False) as session:
        yield session


def _forget_connections() -> None:
    """A forked child must not speak on its parent's connections."""
    if engine.cache_info().currsize:
        engine().dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


def migrations() -> Config:
    from alembic.config import Config  # only those that migrate pay for it

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade() -> None:
    """Bring the tables to the newest version. Raises `BadSetting` when the database cannot be reached."""
    try:
        with engine().connect():
            pass
    except OperationalError as error:
        raise BadSetting(f"The database cannot be opened: {_reason(error)}. Check DATABASE_URL and that it runs.") from error
    from alembic import command

    command.upgrade(migrations(), "head")


def is_current() -> bool:
    """Whether every migration has run."""
    from alembic.runtime.migration import MigrationContext

    with engine().connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() == _newest_revision()


@cache
def _newest_revision() -> str | None:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(migrations()).get_current_head()


def _reason(error: OperationalError) -> str:
    return str(error.orig).strip().splitlines()[-1].strip().rstrip(".")
