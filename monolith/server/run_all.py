"""`manage.py run`: starts Redis if needed, web, clock and worker on this machine, restarts what dies, and stops all of it."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import TextIO

import structlog

from monolith.config import ROOT, settings
from monolith.db import engine
from monolith.errors import BadSetting
from monolith.job_types import registry
from monolith.linux import processes
from monolith.logs import mask
from monolith.runner.worker import command
from monolith.server import redis_server
from monolith.server.child_processes import ChildProcess, ForkedChild, StopSignal, end

MANAGE = ROOT / "manage.py"
ADMIN = "admin@localhost"
GRACE_S = 25.0
REDIS_GRACE_S = 5.0
READY_S = 60.0
WATCH_S = 0.2

log = structlog.get_logger()


def run(command: Callable[[str], None], say: Callable[[str], None]) -> None:
    """Checks, migrates and starts everything, watches it until SIGTERM or Ctrl-C, then stops everything.

    `command` runs the command of that name, such as `web`, in a fork of this process; `say` prints what a person must read.
    Raises `BadSetting` when a setting, a file of job types, the port or Redis prevents the start.
    """
    stop = StopSignal()
    with _exclusive_home() as lock:

        def in_child(name: str) -> None:
            lock.close()  # otherwise the home stays locked for as long as the child lives
            stop.close()
            processes.set_command_line(MANAGE.name, name)
            sys.argv[1:] = [name]
            command(name)

        check_machine()
        registry.require_all()
        engine.upgrade()
        with _redis() as redis:
            children = _start_all(in_child)
            try:
                _watch(stop, [*redis, *children], say)
            finally:
                log.info("stopping")
                end(children, GRACE_S)


@contextmanager
def _exclusive_home() -> Iterator[TextIO]:
    """Holds the lock of INTRAY_HOME. The system releases it when this process ends, however it ends."""
    home = settings().home
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "run.lock").open("a+")
    except OSError as error:
        raise BadSetting(
            f"The folder INTRAY_HOME ({home}) is not writable ({error.strerror}). Set INTRAY_HOME to a folder you own."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadSetting(f"Intray is already running in {home}. Stop it, or set INTRAY_HOME to another folder.") from error
        yield file


def check_machine(*, may_be_taken: bool = False) -> None:
    """Raises `BadSetting` for settings that this machine cannot follow: where to listen, and the class of the worker."""
    problems: list[str] = []
    for check in (partial(check_address, may_be_taken=may_be_taken), command.check_worker_class):
        try:
            check()
        except BadSetting as problem:
            problems += problem.lines
    if problems:
        raise BadSetting(*problems)


def check_address(*, may_be_taken: bool = False) -> None:
    """Raises `BadSetting` unless this machine can listen on HOST and PORT. `may_be_taken`: by a web process that runs or is ending."""
    host, port = settings().host, settings().port
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        if may_be_taken and getattr(error, "errno", None) == errno.EADDRINUSE:
            return
        reason = getattr(error, "strerror", None) or str(error)
        free_port = port + 1 if 1024 <= port < 65535 else 8001
        is_elsewhere = isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL
        fix = "Set HOST to an address of this machine." if is_elsewhere else f"Use another port: PORT={free_port} make run"
        raise BadSetting(f"Cannot listen on {host} port {port} ({reason}). {fix}") from error


@contextmanager
def _redis() -> Iterator[list[ChildProcess]]:
    """The bundled server, started and stopped; or no process at all, once the server of REDIS_URL answers."""
    if settings().queue_mode == "inline":
        yield []
        return
    if not settings().redis_is_ours:
        require_redis()
        yield []
        return
    server = redis_server.prepare(os.environ)
    server.start()
    try:
        redis_server.wait_until_ready(server)
        yield [server]
    finally:
        end([server], REDIS_GRACE_S)


def require_redis() -> None:
    """Raises `BadSetting`, which says what to do, if Redis does not answer."""
    error = redis_server.connection_error()
    if error is None:
        return
    if settings().redis_is_ours:
        raise BadSetting("Redis is not running. Start everything with `make run`, or set REDIS_URL to your own Redis server.")
    fix = "Correct REDIS_URL, or unset it to use the bundled Redis."
    if "CERTIFICATE_VERIFY_FAILED" in error:
        fix = "Add its certificate authority (?ssl_ca_certs=/path in REDIS_URL) or, if it is self-signed, set REDIS_TLS_VERIFY=false."
    raise BadSetting(f"Cannot connect to Redis at {redis_server.address()}: {mask(error)}. {fix}")


def _start_all(in_child: Callable[[str], None]) -> list[ChildProcess]:
    names = ["web"] if settings().queue_mode == "inline" else ["web", "clock", "worker"]
    children: list[ChildProcess] = [ForkedChild(name, partial(in_child, name)) for name in names]
    _load()
    for child in children:
        child.start()
    return children


def _load() -> None:
    """Imports what the children need, once for all of them: most of the time and the memory of a start.

    No database connection may be open when they are forked: SQLite forbids it, and PostgreSQL would serve two clients on one.
    """
    import rq.cli.workers  # noqa: F401

    from monolith.runner.scheduler import clock  # noqa: F401
    from monolith.runner.worker import ledger_worker  # noqa: F401
    from monolith.server import gunicorn_worker

    gunicorn_worker.application()
    engine.get_engine().dispose()
    gc.collect()
    gc.freeze()  # the garbage collector of a child does not write to the memory that it shares


def _watch(stop: StopSignal, children: list[ChildProcess], say: Callable[[str], None]) -> None:
    """Prints the address once Intray is ready, and restarts processes that die."""
    announced = False
    late_at = time.monotonic() + READY_S
    while not stop.wait(WATCH_S):
        for child in children:
            child.keep_alive()
        if not announced and is_ready():
            say(_announcement())
            engine.get_engine().dispose()  # a child that is restarted is forked without connections
            announced = True
        if not announced and time.monotonic() > late_at:
            say(f"Intray is not ready after {READY_S:g} s. See the log lines above, or run `.venv/bin/python manage.py doctor`.")
            late_at = float("inf")


def is_ready() -> bool:
    """Whether GET /ready answers 200."""
    connection = HTTPConnection(_reachable_host(), settings().port, timeout=2)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _reachable_host() -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(settings().host, settings().host)  # noqa: S104


def _announcement() -> str:
    host = _reachable_host()
    address = f"http://{f'[{host}]' if ':' in host else host}:{settings().port}"
    lines = [f"Intray is ready: {address}"]
    password = _first_admin()
    if password:
        lines += ["", f"E-mail:   {ADMIN}", f"Password: {password}", "", "Save the password now. It is not shown again."]
    return "\n".join(["", *lines, "Press Ctrl-C to stop.", ""])


def _first_admin() -> str | None:
    """The password of the admin that the first run creates; None if there are users already."""
    from monolith.accounts import users
    from monolith.runner.ledger import audit

    if users.has_users():
        return None
    password = secrets.token_urlsafe(12)
    users.create_user(ADMIN, password, audit.at_command_line(), is_admin=True)
    return password
