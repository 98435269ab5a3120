"""Pausing real workers, busy and idle ones; and what they say of their children."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
import requests

from tests.support.processes import Intray, until

WITHIN_S = 1.0  # from the pause on; asked of the database's clock, which wrote both times
PAUSED = {"reason": "The model is being changed."}


class Yard:
    """Web, clock and two workers of real processes."""

    def __init__(self, intray: Intray) -> None:
        self.intray = intray
        self.headers = {"Authorization": f"Bearer {intray.token('a@example.org')}"}

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = requests.request(method, f"{self.intray.base_url}/api/v1{path}", headers=self.headers, timeout=40, **options)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def submit(self, name: str, count: int, **params: Any) -> list[str]:
        specs = [{"type": name, "params": params} for _ in range(count)]
        return [job["id"] for job in self.call("post", "/documents", json={"text": "Some text.", "jobs": specs})["jobs"]]

    def jobs(self, ids: list[str]) -> list[dict[str, Any]]:
        return [self.call("get", f"/jobs/{job_id}") for job_id in ids]

    def counted(self, type_name: str) -> dict[str, Any]:
        return next(one for queue in self.call("get", "/queues")["data"] for one in queue["types"] if one["name"] == type_name)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Yard]:
    settings = {"REDIS_URL": redis_server, "JOB_PACKAGES": "jobs,tests.trial_jobs", "WORKER_CONCURRENCY": "2", "SHUTDOWN_GRACE": "1"}
    with Intray(tmp_path_factory.mktemp("yard") / "home", settings) as one:
        one.checked("db", "upgrade")
        one.checked("user", "create", "--email", "a@example.org", "--password", "a long password", "--admin")
        for name in ("web", "clock", "worker", "worker"):
            one.spawn(name)
        one.wait_until(one.is_ready)
        yard = Yard(one)
        until(lambda: len(yard.call("get", "/workers")["data"]) == 2)
        yield yard


def test_a_pause_acts_at_once_on_busy_workers_and_resuming_lets_all_go_on(
    yard: Yard, record_testsuite_property: Callable[[str, object], None]
) -> None:
    ids = yard.submit("trial_sleep", 60, seconds=0.2)
    until(lambda: yard.counted("trial_sleep")["finished"] >= 3)
    pause = yard.call("put", "/pauses/type:trial_sleep", json=PAUSED)
    until(lambda: yard.counted("trial_sleep")["started"] == 0, 30)
    held = yard.jobs(ids)
    late = sorted(_seconds(job["started_at"]) - _seconds(pause["since"]) for job in held if job["started_at"])
    record_testsuite_property("seconds from the pause to the last claim", f"{late[-1]:+.3f}")  # in the report of `--junitxml`
    assert late[-1] < WITHIN_S
    waiting = [job for job in held if job["status"] == "queued"]
    assert waiting and {job["waiting_reason"] for job in waiting} == {"Paused: The model is being changed."}
    yard.call("delete", "/pauses/type:trial_sleep")
    until(lambda: yard.counted("trial_sleep")["finished"] == 60, 60, lambda: str(yard.counted("trial_sleep")))


def test_a_pause_acts_on_idle_workers_too_and_on_nothing_else(yard: Yard) -> None:
    pause = yard.call("put", "/pauses/type:trial_sleep", json=PAUSED)
    held = yard.submit("trial_sleep", 4, seconds=0)
    free = yard.submit("trial_echo", 4, value=1)
    until(lambda: yard.counted("trial_echo")["finished"] == 4)
    assert {(job["status"], job["attempt"]) for job in yard.jobs(held)} == {("queued", 0)}
    yard.call("delete", "/pauses/type:trial_sleep")
    until(lambda: {job["status"] for job in yard.jobs(held)} == {"finished"}, 30)
    assert all(_seconds(job["started_at"]) > _seconds(pause["since"]) for job in yard.jobs([*held, *free]))


def test_workers_say_what_each_of_their_processes_runs_and_holds(yard: Yard) -> None:
    [job_id] = yard.submit("trial_sleep", 1, seconds=30)

    def of_job() -> list[dict[str, Any]]:
        children = [child for worker in yard.call("get", "/workers")["data"] for child in worker["children"]]
        return [child for child in children if job_id in [job["id"] for job in child["jobs"]]]

    until(lambda: len(of_job()) == 1, 40)
    [child] = of_job()
    assert child["memory"] > 1_000_000 and child["pid"] in yard.intray.processes()
    assert child["jobs"][0]["type"] == "trial_sleep"
    for worker in yard.call("get", "/workers")["data"]:
        assert len(worker["children"]) >= 2 and worker["memory"] > 5_000_000 and worker["heartbeat_at"]


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
