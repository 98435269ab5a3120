"""What a worker does with a job: validate its message, claim it, run its function, record the outcome.
`rq worker` loads `LedgerWorker` from here; the inline runner calls `execute.run`.
It must not import `runner.scheduler`, `runner.monitoring`, `runner.admin`, or anything above the runner."""

from typing import Any

from monolith import aliases


def __getattr__(name: str) -> Any:
    if name == "PreforkWorker":  # WORKER_CLASS until 0.9 was monolith.runner.worker.PreforkWorker
        from monolith.runner.prefork.worker import PreforkWorker

        aliases.warn("monolith.runner.worker.PreforkWorker", "monolith.runner.prefork.worker.PreforkWorker")
        return PreforkWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
