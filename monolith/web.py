"""The web process: gunicorn with threads, in front of `create_app()`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from monolith.config import settings
from monolith.jobs import switchboard
from monolith.runner import inline

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - gunicorn's heartbeat must not wait for a disk


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


class StreamingWorker(ThreadWorker):
    """Gunicorn's threads, but an open stream holds none: once its answer has begun, its connection is the switchboard's."""

    HANDED_OVER = object()

    def handle(self, conn: Any) -> Any:
        try:
            return super().handle(conn)
        except switchboard.HandedOver as handed:
            handed.take(conn.sock)
            return self.HANDED_OVER

    def finish_request(self, conn: Any, fs: Any) -> None:
        if not fs.cancelled() and not fs.exception() and fs.result() is self.HANDED_OVER:
            self.nr_conns -= 1  # and nobody closes it here
        else:
            super().finish_request(conn, fs)

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """SIGTERM: streams end at once, requests are finished."""
        if board := switchboard.current():
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
    switchboard.start()
    inline.start()


def _leave() -> None:
    switchboard.leave()
    inline.leave()


def _options() -> dict[str, Any]:
    host = settings().host
    return {
        "bind": f"{f'[{host}]' if ':' in host else host}:{settings().port}",
        "worker_class": StreamingWorker,
        "threads": settings().web_threads,
        # "workers" is left to gunicorn: WEB_CONCURRENCY, which hosts set by the memory of the machine, or 1
        "preload_app": True,  # the workers share the memory of what is imported
        "timeout": 30,
        "graceful_timeout": 20,  # hosts kill after 30
        "keepalive": 5,
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
