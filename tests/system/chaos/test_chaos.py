"""A minute of chaos on both databases at once. `manage.py chaos` is the same for as long as you like."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.support.chaos.trial import Plan, Report, run
from tests.support.databases import has_postgresql

SECONDS = 20
SEEDS = {"sqlite": 7, "postgresql": 11}


@pytest.fixture(scope="module")
def trials() -> Iterator[dict[str, Future[Report]]]:
    """Both run side by side: most of the time, both wait for something to be given up as lost."""
    with ThreadPoolExecutor() as threads:
        there = [name for name in SEEDS if name == "sqlite" or has_postgresql()]
        yield {name: threads.submit(run, Plan(name, SEEDS[name], SECONDS, jobs=80, short=True)) for name in there}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("database", SEEDS)
def test_nothing_is_lost_stuck_or_done_twice_whatever_dies(trials: dict[str, Future[Report]], database: str) -> None:
    if database not in trials:
        pytest.skip("PostgreSQL is not installed")
    report = trials[database].result()
    assert not report.wrong, str(report)
    assert report.jobs > len(report.strikes) > 15
