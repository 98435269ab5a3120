"""After each kind of outcome the worker leaves the Redis state that RQ's own leaves, to the last field."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.worker import scenarios
from tests.support.worker.observation import observe
from tests.support.worker.scenarios import Scenario
from tests.support.worker.snapshot import differences
from tests.support.worker.trial import CLASS_UNDER_TEST, STOCK

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda scenario: scenario.name)
def test_what_is_left_in_redis_is_what_stock_leaves(redis_server: str, tmp_path: Path, scenario: Scenario) -> None:
    expected = observe(scenario, redis_server, tmp_path, STOCK)
    different = differences(expected, observe(scenario, redis_server, tmp_path, CLASS_UNDER_TEST))
    assert not different, "\n".join(different)
