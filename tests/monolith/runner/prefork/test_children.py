"""Which of the tasks that a worker has taken go back, for another worker: those that its own children will not begin soon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from monolith.runner.prefork.children import BLOCKED_S, Child, Children
from monolith.runner.prefork.options import Options
from monolith.runner.prefork.task import Task

Busy = Callable[[int], Children]


def _task(number: int) -> Task:
    queue = SimpleNamespace(DEFAULT_TIMEOUT=60, name="default")
    return Task(f"job{number}", f"e{number}", queue, {}, datetime.now(UTC), False, False)  # type: ignore[arg-type]


@pytest.fixture
def busy() -> Iterator[Busy]:
    """Two children that run one job each, of 15 ms as all before, and so many tasks that wait for them."""
    options = Options(concurrency=2)
    children = Children(SimpleNamespace(), options, lambda: None, set)
    children.children = [Child(options), Child(options)]  # not started: they stay with their first job

    def make(waiting: int) -> Children:
        for _ in range(50):
            children._pace.learn(0.015)
        children.assign([_task(number) for number in range(2 + waiting)])
        return children

    yield make
    children.close()


def test_tasks_that_wait_for_a_child_that_is_soon_free_stay(busy: Busy) -> None:
    assert busy(25).enforce_limits() == []


def test_tasks_that_would_wait_for_longer_than_a_quarter_of_a_second_go_back_the_last_ones(busy: Busy) -> None:
    returned = busy(100).enforce_limits()
    kept = 2 * int(BLOCKED_S / 0.015)
    assert abs(len(returned) - (100 - kept)) <= 4
    assert [task.job_id for task in returned] == [f"job{number}" for number in range(102 - len(returned), 102)]


def test_tasks_whose_children_all_run_long_jobs_go_back(busy: Busy) -> None:
    children = busy(25)
    for _, task in children.running():
        task.started_at = time.monotonic() - 2 * BLOCKED_S
    assert len(children.enforce_limits()) == 25
