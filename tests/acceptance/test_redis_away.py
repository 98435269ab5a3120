"""Redis gone under a running installation: what people are told, and that nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.acceptance.processes import Intray, accepts, free_port, until


class OwnRedis:
    """A redis-server that a test kills and starts again on the same port, empty each time."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        options = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._folder),
            "--save",
            "",
            "--logfile",
            str(self._folder / "log"),
        ]
        self._process = subprocess.Popen([program, *options])
        until(lambda: accepts(self.port))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    server = OwnRedis(tmp_path)
    server.start()
    yield server
    server.kill()


def test_what_is_submitted_while_redis_is_away_is_accepted_explained_and_done_when_it_is_back(
    new_intray: Callable[..., Intray], own_redis: OwnRedis
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
