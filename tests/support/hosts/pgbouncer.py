"""PgBouncer in front of a PostgreSQL server, as hosts give it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from tests.support.processes import free_port, serving

UNPRIVILEGED = "postgres"  # it refuses to run as root


@contextmanager
def pgbouncer(database_url: str, mode: str, pool_size: int, wait_s: int = 20) -> Iterator[str]:
    """The URL of the same database through PgBouncer, where a client waits so long for a connection. Skips where it is not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    database, port = make_url(database_url), free_port()
    url = database.set(port=port).render_as_string(hide_password=False)
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "pool_mode": mode,
        "default_pool_size": pool_size,
        "query_wait_timeout": wait_s,
    }
    with tempfile.TemporaryDirectory(prefix="intray-pgbouncer-") as folder:
        users = Path(folder, "users.txt")
        users.write_text(f'"{database.username}" "{database.password}"\n')
        options["auth_file"] = users
        lines = [f"{name} = {value}" for name, value in options.items()]
        file = Path(folder, "pgbouncer.ini")
        file.write_text("\n".join(["[databases]", f"* = host={database.host} port={database.port}", "[pgbouncer]", *lines]))
        owner = UNPRIVILEGED if os.geteuid() == 0 else None
        if owner:
            for path in (folder, users, file):
                shutil.chown(path, owner)
        with serving([program, str(file)], lambda: _answers(url), user=owner, ended_by=signal.SIGTERM):  # SIGINT waits for the clients
            yield url


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
