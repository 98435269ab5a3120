"""What is set on a connection to PostgreSQL, directly or through a pooler such as PgBouncer.

A pooler in transaction mode gives each transaction any of its own connections to the server. A setting or a prepared statement
of one transaction is then missing in the next, or reaches another client. So through a pooler nothing is prepared, and the
settings are part of each transaction. A pooler also refuses settings at connection time (`unsupported startup parameter`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, func, select

# Without these, a query to a host that was cut off would wait for a quarter of an hour.
TIMEOUTS = {"connect_timeout": 5, "tcp_user_timeout": 15_000, "keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2}
LOCK_WAIT_S = 2.0
# PostgreSQL ends the transaction of a client that was cut off or is frozen: its locks would block the clock and everybody else.
# And nobody waits long for a row that somebody has locked: what else the waiting process has to do would wait with it.
WRITE_LIMITS = {"idle_in_transaction_session_timeout": "15000", "lock_timeout": f"{LOCK_WAIT_S * 1000:.0f}"}
KEEPALIVES = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "2"}
WORD = re.compile(r"(?:\\.|\S)+", re.DOTALL)
OPTION = re.compile(r"(?:-c|--)([\w.-]+)=(.*)", re.DOTALL)
PROBES = 5
# In `info` of a connection: the statements that set a transaction's settings. Empty for a connection that has no pooler.
TO_WRITE, TO_READ = "settings_to_write", "settings_to_read"
STATEMENTS = "statements"  # in `info` of a connection: what executes single statements on it


class SessionSetup:
    """The connections that one DATABASE_URL asks for: `url` and `driver_options` are for `create_engine`.

    `?options=-csearch_path%3Dintray` and `?search_path=intray` are settings of the server. Whatever else the query of the URL
    has is for the driver, and comes before our own timeouts.
    """

    def __init__(self, url: URL) -> None:
        chosen, rest = _server_settings(url.query)
        self.url = url.difference_update_query(["options", "search_path"])
        self.driver_options: dict[str, Any] = {name: value for name, value in TIMEOUTS.items() if name not in url.query}
        if rest:
            self.driver_options["options"] = rest
        self._chosen = chosen

    def set_up(self, connection: Any, record: Any) -> None:
        """Set up a new connection, in one round trip. Raises OperationalError when the server refuses a setting of the URL.

        Nothing is set for the session when the connection ends at a pooler. A pooler announces a process id of its own, because
        the one of the server changes.
        """
        import psycopg  # imported late: on SQLite no process needs it

        from monolith.db.libpq import Statements

        chosen = self._chosen
        for_session = _select_settings({**WRITE_LIMITS, **KEEPALIVES, **chosen}, is_local=False)
        try:
            is_direct = connection.execute(f"{for_session} WHERE pg_backend_pid() = {connection.info.backend_pid}").fetchone()
        except psycopg.Error as error:
            connection.close()
            raise psycopg.OperationalError(str(error)) from error
        if is_direct:
            record.info[TO_WRITE] = record.info[TO_READ] = ""
        else:
            connection.prepare_threshold = None
            # In these each % is doubled, as the driver expects it in a statement that could have parameters.
            record.info[TO_WRITE] = _select_settings({**WRITE_LIMITS, **chosen}, is_local=True).replace("%", "%%")
            record.info[TO_READ] = _select_settings(chosen, is_local=True).replace("%", "%%") if chosen else ""
        record.info[STATEMENTS] = Statements(connection, prepare=bool(is_direct))


def wait_for_locks(connection: Connection, seconds: float) -> None:
    """Let this transaction wait so long for a lock, instead of LOCK_WAIT_S; 0: without a limit. Does nothing on SQLite."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.set_config("lock_timeout", f"{seconds * 1000:.0f}", True)))


def begin(connection: Connection) -> None:
    """Begin a transaction, with its settings in the same round trip.

    A reader needs no BEGIN and ROLLBACK: at READ COMMITTED each statement sees a snapshot of its own anyway. Where another
    isolation level is set, the driver begins the transaction.
    """
    options = connection.get_execution_options()
    is_reading = "reading" in options
    settings = connection.info[TO_READ if is_reading else TO_WRITE]
    if "isolation_level" in options:
        if settings:
            connection.exec_driver_sql(settings)
    elif settings:
        connection.exec_driver_sql(f"BEGIN; {settings}")
    elif not is_reading:
        connection.exec_driver_sql("BEGIN")


def end_transaction(driver: Any, record: Any, state: Any) -> None:
    """Roll back what was begun and not ended. The pool would do so after each use, which takes as long as a statement."""
    if driver.pgconn.transaction_status:  # not IDLE, which is 0
        driver.rollback()


def run_statement(connection: PoolProxiedConnection, statement: str, values: Sequence[Any], *, writes: bool) -> Sequence[Any]:
    """The rows of one statement that commits by itself. Its parameters are `$1`, `$2` and so on."""
    driver: Any = connection.driver_connection
    settings = connection.info[TO_WRITE if writes else TO_READ]
    if settings:
        driver.execute(f"BEGIN; {settings}", {})
    rows: Sequence[Any] = connection.info[STATEMENTS].run(statement, values)
    if settings:
        driver.commit()
    return rows


def is_pooled(connection: Connection) -> bool:
    """Whether this connection ends at a pooler. False on SQLite."""
    return bool(connection.info.get(TO_WRITE))


def pooler_mode(engine: Engine) -> str:
    """For how long a pooler gives out a connection to the server: `session` or `transaction`; empty where there is no pooler.

    In transaction mode the second client gets the connection that has just served the first, or else the first gets another one.
    """
    with engine.connect() as first, engine.connect() as second:
        if not is_pooled(first):
            return ""
        for _ in range(PROBES):  # a busy pooler may give the connection to somebody else, and then give it back
            served_by = _backend(first)
            if _backend(second) == served_by or _backend(first) != served_by:
                return "transaction"
    return "session"


def _backend(connection: Connection) -> int:
    with connection.begin():
        return int(connection.scalar(select(func.pg_backend_pid())) or 0)


def _server_settings(query: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The settings of the server in the query of a URL, and those words of `options` that are something else."""
    chosen, rest = {}, []
    words = (match[0] for match in WORD.finditer(_text(query.get("options", ""))))
    for word in words:
        option = word + next(words, "") if word == "-c" else word
        if found := OPTION.fullmatch(option):
            chosen[found[1].replace("-", "_")] = re.sub(r"\\(.)", r"\1", found[2])
        else:
            rest.append(option)
    if "search_path" in query:
        chosen["search_path"] = _text(query["search_path"])
    return chosen, " ".join(rest)


def _text(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def _select_settings(settings: Mapping[str, str], *, is_local: bool) -> str:
    """The statement that sets these until the end of the session, or of the transaction."""
    from psycopg.sql import SQL

    each = [SQL("set_config({}, {}, {})").format(name, value, is_local) for name, value in settings.items()]
    return SQL("SELECT {}").format(SQL(", ").join(each)).as_string()
