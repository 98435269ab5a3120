"""The engine, sessions and the clock of the one database: SQLite in WAL mode, or PostgreSQL by `DATABASE_URL`."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from sqlalchemy import JSON, Column, Connection, Engine, Float, Integer, Text, bindparam, cast, column, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FromClause
from sqlalchemy.sql.functions import FunctionElement

from monolith.config import ROOT, settings
from monolith.errors import BadSetting

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_TIMEOUT_S = 15
# The server gives up a client that was cut off, or frozen within a transaction: its locks would hold up the clock and all others.
IDLE_TRANSACTION_OPTIONS = (
    "-c idle_in_transaction_session_timeout=15000 -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2"
)
# A host that is cut off says nothing: without these, what was asked of PostgreSQL would wait for a quarter of an hour.
POSTGRESQL_TIMEOUTS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "options": IDLE_TRANSACTION_OPTIONS,
}
IDLE_S = 1.0  # a connection that was not used for so long is tried before it is
Answer = TypeVar("Answer")
log = structlog.get_logger()
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


class whole(FunctionElement[int]):
    """A number that is not negative, without its fraction: both databases round when they are asked for an integer, or know no FLOOR."""

    type = Integer()
    name = "whole"
    inherit_cache = True


@compiles(whole, "sqlite")
def _whole_sqlite(element: whole, compiler: Any, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS INTEGER)"


@compiles(whole, "postgresql")
def _whole_postgresql(element: whole, compiler: Any, **options: Any) -> str:
    return f"TRUNC({compiler.process(element.clauses, **options)})::integer"


@cache
def get_engine() -> Engine:
    """The engine of this process. Raises `BadSetting` when `DATABASE_URL` is not a URL of SQLite or PostgreSQL."""
    url = settings().database_url
    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError as error:
        raise BadSetting("DATABASE_URL is not a valid database URL. Use postgresql://user:password@host/name, or unset it.") from error
    if backend == "sqlite":
        return _sqlite_engine(url)
    if backend == "postgresql":
        return _postgresql_engine(url)
    raise BadSetting(f"DATABASE_URL uses {backend}, but only postgresql:// and sqlite:/// are supported. Correct or unset it.")


def _postgresql_engine(url: str) -> Engine:
    # the driver must not begin transactions by itself: _begin_postgresql does
    made = create_engine(url, isolation_level="AUTOCOMMIT", pool_size=5, max_overflow=10, connect_args=POSTGRESQL_TIMEOUTS)
    event.listen(made, "begin", _begin_postgresql)
    event.listen(made, "checkin", _note_idle)
    event.listen(made, "checkout", _try_idle)
    return made


def _begin_postgresql(connection: Connection) -> None:
    """Who reads is spared BEGIN and ROLLBACK: at this isolation each statement sees a state of its own all the same.

    For who asks for another isolation, the driver does begin.
    """
    if not {"reading", "isolation_level"} & set(connection.get_execution_options()):
        connection.exec_driver_sql("BEGIN")


def _note_idle(connection: Any, record: Any) -> None:
    record.info["idle_since"] = time.monotonic()


def _try_idle(connection: Any, record: Any, proxy: Any) -> None:
    """A connection may have died while nobody used it, as all do when the database restarts: then the pool makes new ones.

    One that was in use a moment ago is not asked: that would double the round trips of a busy process.
    """
    if time.monotonic() - record.info.get("idle_since", time.monotonic()) < IDLE_S:
        return
    dialect = get_engine().dialect
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


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
            f"The database folder {folder} cannot be created ({error.strerror}). Correct DATABASE_URL or INTRAY_HOME."
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
def write_session() -> Iterator[Session]:
    """A session in one transaction: committed at the end of the block, rolled back when it raises."""
    with Session(get_engine(), expire_on_commit=False) as session, session.begin():
        yield session


def write_transaction() -> AbstractContextManager[Connection]:
    """What `writing` gives, without what a session costs: for what is done a thousand times a second."""
    return get_engine().begin()


def autocommit() -> AbstractContextManager[Connection]:
    """A transaction of a single statement. On PostgreSQL that is one by itself, which spares two round trips."""
    return (_read_only(get_engine()) if get_engine().dialect.name == "postgresql" else get_engine()).begin()


def retry_until_back(write: Callable[[], Answer], within_s: float) -> Answer:
    """Write what must not be lost because the database is away just now: tried each second until it is back."""
    give_up_at = time.monotonic() + within_s
    while True:
        try:
            return write()
        except OperationalError as error:
            if time.monotonic() > give_up_at:
                raise
            log.warning("database_away", error=str(error.orig))
            time.sleep(1)


@contextmanager
def read_session() -> Iterator[Session]:
    """A session that only reads; nothing it changes is kept."""
    with Session(_read_only(get_engine()), expire_on_commit=False) as session:
        yield session


def read_now(session: Session | Connection) -> float:
    """What `now` is at this moment, for Python to reckon with."""
    return float(session.scalar(select(now())) or 0)


def upsert(session: Session, table: type[Any]) -> Any:
    """An INSERT that can say what to do about a row that is there already; both databases have it, each in its own name."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def read_connection() -> AbstractContextManager[Connection]:
    """What `reading` gives, without what a session costs."""
    return _read_only(get_engine()).connect()


@lru_cache(maxsize=1)
def _read_only(engine: Engine) -> Engine:
    return engine.execution_options(reading=True)


def rows_of_json(parameter: str, columns: Iterable[Column[Any]], dialect: str) -> FromClause:
    """Rows that come as one text of JSON, a list of objects: one statement inserts one or hundreds, and is compiled once.

    A statement with a parameter for each value of each row takes ten times as long to make, to send and to read.
    """
    text = bindparam(parameter, type_=Text)
    if dialect == "postgresql":
        typed = (column(one.key, one.type) for one in columns)
        return func.json_to_recordset(cast(text, JSON)).table_valued(*typed).render_derived(name=parameter, with_types=True)
    each = func.json_each(text).table_valued("value").c.value
    return select(*(func.json_extract(each, f"$.{one.key}").label(one.key) for one in columns)).subquery(parameter)


def _forget_connections() -> None:
    """A forked child must not speak on its parent's connections."""
    if get_engine.cache_info().currsize:
        get_engine().dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


def migrations() -> Config:
    from alembic.config import Config  # only those that migrate pay for it

    config = Config()
    config.set_main_option("script_location", str(ROOT / "monolith" / "migrations"))
    return config


def upgrade() -> None:
    """Bring the tables to the newest version. Raises `BadSetting` when the database cannot be reached."""
    try:
        with get_engine().connect():
            pass
    except OperationalError as error:
        raise BadSetting(
            f"Cannot connect to the database: {_reason(error)}. Check DATABASE_URL and that the database is running."
        ) from error
    from alembic import command

    command.upgrade(migrations(), "head")


def is_current() -> bool:
    """Whether every migration has run."""
    from alembic.runtime.migration import MigrationContext

    with get_engine().connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() == _newest_revision()


@cache
def _newest_revision() -> str | None:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(migrations()).get_current_head()


def _reason(error: OperationalError) -> str:
    lines = [line for line in str(error.orig).strip().splitlines() if not line.startswith("\t")]  # such a line is a hint of psycopg
    return lines[-1].strip().rstrip(".")


class PreparedStatement:
    """One statement that gives rows, with its parameters by name."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._compiled: tuple[str, dict[str, Any]] | None = None

    def run(self, **said: Any) -> Sequence[Any]:
        """Its rows. Raises what a SQLAlchemy connection would."""
        if get_engine().dialect.name == "postgresql":
            return self._by_driver(said)
        with autocommit() as connection:
            return connection.execute(self._statement, said).all()

    def _by_driver(self, said: dict[str, Any]) -> Sequence[Any]:
        self._compiled = self._compiled or self._compile(said)
        sql, known = self._compiled
        given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in said.items()}
        made = get_engine()
        connection = None
        try:
            connection = made.raw_connection()
            rows: Sequence[Any] = connection.driver_connection.execute(sql, {**known, **given}).fetchall()  # type: ignore[union-attr]
        except made.dialect.loaded_dbapi.Error as error:
            if connection is None or connection.driver_connection.closed:  # type: ignore[union-attr]
                made.dispose()  # the others have died with it
            raise DBAPIError.instance(sql, None, error, made.dialect.loaded_dbapi.Error, dialect=made.dialect) from error
        finally:
            if connection is not None:
                connection.close()
        return rows

    def _compile(self, said: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The text in PostgreSQL's words, and the parameters that are the same each time."""
        whole = self._statement.compile(dialect=get_engine().dialect).construct_expanded_state(said)
        return whole.statement, {name: value for name, value in whole.parameters.items() if name not in said}
