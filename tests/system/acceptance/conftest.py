"""What acceptance tests share: a running installation on each database and Redis, and one that builds projects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.databases import new_database
from tests.support.processes import VENV_ONLY, Intray
from tests.support.workshop import workshop

__all__ = ["workshop"]


@pytest.fixture(scope="module", params=["sqlite-embedded", "sqlite-redis", "postgresql-embedded", "postgresql-redis"])
def intray(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intray]:
    """A running installation on each kind of database and Redis, with pages of this machine allowed as sources."""
    database, redis = request.param.split("-")
    settings = {"FETCH_ALLOW_LOOPBACK": "true"}
    if database == "postgresql":
        settings["DATABASE_URL"] = new_database(request.getfixturevalue("postgresql_server"))
    if redis == "redis":
        settings["REDIS_URL"] = request.getfixturevalue("redis_server")
    else:
        settings["PATH"] = VENV_ONLY
    one = Intray(tmp_path_factory.mktemp("intray") / "home", settings)
    try:
        yield one.start()
    finally:
        one.end()
