"""RQ's own command, `rq worker`, with our settings and our worker."""

from __future__ import annotations

import os

import structlog
from rq.cli.cli import main

from monolith.config import settings
from monolith.runner.queue import rq_queues

CLIENT = "monolith.runner.queue.redis_client.Client"
WORKER_TTL_S = 30  # how long RQ takes to notice that a worker is gone; its default is seven minutes
MONITORING_S = 10  # between two heartbeats in Redis of what runs
NICER = 10  # beside a web process on the same cores, jobs step back: whoever submits is answered at once

log = structlog.get_logger()


def work(arguments: tuple[str, ...] = ()) -> None:
    """Take jobs until SIGTERM. `arguments` are added to those of `rq worker`."""
    import rq.cli.workers  # noqa: F401 - adds `worker` to RQ's commands

    os.nice(NICER)
    log.info("worker_started", queues=rq_queues.names())
    main.main([*_options(), *arguments, *rq_queues.names()], prog_name="rq")


def _options() -> list[str]:
    return [
        *("worker", "--url", settings().redis_url, "--connection-class", CLIENT),
        *("--serializer", "json", "--worker-class", settings().worker_class),
        *("--job-class", "monolith.runner.worker.rq_message.Message"),  # also a stock worker then runs nothing but our jobs
        *("--worker-ttl", str(WORKER_TTL_S), "--job-monitoring-interval", str(MONITORING_S), "--disable-job-desc-logging"),
        *(() if settings().log_level == "DEBUG" else ("--quiet",)),  # what RQ says at every job and start, we say ourselves
    ]
