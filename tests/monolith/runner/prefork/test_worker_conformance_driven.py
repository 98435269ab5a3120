"""A worker that is watched, commanded, suspended or ended while it works looks and does as RQ's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.worker import driven_scenarios
from tests.support.worker.observation import observe
from tests.support.worker.scenarios import Scenario
from tests.support.worker.snapshot import differences
from tests.support.worker.trial import CLASS_UNDER_TEST, STOCK

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scenario", driven_scenarios.ALL, ids=lambda scenario: scenario.name)
def test_what_can_be_seen_is_what_stock_shows(redis_server: str, tmp_path: Path, scenario: Scenario) -> None:
    expected = observe(scenario, redis_server, tmp_path, STOCK)
    different = differences(expected, observe(scenario, redis_server, tmp_path, CLASS_UNDER_TEST))
    assert not different, "\n".join(different)
