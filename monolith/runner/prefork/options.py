"""The worker's settings, read from the environment unless a subclass overrides them."""

from __future__ import annotations

import os
from dataclasses import dataclass

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Options:
    concurrency: int = 5  # ordinary children; as many for I/O-bound jobs are started on demand
    io_bound_per_child: int = 16
    grace_s: float = 20.0  # what running jobs get when the worker is told to stop
    child_max_jobs: int = 10_000
    child_max_growth: int = 200 * MEGABYTE  # bytes above what a child had when it started


def from_environment() -> Options:
    """WORKER_CONCURRENCY, WAITING_PER_CHILD, SHUTDOWN_GRACE (s), CHILD_MAX_JOBS, CHILD_MAX_GROWTH_MB. Raises ValueError."""
    return Options(
        concurrency=_number("WORKER_CONCURRENCY", Options.concurrency),
        io_bound_per_child=_number("WAITING_PER_CHILD", Options.io_bound_per_child),
        grace_s=_number("SHUTDOWN_GRACE", int(Options.grace_s), least=0),
        child_max_jobs=_number("CHILD_MAX_JOBS", Options.child_max_jobs),
        child_max_growth=_number("CHILD_MAX_GROWTH_MB", Options.child_max_growth // MEGABYTE) * MEGABYTE,
    )


def _number(name: str, default: int, least: int = 1) -> int:
    text = os.environ.get(name, "") or str(default)
    try:
        value = int(float(text))
    except ValueError:
        value = least - 1
    if value < least:
        raise ValueError(f"{name} is {text!r}. Set it to a whole number, {least} or more, or unset it.")
    return value
