"""What acceptance tests share: a running installation as on a laptop and one as on a host, and one that builds projects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.databases import new_database
from tests.support.processes import VENV_ONLY, Intray
from tests.support.workshop import workshop

__all__ = ["workshop"]


@pytest.fixture(scope="module", params=["sqlite-embedded", "postgresql-redis"])
def intray(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intray]:
    """A running installation with pages of this machine allowed as sources; both databases and both Redis servers have their turn."""
    settings = {"FETCH_ALLOW_LOOPBACK": "true"}
    if request.param == "postgresql-redis":
        settings["DATABASE_URL"] = new_database(request.getfixturevalue("postgresql_server"))
        settings["REDIS_URL"] = request.getfixturevalue("redis_server")
    else:
        settings["PATH"] = VENV_ONLY
    with Intray(tmp_path_factory.mktemp("intray") / "home", settings) as one:
        yield one.start()
