"""Access to the database: SQLite in WAL mode, or PostgreSQL by `DATABASE_URL`.

| For | With objects (ORM) | With rows (Core): without the cost of a session |
|---|---|---|
| reading | `read_session()` | `read_connection()` |
| writing, in one transaction | `write_session()` | `write_transaction()` |
| one statement, thousands of times a second | | `PreparedStatement(...).run()` |
| an update that a read may leave out | | `write_unless_locked()` |

`now` is the database's clock within a statement, `read_now()` the same as a number.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Dialect,
    Engine,
    Float,
    Integer,
    PoolProxiedConnection,
    Select,
    Text,
    Update,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FromClause
from sqlalchemy.sql.functions import FunctionElement

from monolith.config import ROOT, settings
from monolith.db import away, postgresql_session
from monolith.db.away import DatabaseAway, LedgerPool, Outage, is_locked
from monolith.errors import BadSetting
from monolith.strict_json import UNSTORABLE

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_TIMEOUT_S = 15
MAX_CONNECTIONS = 15  # of one process, unless it has more threads
IDLE_S = 1.0  # a pooled connection that was idle for longer is pinged before it is used
Result = TypeVar("Result")
log = structlog.get_logger()


class now(FunctionElement[float]):
    """The database's clock at this statement, in seconds since 1970 (UTC), as an SQL expression.

    Times never come from a host's clock, so a host whose clock is wrong does no harm. They are plain numbers, because both
    databases add and compare numbers in the same syntax.
    """

    type = Float()
    name = "now"
    inherit_cache = True  # so that a statement with it is compiled once


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class whole(FunctionElement[int]):
    """A non-negative number rounded down, as an SQL expression. A plain cast would round to the nearest on PostgreSQL."""

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
    """The SQLAlchemy engine of this process, for SQLite or PostgreSQL. Raises `BadSetting` where the folder of SQLite cannot be made."""
    url = settings().database_url
    return _sqlite_engine(url) if url.startswith("sqlite") else _postgresql_engine(url)


def _postgresql_engine(url: str) -> Engine:
    setup = postgresql_session.SessionSetup(make_url(url))
    # AUTOCOMMIT: the driver begins no transactions by itself, postgresql_session.begin does
    options = {"isolation_level": "AUTOCOMMIT", "connect_args": setup.driver_options, "pool_reset_on_return": None}
    engine = create_engine(setup.url, json_serializer=_stored_json, **options, **_pool())
    away.listen(engine)
    event.listen(engine, "connect", setup.set_up)
    event.listen(engine, "begin", postgresql_session.begin)
    event.listen(engine, "reset", postgresql_session.end_transaction)
    event.listen(engine, "checkin", _note_checkin)
    event.listen(engine, "checkin", _drop_if_read_only)
    event.listen(engine, "checkout", _ping_if_idle)
    return engine


def _pool() -> dict[str, Any]:
    """A connection for each thread of a web process: a thread that reads must not wait for those of threads that wait for a lock."""
    kept = settings().web_threads  # one that is not kept is closed after each use, and the next takes 10 ms to open
    return {"poolclass": LedgerPool, "pool_size": kept, "max_overflow": max(0, MAX_CONNECTIONS - kept)}


def _stored_json(value: Any) -> str:
    """What a JSON column holds. Raises ValueError for NaN and infinity: PostgreSQL refuses them, and SQLite would keep them."""
    return json.dumps(value, allow_nan=False)


def _note_checkin(connection: Any, record: Any) -> None:
    record.info["idle_since"] = time.monotonic()


def _drop_if_read_only(connection: Any, record: Any) -> None:
    """A connection that cannot write does not wait in the pool for somebody who wants to."""
    if connection is not None and not connection.closed and away.is_read_only(connection):
        record.invalidate()


def _ping_if_idle(connection: Any, record: Any, proxy: Any) -> None:
    """Idle connections die when the database restarts; the pool then replaces all of them.

    A connection that was in use a moment ago is not pinged: that would double the round trips of a busy process.
    """
    if time.monotonic() - record.info.get("idle_since", time.monotonic()) < IDLE_S:
        return
    dialect = get_engine().dialect
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _sqlite_engine(url: str) -> Engine:
    folder = Path(make_url(url).database or "").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(
            f"The database folder {folder} cannot be created ({error.strerror}). Correct DATABASE_URL or INTRAY_HOME."
        ) from error
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, json_serializer=_stored_json, **_pool())
    away.listen(engine)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transactions by itself, _begin_sqlite does
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", f"busy_timeout = {BUSY_TIMEOUT_S * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the write lock at once: turning a read lock into a write lock fails when another writer was faster."""
    options = connection.get_execution_options()
    if options.get("reading"):
        connection.exec_driver_sql("BEGIN")
    elif options.get("waiting", True):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            if not connection.invalidated:  # as it is where the database is read-only
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")


def storable(text: str, limit: int | None = None) -> str:
    """The first `limit` characters of the text, with what a database or UTF-8 refuses (NUL, lone surrogates) replaced."""
    return UNSTORABLE.sub("\ufffd", text[:limit])


@contextmanager
def write_session() -> Iterator[Session]:
    """A session in one transaction: committed at the end of the block, rolled back when the block raises."""
    with Session(get_engine(), expire_on_commit=False) as session, session.begin():
        yield session


def write_transaction() -> AbstractContextManager[Connection]:
    """A connection in one transaction: committed at the end of the block, rolled back when the block raises."""
    return get_engine().begin()


def write_unless_locked(statement: Update) -> None:
    """Run an UPDATE that a read does as well, such as the time of a token's last use, or leave it out.

    A read never waits for a writer, and does not fail because the database is read-only or away for writes: the next read tries again.
    """
    try:
        with _without_waiting(get_engine()).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL lock_timeout = '10ms'")
            connection.execute(statement)
    except DBAPIError as error:
        log.debug("update_left_out", table=statement.table.description, error=str(error.orig))


def retry_until_back(write: Callable[[], Result], within_s: float) -> Result:
    """The result of `write`, which is repeated every second while the database is away; after `within_s` seconds its error.

    What waits for a lock is repeated for as long as somebody holds it.
    """
    give_up_at, outage = time.monotonic() + within_s, Outage()
    while True:
        try:
            result = write()
        except DatabaseAway as error:
            if time.monotonic() > give_up_at and not is_locked(error):
                raise
            if is_locked(error):
                log.warning("row_locked", error=str(error.orig))
            else:
                outage.began(error)
            time.sleep(1)
        else:
            outage.ended()
            return result


def unlocked(ids: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """The query for these ids without those of rows that somebody has locked, for the guard of a statement that sweeps over rows.

    It is evaluated once, however the database plans the statement. On SQLite no row can be locked.
    """
    found = ids.with_for_update(skip_locked=True).cte("unlocked").prefix_with("MATERIALIZED")
    return select(*found.c)


@contextmanager
def read_session() -> Iterator[Session]:
    """A session for reading only: it is never committed."""
    with Session(_read_only(get_engine()), expire_on_commit=False) as session:
        yield session


def read_connection() -> AbstractContextManager[Connection]:
    """A connection for reading only: it is never committed."""
    return _read_only(get_engine()).connect()


def is_writable() -> bool:
    """Whether the database takes writes. Raises `DatabaseAway` when it cannot be asked."""
    engine = get_engine()
    if engine.dialect.name == "sqlite":
        path = Path(engine.url.database or "")
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    with engine.connect() as connection:
        if connection.scalar(select(func.current_setting("transaction_read_only"))) == "off":
            return True
        connection.invalidate()  # the next one may lead to another server
        return False


def read_now(session: Session | Connection | None = None) -> float:
    """The database's clock: seconds since 1970 (UTC). Opens a connection where no session is given."""
    if session is not None:
        return float(session.scalar(select(now())) or 0)
    with read_connection() as connection:
        return read_now(connection)


def upsert(session: Session, table: type[Any]) -> Any:
    """An INSERT of the database's own dialect, which has `on_conflict_do_update` and `on_conflict_do_nothing`."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


@lru_cache(maxsize=1)
def _read_only(engine: Engine) -> Engine:
    return engine.execution_options(reading=True)


@lru_cache(maxsize=1)
def _without_waiting(engine: Engine) -> Engine:
    return engine.execution_options(waiting=False)


def rows_of_json(parameter: str, columns: Iterable[Column[Any]], dialect: str) -> FromClause:
    """A FROM clause over one JSON parameter, a list of objects with these columns: any number of rows in one compiled statement.

    A statement with a parameter for each value of each row takes ten times as long to build, send and parse.
    """
    text = bindparam(parameter, type_=Text)
    if dialect == "postgresql":
        typed = (column(one.key, one.type) for one in columns)
        return func.json_to_recordset(cast(text, JSON)).table_valued(*typed).render_derived(name=parameter, with_types=True)
    each = func.json_each(text).table_valued("value").c.value
    return select(*(func.json_extract(each, f"$.{one.key}").label(one.key) for one in columns)).subquery(parameter)


def _drop_inherited_connections() -> None:
    """A forked child must not use its parent's connections, nor close them."""
    if get_engine.cache_info().currsize:
        get_engine().dispose(close=False)


os.register_at_fork(after_in_child=_drop_inherited_connections)


def migrations() -> Config:
    """Alembic's configuration."""
    from alembic.config import Config  # imported late: only processes that migrate need it

    config = Config()
    config.set_main_option("script_location", str(ROOT / "monolith" / "migrations"))
    return config


def upgrade() -> None:
    """Run all migrations that have not run. Raises `BadSetting` when the database cannot be reached."""
    try:
        with get_engine().connect() as connection:
            has_schema = connection.dialect.name == "sqlite" or connection.scalar(select(func.current_schema()))
    except DBAPIError as error:
        lines = [line for line in str(error.orig).strip().splitlines() if not line.startswith("\t")]  # psycopg indents its hints
        reason = lines[-1].strip().rstrip(".")
        raise BadSetting(f"Cannot connect to the database: {reason}. Check DATABASE_URL and that the database is running.") from error
    if not has_schema:
        raise BadSetting("No schema of the search_path exists. Make it with CREATE SCHEMA, or correct DATABASE_URL.")
    from alembic import command

    command.upgrade(migrations(), "head")


def is_current() -> bool:
    """Whether every migration has run."""
    from alembic.runtime.migration import MigrationContext

    with read_connection() as connection:
        return MigrationContext.configure(connection).get_current_revision() == _newest_revision()


@cache
def _newest_revision() -> str | None:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(migrations()).get_current_head()


class PreparedStatement:
    """One statement that returns rows, with named parameters; compiled once, and passed to the driver without SQLAlchemy's work.

    `others` run after it in the same transaction, with the same parameters: SQLite cannot insert into several tables at once.
    """

    def __init__(self, statement: Any, *others: Any, writes: bool = False) -> None:
        self._statements = (statement, *others)
        self._writes = writes
        self._compiled: dict[str, list[Compiled]] = {}  # by dialect

    def run(self, connection: Connection | None = None, /, **params: Any) -> Sequence[Any]:
        """The rows. Without a `connection`, it commits by itself. Raises what a SQLAlchemy connection would raise."""
        if connection is not None:
            rows, *_ = [one.all() if one.returns_rows else () for one in (connection.execute(each, params) for each in self._statements)]
            return rows
        engine = get_engine()
        if (compiled := self._compiled.get(engine.dialect.name)) is None:
            compiled = self._compiled[engine.dialect.name] = [Compiled.of(one, engine.dialect, params) for one in self._statements]
        values = {name: _stored_json(value) if isinstance(value, dict) else value for name, value in params.items()}
        run = _run_on_postgresql if engine.dialect.name == "postgresql" else _run_on_sqlite
        used = None
        try:
            used = engine.raw_connection()
            return run(used, compiled, values, writes=self._writes)
        except engine.dialect.loaded_dbapi.Error as error:
            if away.is_lost(error):
                if used is not None:
                    used.invalidate()
                engine.dispose()  # the database restarted, or another server leads: the other connections are of no use either
            if away.is_away(error):
                raise away.away(error, compiled[0].sql) from error
            raise DBAPIError.instance(compiled[0].sql, None, error, engine.dialect.loaded_dbapi.Error, dialect=engine.dialect) from error
        finally:
            if used is not None:
                used.close()  # which rolls back what was not committed


@dataclass(frozen=True)
class Compiled:
    """A statement as its driver takes it: the text, the names of its parameters by their position, and those with a constant value.

    `readers` make Python values of the columns whose values the driver returns as SQLite stores them, by position.
    """

    sql: str
    positions: Sequence[str]
    constants: Mapping[str, Any]
    readers: Mapping[int, Callable[[Any], Any]]

    @classmethod
    def of(cls, statement: Any, dialect: Dialect, params: Mapping[str, Any]) -> Compiled:
        with_positions: Any = type(dialect)
        form = {"postgresql": "numeric_dollar", "sqlite": "qmark"}[dialect.name]
        expanded = statement.compile(dialect=with_positions(paramstyle=form)).construct_expanded_state(params)
        constants = {name: value for name, value in expanded.parameters.items() if name not in params}
        readers = {}
        if dialect.name == "sqlite":
            processors = [one.type.dialect_impl(dialect).result_processor(dialect, None) for one in statement.exported_columns]
            readers = {place: one for place, one in enumerate(processors) if one}
        return cls(expanded.statement, expanded.positiontup, constants, readers)

    def values(self, params: Mapping[str, Any]) -> list[Any]:
        given = {**self.constants, **params}
        return [given[name] for name in self.positions]


def _run_on_postgresql(
    connection: PoolProxiedConnection, statements: Sequence[Compiled], params: Mapping[str, Any], *, writes: bool
) -> Sequence[Any]:
    (one,) = statements
    return postgresql_session.run_statement(connection, one.sql, one.values(params), writes=writes)


def _run_on_sqlite(
    connection: PoolProxiedConnection, statements: Sequence[Compiled], params: Mapping[str, Any], *, writes: bool
) -> Sequence[Any]:
    """The rows of the first statement. One that only reads needs no transaction."""
    driver: Any = connection.driver_connection
    first, *others = statements
    if not writes:
        return _read(first, driver.execute(first.sql, first.values(params)))
    driver.execute("BEGIN IMMEDIATE")
    rows = _read(first, driver.execute(first.sql, first.values(params)))
    for other in others:
        driver.execute(other.sql, other.values(params))
    driver.execute("COMMIT")
    return rows


def _read(statement: Compiled, rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    if not statement.readers:
        return list(rows)
    found = [list(row) for row in rows]
    for row in found:
        for place, reader in statement.readers.items():
            row[place] = reader(row[place])
    return found
