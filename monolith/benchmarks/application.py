"""`rq worker --config monolith.benchmarks.application`: a stock worker with the application's job types loaded before it forks."""

from __future__ import annotations

from monolith.runner import registry, running

QUEUES = ["default"]

registry.discover()
_loaded = running  # what a job of the ledger needs
