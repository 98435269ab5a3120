"""`rq worker --config bench.application`: a stock worker with the application's job types loaded before it forks."""

from __future__ import annotations

from monolith.job_types import registry
from monolith.runner.worker import execute

QUEUES = ["default"]

registry.discover()
_loaded = execute  # what a job of the ledger needs
