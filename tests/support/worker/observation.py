"""Run a scenario with a worker class and see everything there is to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.worker.scenarios import Scenario
from tests.support.worker.snapshot import alike, snapshot
from tests.support.worker.trial import Trial


def observe(scenario: Scenario, redis_url: str, folder: Path, worker_class: str) -> dict[str, Any]:
    """Redis, what the jobs did, what the scenario itself saw, and what processes are left."""
    trial = Trial(redis_url, folder, worker_class, WORKER_CONCURRENCY="5" if scenario.in_any_order else "1")
    try:
        seen = scenario.run(trial)
        effects = [alike(line) for line in trial.effects()]
        return {
            "seen": seen,
            "effects": sorted(effects) if scenario.in_any_order else effects,
            "redis": snapshot(trial.connection),
            "left running": trial.processes(),
        }
    finally:
        trial.end()
