"""PostgreSQL clusters of the tests' own, and databases in them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg

from tests.support.processes import free_port

MEMORY = Path("/dev/shm")
_numbers = count(1)


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL cluster with nothing in it, not yet running. `url` is that of its first database."""

    command: list[str]
    owner: str
    url: str

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def has_postgresql() -> bool:
    return bool(_initdb())


def _initdb() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@contextmanager
def new_cluster() -> Iterator[Cluster]:
    """Make a cluster in a folder of its own, which is removed afterwards."""
    owner = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name  # it refuses to run as root
    folder, port, program = Path(tempfile.mkdtemp(prefix="intray-postgresql-", dir=_roomy())), free_port(), _initdb()[-1]
    try:
        (folder / "password").write_text("secret")
        shutil.chown(folder, owner)
        initdb = [str(program), "-D", str(folder / "data"), "-U", "intray", "-A", "scram-sha-256", "--pwfile", str(folder / "password")]
        subprocess.run([*initdb, "-E", "UTF8", "--no-sync"], check=True, capture_output=True, user=owner, cwd="/")
        options = ["-D", str(folder / "data"), "-k", str(folder), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        yield Cluster([str(program.with_name("postgres")), *options], owner, f"postgresql://intray:secret@127.0.0.1:{port}/postgres")
    finally:
        shutil.rmtree(folder)


def _roomy() -> str | None:
    """In memory, where there is plenty: a new database has 300 files, which take a disk twenty times as long."""
    has_room = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 1024**3
    return str(MEMORY) if has_room else None


def new_database(server: str, template: str = "template0") -> str:
    name = f"intray_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return server.rpartition("/")[0] + f"/{name}"


def drop_database(url: str) -> None:
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
