"""The web process: gunicorn with threads, in front of `create_app()`."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import ThreadWorker

from monolith.config import settings
from monolith.runner.scheduler import inline_runner
from monolith.server.slow_clients import IncomingBody, OutgoingResponse
from monolith.web import sse_thread

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - gunicorn's heartbeat must not wait for a disk
PARTING_S = 2.0  # in which a client may read its answer to the end
MAX_PARTING = 64 * 1024  # bytes


def serve() -> None:
    """Answer HTTP until SIGTERM."""
    Server().run()


class Server(BaseApplication):
    def load_config(self) -> None:
        for name, value in _options().items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from monolith import create_app

        return create_app()


class Worker(ThreadWorker):
    """Gunicorn's threads, for requests that arrive and answers that are read.

    A connection has a thread only once something comes on it, and for a client that is not too slow (`patience`). An open stream
    holds none: once its answer has begun, its connection is the switchboard's. Nor does one that its client has still to close.
    """

    HANDED_OVER = object()

    def enqueue_req(self, conn: Any) -> None:
        if conn.parser is None:
            address = conn.client[0] if conn.client else ""
            conn.sock = OutgoingResponse(conn.sock, address)
            conn.parser = RequestParser(self.cfg, conn.sock, conn.client)
            conn.parser.unreader = IncomingBody(conn.sock, address)
            self._await(conn, self.on_pending_socket_readable, self.cfg.keepalive)
        else:
            super().enqueue_req(conn)

    def _await(self, conn: Any, then: Callable[[Any, Any], None], within_s: float) -> None:
        """Do something when the connection can be read; close it when that is not so in time."""
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
            self._part(conn)
        else:
            super().finish_request(conn, fs)

    def _part(self, conn: Any) -> None:
        """Say that no more is said, and let the client close: gunicorn would wait for that, and answer nobody meanwhile."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            self._await(conn, self._on_parting, PARTING_S)
        except OSError:
            self.nr_conns -= 1
            conn.close()

    def _on_parting(self, conn: Any, client: socket.socket) -> None:
        with suppress(OSError):
            if client.recv(MAX_PARTING):
                return  # until `murder_pending`
        self.poller.unregister(client)
        self.pending_conns.remove(conn)
        self.nr_conns -= 1
        conn.close()

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """SIGTERM: streams end at once, requests are finished."""
        if board := sse_thread.current():
            board.end()
        super().handle_exit(sig, frame)


class Log(glogging.Logger):
    """Gunicorn's own lines go where all the others go."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def _start() -> None:
    """What a process of the server needs threads for: none of them outlives a fork."""
    sse_thread.start()
    inline_runner.start()


def _leave() -> None:
    sse_thread.leave()
    inline_runner.leave()


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
        "post_worker_init": lambda worker: _start(),
        "worker_exit": lambda server, worker: _leave(),
    }
