"""Starts RQ's own command, `rq worker`, with Intray's settings and worker class."""

from __future__ import annotations

import os

import structlog
from rq.cli.cli import main
from rq.utils import import_attribute

from monolith.config import settings
from monolith.errors import BadSetting
from monolith.job_types import registry
from monolith.runner.queue import rq_queues

CLIENT = "monolith.runner.queue.redis_client.Client"
WORKER_TTL_S = 30  # how long RQ takes to notice that a worker is gone; its default is seven minutes
MONITORING_S = 10  # between two heartbeats in Redis of the running jobs
NICENESS = 10  # a web process on the same cores goes first, so submissions are answered at once

log = structlog.get_logger()


def check_worker_class() -> None:
    """Raises `BadSetting` unless WORKER_CLASS can be imported."""
    try:
        import_attribute(settings().worker_class)
    except Exception as error:  # its module may raise anything
        raise BadSetting(f"WORKER_CLASS {settings().worker_class!r} cannot be imported. Correct it or unset it.") from error


def work(arguments: tuple[str, ...] = ()) -> None:
    """Run jobs until SIGTERM. `arguments` are added to those of `rq worker`."""
    import rq.cli.workers  # noqa: F401 - adds `worker` to RQ's commands

    os.nice(NICENESS)
    registry.log_broken()
    log.info("worker_started", queues=rq_queues.names())
    options = [
        *("worker", "--url", settings().redis_url, "--connection-class", CLIENT),
        *("--serializer", "json", "--worker-class", settings().worker_class),
        *("--job-class", "monolith.runner.worker.rq_message.Message"),  # so that a stock worker class, too, runs only our jobs
        *("--worker-ttl", str(WORKER_TTL_S), "--job-monitoring-interval", str(MONITORING_S), "--disable-job-desc-logging"),
        *(() if settings().log_level == "DEBUG" else ("--quiet",)),  # RQ's messages at every job and start repeat ours
    ]
    main.main([*options, *arguments, *rq_queues.names()], prog_name="rq")
