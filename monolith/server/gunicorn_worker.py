"""The web process: gunicorn's threaded worker, extended for event streams and slow clients, serving `create_app()`."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import ThreadWorker

from monolith import create_app
from monolith.config import settings
from monolith.runner.scheduler import inline_runner
from monolith.server.slow_clients import IncomingBody, OutgoingResponse
from monolith.web import sse_thread

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - gunicorn's heartbeat must not wait for a disk
LINGER_S = 2.0  # how long a client may take to read the rest of its answer and close
LINGER_BYTES = 64 * 1024  # read and discarded at once


@cache
def application() -> Flask:
    """The application that is served. `manage.py run` makes it before it forks the web process."""
    return create_app()


def serve() -> None:
    """Serves HTTP until SIGTERM."""
    os.environ.pop("SCRIPT_NAME", None)  # gunicorn would refuse paths without the prefix; `public_address` serves both
    GunicornApplication().run()


class GunicornApplication(BaseApplication):
    """Gunicorn with the settings of Intray instead of a configuration file."""

    def load_config(self) -> None:
        for name, value in _options().items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return _closing_if_told(application())


class Worker(ThreadWorker):
    """Gunicorn's threaded worker, in which a connection holds a thread only while a request is read, handled and answered.

    It gets a thread once its first bytes arrive, and loses it if its client is too slow (`slow_clients`). Event streams are handed to
    the SSE thread once their answer has begun. A connection that only waits for its client to close holds no thread either.
    """

    HANDED_OVER = object()

    def enqueue_req(self, conn: Any) -> None:
        if conn.parser is None:
            address = conn.client[0] if conn.client else ""
            conn.sock = OutgoingResponse(conn.sock, address)
            conn.parser = RequestParser(self.cfg, conn.sock, conn.client)
            conn.parser.unreader = IncomingBody(conn.sock, address)
            self._when_readable(conn, self.on_pending_socket_readable, self.cfg.keepalive)
        else:
            super().enqueue_req(conn)

    def _when_readable(self, conn: Any, then: Callable[[Any, Any], None], within_s: float) -> None:
        """Calls `then` when the connection can be read; closes it if that takes longer than `within_s` seconds."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + within_s
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(then, conn))

    def handle(self, conn: Any) -> Any:
        conn.parser.unreader.begin()
        try:
            return super().handle(conn)
        except sse_thread.HandedOver as handed:
            handed.take(conn.sock)
            return self.HANDED_OVER

    def handle_request(self, req: Any, conn: Any) -> Any:
        conn.parser.unreader.is_head = False
        conn.sock.begin()
        return super().handle_request(req, conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        result = fs.result() if not fs.cancelled() and not fs.exception() else None
        if result is self.HANDED_OVER:
            self.nr_conns -= 1  # and nobody closes it here
        elif result is False:
            self._close_gracefully(conn)
        else:
            super().finish_request(conn, fs)

    def _close_gracefully(self, conn: Any) -> None:
        """A lingering close that blocks nobody: gunicorn's own would wait in its only accepting thread."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            self._when_readable(conn, self._discard_until_closed, LINGER_S)
        except OSError:
            self.nr_conns -= 1
            conn.close()

    def _discard_until_closed(self, conn: Any, client: socket.socket) -> None:
        with suppress(OSError):
            if client.recv(LINGER_BYTES):
                return  # until `murder_pending`
        self.poller.unregister(client)
        self.pending_conns.remove(conn)
        self.nr_conns -= 1
        conn.close()

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """On SIGTERM, ends streams at once and finishes running requests."""
        if board := sse_thread.current():
            board.end()
        super().handle_exit(sig, frame)


def _closing_if_told(application: Any) -> Any:
    """Closes the connection after a response with `Connection: close`, which gunicorn ignores: the client must not reuse it."""

    def call(environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if ("Connection", "close") in headers:
                start_response.__self__.force_close()
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return call


class Log(glogging.Logger):
    """Sends gunicorn's log lines where all others go."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def _start_threads() -> None:
    """Starts the threads of a web process. Called after the fork, which no thread survives."""
    sse_thread.start()
    inline_runner.start()


def _stop_threads() -> None:
    sse_thread.leave()
    inline_runner.stop()


def _options() -> dict[str, Any]:
    host = settings().host
    return {
        "bind": f"{f'[{host}]' if ':' in host else host}:{settings().port}",
        "worker_class": Worker,
        "threads": settings().web_threads,
        # "workers" is left to gunicorn: WEB_CONCURRENCY, which hosts set by the memory of the machine, or 1
        "preload_app": True,  # the workers share the memory of what is imported
        "timeout": 30,
        "graceful_timeout": 20,  # hosts kill after 30
        "keepalive": 5,
        "sendfile": False,  # the kernel would wait for a client that does not read
        "limit_request_line": 4094,
        "limit_request_fields": 50,
        "limit_request_field_size": 8190,
        "forwarded_allow_ips": "",  # what proxies say is believed by TRUSTED_PROXIES alone, in `security`
        "accesslog": None,
        "logger_class": Log,
        "loglevel": "warning" if settings().log_level == "INFO" else settings().log_level.lower(),
        "control_socket_disable": True,
        "worker_tmp_dir": str(SHARED_MEMORY) if os.access(SHARED_MEMORY, os.W_OK) else None,
        "proc_name": "intray-web",
        "post_worker_init": lambda worker: _start_threads(),
        "worker_exit": lambda server, worker: _stop_threads(),
    }
