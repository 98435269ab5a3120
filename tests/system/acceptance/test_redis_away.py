"""Redis gone under a running installation: what people are told, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.support.processes import Intray, until
from tests.support.servers import RedisServer


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.kill()


def test_what_is_submitted_while_redis_is_away_is_accepted_explained_and_done_when_it_is_back(
    new_intray: Callable[..., Intray], own_redis: RedisServer
) -> None:
    one = new_intray(REDIS_URL=own_redis.url).start()
    headers = {"Authorization": f"Bearer {one.token()}"}
    own_redis.kill()
    answer = requests.post(f"{one.base_url}/api/v1/documents", json={"text": "Kept.", "jobs": ["analyze"]}, headers=headers, timeout=10)
    assert answer.status_code == 201
    url = one.base_url + answer.json()["jobs"][0]["links"]["self"]
    job = requests.get(url, headers=headers, timeout=10).json()
    assert (job["status"], job["waiting_reason"]) == (
        "queued",
        "The queue server (Redis) is not responding. The job is saved and starts when Redis is back.",
    )
    assert requests.get(f"{one.base_url}/ready", timeout=10).json()["checks"] == {"database": True, "redis": False, "clock": True}
    own_redis.start()
    until(lambda: requests.get(url, headers=headers, timeout=10).json()["status"] == "finished", 30, one.output)
