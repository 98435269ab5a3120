"""A trial on a real Redis of its own, for every test of a worker class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.worker.trial import Trial


@pytest.fixture
def trial(redis_server: str, tmp_path: Path) -> Iterator[Trial]:
    one = Trial(redis_server, tmp_path)
    yield one
    one.end()
