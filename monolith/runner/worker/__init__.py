"""What a worker does with a job of the ledger: claim it, run its function, record the outcome; and the command that starts a worker.
`manage.py worker` and RQ, by the names in messages and settings, call it.
It must not import the admin, monitoring, the scheduler or anything with Flask."""

from typing import Any

from monolith import aliases


def __getattr__(name: str) -> Any:
    if name == "PreforkWorker":  # WORKER_CLASS until 0.9 was monolith.runner.worker.PreforkWorker
        from monolith.runner.prefork.worker import PreforkWorker

        aliases.warn("monolith.runner.worker.PreforkWorker", "monolith.runner.prefork.worker.PreforkWorker")
        return PreforkWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
