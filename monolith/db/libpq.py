"""Executes single statements by the functions of libpq that psycopg exposes: a cursor, which can do more, takes five times as long.

Imported late: on SQLite no process needs psycopg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from psycopg import Connection, adapters, generators
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import ExecStatus

FLOAT = adapters.types["float8"].oid


class Statements:
    """The statements that one connection executes, each prepared at its first use; where `prepare` is false, none is."""

    def __init__(self, driver: Connection[Any], *, prepare: bool) -> None:
        self._driver, self._pgconn = driver, driver.pgconn
        self._converter = Transformer(driver)  # of values to the text that PostgreSQL reads, and back
        self._names: dict[str, bytes] | None = {} if prepare else None

    def run(self, statement: str, values: Sequence[Any]) -> Sequence[Any]:
        """The rows. The parameters of the statement are `$1`, `$2` and so on. Raises what a cursor would raise."""
        sent = self._converter.dump_sequence(values, [PyFormat.TEXT] * len(values))
        if self._names is None:
            result = self._execute(self._pgconn.send_query_params, statement.encode(), sent, _types(values))
        else:
            result = self._run_prepared(self._names, statement, sent, values)
        self._converter.set_pgresult(result)
        return self._converter.load_rows(0, result.ntuples, tuple)

    def _run_prepared(self, names: dict[str, bytes], statement: str, sent: Sequence[Any], values: Sequence[Any]) -> Any:
        if (name := names.get(statement)) is not None:
            try:
                return self._execute(self._pgconn.send_query_prepared, name, sent)
            except InvalidSqlStatementName:
                pass  # when psycopg rolls a transaction back, it deallocates all that is prepared
        name = names.setdefault(statement, f"intray_{len(names)}".encode())
        self._execute(self._pgconn.send_prepare, name, statement.encode(), _types(values))
        return self._execute(self._pgconn.send_query_prepared, name, sent)

    def _execute(self, send: Callable[..., None], *given: Any) -> Any:
        send(*given)
        (result,) = self._driver.wait(generators.execute(self._pgconn))
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result, self._driver.info.encoding)
        return result


def _types(values: Sequence[Any]) -> list[int]:
    """The types that the server does not infer: beside an integer, it would take a float for one. 0 is any other."""
    return [FLOAT if isinstance(one, float) else 0 for one in values]
