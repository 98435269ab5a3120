"""What holds on a connection to PostgreSQL: the options of DATABASE_URL and our own settings, directly and through PgBouncer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from sqlalchemy import Float, Text, bindparam, func, literal, select, text
from sqlalchemy.exc import DataError

from monolith.db import engine, postgresql_session
from monolith.errors import BadSetting
from monolith.runner.ledger import balance
from tests.support.hosts.pgbouncer import pgbouncer

Settings = Callable[..., None]
CURRENT = engine.PreparedStatement(select(func.current_setting("search_path"), func.current_setting("statement_timeout")))
SCHEMA = "?options=-csearch_path%3Dintray%2C%20public%20-c%20statement_timeout%3D7s"

pytestmark = pytest.mark.databases("postgresql")


def setting(name: str) -> str:
    with engine.read_connection() as connection:
        return str(connection.scalar(select(func.current_setting(name))))


def of_a_write(name: str) -> str:
    with engine.write_transaction() as connection:
        return str(connection.scalar(select(func.current_setting(name))))


@pytest.fixture(params=["direct", "session", "transaction"])
def url(request: pytest.FixtureRequest, database_url: str) -> Iterator[str]:
    """The URL of the database, reached in each way. In transaction mode all clients share one connection to the server."""
    with ExitStack() as stack:
        size = 1 if request.param == "transaction" else 5
        yield database_url if request.param == "direct" else stack.enter_context(pgbouncer(database_url, request.param, size))


def test_options_of_the_url_hold_for_each_kind_of_statement_and_for_nobody_else(intray_settings: Settings, url: str) -> None:
    intray_settings(DATABASE_URL=url + SCHEMA.replace("%2C%20", "%2C%5C%20"))
    for _ in range(2):
        assert CURRENT.run() == [("intray, public", "7s")]
        assert (setting("search_path"), setting("statement_timeout")) == ("intray, public", "7s")
        assert (of_a_write("search_path"), of_a_write("statement_timeout")) == ("intray, public", "7s")
        with balance.snapshot() as session:
            assert session.scalar(select(func.current_setting("search_path"))) == "intray, public"
    with psycopg.connect(url, autocommit=True) as other:
        assert other.execute("SHOW search_path").fetchone() == ('"$user", public',)
        assert other.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("0",)


def test_a_search_path_an_application_name_and_a_timeout_of_the_url_hold(intray_settings: Settings, url: str) -> None:
    intray_settings(DATABASE_URL=f"{url}?search_path=intray,public&application_name=reports%2520%25&connect_timeout=3")
    assert (setting("search_path"), setting("application_name")) == ("intray,public", "reports%20%")
    with engine.read_connection() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None and driver.info.get_parameters()["connect_timeout"] == "3"


def test_without_options_a_silent_client_or_server_is_given_up_after_15_seconds(intray_settings: Settings, url: str) -> None:
    intray_settings(DATABASE_URL=url)
    assert of_a_write("idle_in_transaction_session_timeout") == "15s"
    with engine.read_connection() as connection:
        driver = connection.connection.driver_connection
        found = driver.info.get_parameters() if driver else {}
    assert {name: found[name] for name in ("connect_timeout", "tcp_user_timeout")} == {"connect_timeout": "5", "tcp_user_timeout": "15000"}


@pytest.mark.parametrize(
    ("options", "said"),
    [("-cnonsense%3D1", "unrecognized configuration parameter"), ("-csearch_path%3Dnowhere", "Make it with CREATE SCHEMA")],
)
def test_options_that_the_server_cannot_use_are_said(intray_settings: Settings, database_url: str, options: str, said: str) -> None:
    intray_settings(DATABASE_URL=f"{database_url}?options={options}")
    with pytest.raises(BadSetting, match=said):
        engine.upgrade()


def test_each_write_has_a_limited_wait_for_locks_and_what_may_wait_longer_says_so(intray_settings: Settings, url: str) -> None:
    lock_timeout = select(func.current_setting("lock_timeout"))
    intray_settings(DATABASE_URL=url)
    assert of_a_write("lock_timeout") == "2s"
    assert engine.PreparedStatement(lock_timeout, writes=True).run() == [("2s",)]
    with engine.write_transaction() as connection:
        postgresql_session.wait_for_locks(connection, 60)
        assert connection.scalar(lock_timeout) == "1min"
    assert of_a_write("lock_timeout") == "2s"
    intray_settings(DATABASE_URL=f"{url}?options=-clock_timeout%3D7s")
    assert of_a_write("lock_timeout") == "7s"


def test_a_percent_sign_in_a_setting_stays(intray_settings: Settings, url: str) -> None:
    intray_settings(DATABASE_URL=f"{url}?options=-cintray.note%3D100%25s")
    assert setting("intray.note") == of_a_write("intray.note") == "100%s"
    with engine.read_connection() as connection:
        assert connection.execute(text("SELECT :given"), {"given": "50%"}).scalar() == "50%"


def test_the_next_client_on_the_same_connection_to_the_server_finds_nothing_prepared(intray_settings: Settings, url: str) -> None:
    intray_settings(DATABASE_URL=url)
    for _ in range(2):
        for _ in range(8):  # more often than the driver waits before it prepares a statement
            assert CURRENT.run() == [('"$user", public', "0")]
        engine.get_engine().dispose()


def test_a_statement_that_was_deallocated_is_prepared_again(intray_settings: Settings, url: str) -> None:
    intray_settings(DATABASE_URL=url)
    half = engine.PreparedStatement(select(literal(7) * bindparam("factor", type_=Float), bindparam("text", type_=Text)))
    assert half.run(factor=0.5, text="a") == [(3.5, "a")]
    with engine.read_connection() as connection:
        connection.exec_driver_sql("DEALLOCATE ALL")
    assert half.run(factor=0.25, text=None) == [(1.75, None)]
    with pytest.raises(DataError):  # PostgreSQL would store what is before it
        half.run(factor=0.25, text="before\0after")
