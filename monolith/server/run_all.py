"""`manage.py run`: the whole of Intray on one machine, from the first check to the last process ended."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException

import structlog

from monolith.config import ROOT, settings
from monolith.db import engine
from monolith.errors import BadSetting
from monolith.logs import is_readable, mask
from monolith.server import redis_server
from monolith.server.child_processes import ChildProcess, StopSignal, end

MANAGE = ROOT / "manage.py"
ADMIN = "admin@localhost"
GRACE_S = 25.0
REDIS_GRACE_S = 5.0
READY_S = 60.0
WATCH_S = 0.2

log = structlog.get_logger()


def run(say: Callable[[str], None]) -> None:
    """Check, migrate, start everything, watch it until SIGTERM or Ctrl-C, end everything.

    `say` prints what a person must read. Raises `BadSetting` when something stands in the way.
    """
    stop = StopSignal()
    with _home_of_our_own():
        _check_port()
        engine.upgrade()
        with _redis() as redis:
            children = _start_all()
            try:
                _watch(stop, [*redis, *children], say)
            finally:
                log.info("stopping")
                end(children, GRACE_S)


@contextmanager
def _home_of_our_own() -> Iterator[None]:
    """Hold the home's lock. The system lets go of it when this process ends, however it ends."""
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
        yield


def _check_port() -> None:
    host, port = settings().host, settings().port
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        is_unknown = isinstance(error, socket.gaierror)
        fix = "Set HOST to an address of this machine." if is_unknown else f"Use another port: PORT={_another(port)} make run"
        raise BadSetting(f"Cannot listen on {host} port {port} ({reason}). {fix}") from error


def _another(port: int) -> int:
    return port + 1 if 1024 <= port < 65535 else 8001


@contextmanager
def _redis() -> Iterator[list[ChildProcess]]:
    """Our own server, started and in the end ended; or nothing but the certainty that REDIS_URL answers."""
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
    """Raises `BadSetting` with what to do when Redis does not answer."""
    silent = redis_server.why_silent()
    if silent and settings().redis_is_ours:
        raise BadSetting("Redis is not running. Start everything with `make run`, or set REDIS_URL to your own Redis server.")
    if silent:
        url = mask(settings().redis_url)
        raise BadSetting(f"Cannot connect to Redis at {url}: {mask(silent)}. {_mend_of(silent)}")


def _mend_of(silent: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in silent:
        return "Add its certificate authority (?ssl_ca_certs=/path in REDIS_URL) or, if it is self-signed, set REDIS_TLS_VERIFY=false."
    return "Correct REDIS_URL, or unset it to use the bundled Redis."


def _start_all() -> list[ChildProcess]:
    env = {**os.environ, "LOG_FORMAT": "text"} if is_readable() else dict(os.environ)
    names = ["web"] if settings().queue_mode == "inline" else ["web", "clock", "worker"]
    children = [ChildProcess(name, [sys.executable, str(MANAGE), name], env) for name in names]
    for child in children:
        child.start()
    return children


def _watch(stop: StopSignal, children: list[ChildProcess], say: Callable[[str], None]) -> None:
    """Announce Intray when it is ready, and start again what dies."""
    announced = False
    late_at = time.monotonic() + READY_S
    while not stop.wait(WATCH_S):
        for child in children:
            child.keep_alive()
        if not announced and is_ready():
            say(_announcement())
            announced = True
        if not announced and time.monotonic() > late_at:
            say(f"Intray is not ready after {READY_S:g} s. See the log lines above, or run `.venv/bin/python manage.py doctor`.")
            late_at = float("inf")


def is_ready() -> bool:
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
    """The password of the admin made on the first run; None when there are users already."""
    from monolith.accounts import users
    from monolith.runner.ledger import audit

    if users.has_users():
        return None
    password = secrets.token_urlsafe(12)
    users.create_user(ADMIN, password, audit.at_command_line(), is_admin=True)
    return password
