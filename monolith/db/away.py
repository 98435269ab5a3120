"""When the database is away: one answer for web, clock, workers and checks, and one line in the log for each outage.

The ledger's engine raises `DatabaseAway` for such errors. A job type that uses a database of its own gets the errors of that
database as they are: they say nothing about the ledger.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import Any

import structlog
from sqlalchemy import Engine, PoolProxiedConnection, QueuePool, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

# SQLSTATEs, whole or their first two characters, of what may succeed when it is tried again.
READ_ONLY = "25006"  # a standby, or default_transaction_read_only
LOST = ("08", READ_ONLY, "25P03", "25P04", "57P", "58")  # the connection is of no use any more
BUSY = ("40", "53", "55", "57")  # deadlocks, no resources, locks, a statement that was cancelled or took too long
SQLITE_LOST = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
LOCKED = ("55P03", "40P01")  # the wait for a lock was given up, or was a deadlock
SQLITE_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
SQLITE_BUSY = (
    *SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PROTOCOL,
)
# SQLSTATEs and codes that are about the values a statement was given, and not about the database.
OF_VALUES = ("21", "22", "23", "54")
SQLITE_OF_VALUES = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_RANGE)
# Settings of a session that PostgreSQL 14 and later tell their clients, without being asked.
TOLD_READ_ONLY = ("in_hot_standby", "default_transaction_read_only")

log = structlog.get_logger()
logging.getLogger(f"{__name__}.LedgerPool").setLevel(logging.WARNING)  # SQLAlchemy names a pool's logger like its class


class DatabaseAway(OperationalError):
    """The ledger's database cannot be reached, is read-only, or cannot do it just now. The same statement may succeed later."""


class LedgerPool(QueuePool):
    """A pool that says `DatabaseAway` when all its connections stay in use."""

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except PoolTimeout as error:
            raise DatabaseAway(None, None, error) from error


def listen(engine: Engine) -> None:
    """Have the engine raise `DatabaseAway`, and open new connections after an error that a connection does not recover from.

    A connection that was opened while PostgreSQL was read-only may stay so for ever, as may those to a former primary.
    """
    event.listen(engine, "handle_error", _translate)


def _translate(context: ExceptionContext) -> DatabaseAway | None:
    error = context.original_exception
    if not is_away(error):
        return None
    context.is_disconnect = context.is_disconnect or is_lost(error)
    return away(error, context.statement)


def away(error: BaseException, statement: str | None = None) -> DatabaseAway:
    """The `DatabaseAway` for an error of the driver. Params are not in its message: they may be secret."""
    return DatabaseAway(statement, None, error, connection_invalidated=is_lost(error))


def is_away(error: BaseException) -> bool:
    """Whether an error of the driver means that the database is away."""
    return is_lost(error) or _has_code(error, BUSY, SQLITE_BUSY)


def is_lost(error: BaseException) -> bool:
    """Whether an error of the driver means that this connection, and those opened before, cannot be used any more."""
    return _has_code(error, LOST, SQLITE_LOST) or _is_without_server(error)


def is_locked(error: DBAPIError) -> bool:
    """Whether a statement failed because somebody else has locked what it needs: a row, or on SQLite the database."""
    return error.orig is not None and _has_code(error.orig, LOCKED, SQLITE_LOCKED)


def is_of_database(error: BaseException) -> bool:
    """Whether a statement failed because of the state of the database, however long that lasts, and not because of its values."""
    if not isinstance(error, DBAPIError):
        return False
    sqlstate, code = getattr(error.orig, "sqlstate", None), getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(error, DatabaseAway) or code == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
        return True
    if code is not None:
        return code & 0xFF not in SQLITE_OF_VALUES
    return bool(sqlstate) and not str(sqlstate).startswith(OF_VALUES)


def _has_code(error: BaseException, sqlstates: tuple[str, ...], sqlite_codes: tuple[int, ...]) -> bool:
    sqlstate, code = getattr(error, "sqlstate", None), getattr(error, "sqlite_errorcode", None)
    return (sqlstate or "").startswith(sqlstates) or (code is not None and code & 0xFF in sqlite_codes)


def _is_without_server(error: BaseException) -> bool:
    """Whether PostgreSQL's driver has no answer of the server: it got no connection, lost it, or had closed it."""
    if isinstance(error, sqlite3.Error) or getattr(error, "sqlstate", None):
        return False
    import psycopg  # imported late: on SQLite no process needs it

    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def is_read_only(driver_connection: Any) -> bool:
    """Whether PostgreSQL has said that this connection cannot write: the server is a standby, or was made read-only."""
    return any(driver_connection.info.parameter_status(name) == "on" for name in TOLD_READ_ONLY)


class Outage:
    """Logs one line when the database goes away, and one when it is back."""

    def __init__(self) -> None:
        self._since: float | None = None

    @property
    def is_on(self) -> bool:
        return self._since is not None

    def began(self, error: OperationalError, **known: Any) -> None:
        """The database was seen to be away. Logged for the first time only."""
        if self._since is None:
            self._since = time.monotonic()
            log.error("database_away", error=str(error.orig).strip(), **known)

    def ended(self) -> None:
        """The database does again what it was asked."""
        if self._since is not None:
            log.warning("database_back", away_s=round(time.monotonic() - self._since, 1))
            self._since = None


outage = Outage()  # as the clock or the hook process of this process sees it
