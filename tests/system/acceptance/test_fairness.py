"""Several owners' jobs wait: they take turns, so a heavy user keeps nobody waiting. Real workers, real Redis, and inline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from tests.support.processes import Intray, until

TRIALS = {"JOB_PACKAGES": "jobs,tests.trial_jobs", "WORKER_CONCURRENCY": "1"}
BACKLOG = 30
OTHER_QUEUE = """
import time
from marshmallow import Schema, fields
from monolith.job_types import registry

class Params(Schema):
    seconds = fields.Float()

@registry.job_type(params=Params, takes="nothing", queue="zzz")
def other_queue(job, params):
    '''Sleep.'''
    time.sleep(params["seconds"])
    return {}
"""


class Users:
    """The users of one installation, who submit jobs that sleep a moment."""

    def __init__(self, intray: Intray) -> None:
        self.intray = intray
        self.submitted: dict[str, list[str]] = {"heavy": [], "light": []}
        intray.checked("user", "create", "--email", "admin@example.org", "--password", "a long password", "--admin")
        self._tokens = {"admin": intray.token("admin@example.org")}
        for name in self.submitted:
            self._tokens[name] = intray.token(intray.user(f"{name}@example.org"))

    def call(self, name: str, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._tokens[name]}"}
        answer = requests.request(method, f"{self.intray.base_url}/api/v1{path}", headers=headers, timeout=20, **options)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def submit(self, name: str, number: int = 1, *, type: str = "trial_sleep") -> list[str]:
        spec = {"type": type, "params": {"seconds": 0.3}}
        job_ids = [str(self.call(name, "POST", "/jobs", json=spec)["id"]) for _ in range(number)]
        self.submitted[name] += job_ids
        return job_ids

    def act(self, name: str, act: str, job_ids: list[str]) -> None:
        """Have the user cancel or stop these jobs; those for which it is too late are skipped."""
        if job_ids:
            self.call(name, "POST", f"/jobs/{act}", json={"ids": job_ids})

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("admin", "GET", f"/jobs/{job_id}")
        return found

    def wait_for(self, job_id: str, *statuses: str) -> dict[str, Any]:
        until(lambda: self.job(job_id)["status"] in statuses, 30, lambda: f"{self.job(job_id)}\n{self.intray.output()[-3000:]}")
        return self.job(job_id)

    def started_between(self, job_ids: list[str], begin: str, end: str) -> int:
        """How many of these jobs started between these moments."""
        moments = [self.job(job_id)["started_at"] for job_id in job_ids]
        return sum(begin < at < end for at in moments if at)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Users]:
    with Intray(tmp_path_factory.mktemp("fair") / "home", {"REDIS_URL": redis_server, **TRIALS}) as one:
        one.checked("db", "upgrade")
        users = Users(one)
        one.spawn("web")
        one.spawn("clock")
        one.wait_until(one.is_ready)
        yield users


@pytest.fixture
def users(installation: Users, redis_server: str) -> Iterator[Users]:
    yield installation
    installation.intray.end_all("worker")
    for act in ("cancel", "stop"):
        for name in ("heavy", "light"):
            installation.act(name, act, installation.submitted[name])
    redis.Redis.from_url(redis_server).flushall()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_single_job_starts_next_whatever_the_backlog_of_another_user(users: Users, workers: int) -> None:
    backlog = users.submit("heavy", BACKLOG)
    for _ in range(workers):
        users.intray.spawn("worker")
    users.wait_for(backlog[workers], "started", "finished")
    (single,) = users.submit("light")
    done = users.wait_for(single, "started", "finished")
    # Those that the workers took in this very moment, and those that others begin while it is claimed; by order of arrival it is all.
    assert users.started_between(backlog, done["created_at"], done["started_at"]) <= 4 * workers
    if workers == 1:  # a user's own jobs keep their order; of two that different workers have claimed, either may begin first
        assert sorted(backlog, key=lambda one: users.job(one)["started_at"] or "9") == backlog


def test_what_a_user_has_cancelled_costs_them_no_turn(users: Users) -> None:
    canceled, other = users.submit("heavy", BACKLOG), users.submit("light", 6)
    users.act("heavy", "cancel", canceled)
    (wanted,) = users.submit("heavy")
    users.intray.spawn("worker")
    started_at = users.wait_for(wanted, "started", "finished")["started_at"]
    assert users.started_between(other, "", started_at) <= 1


def test_what_is_paused_costs_its_owner_no_turn(users: Users) -> None:
    users.call("admin", "PUT", "/pauses/type:trial_slow", json={"reason": "a trial"})
    users.submit("heavy", BACKLOG, type="trial_slow")
    (wanted,), other = users.submit("heavy"), users.submit("light", 6)
    users.intray.spawn("worker")
    started_at = users.wait_for(wanted, "started", "finished")["started_at"]
    assert users.started_between(other, "", started_at) <= 2
    users.call("admin", "DELETE", "/pauses/type:trial_slow")


def test_a_backlog_in_one_queue_does_not_hold_up_another_queue_of_the_same_priority(tmp_path: Path, redis_server: str) -> None:
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "other.py").write_text(OTHER_QUEUE)
    settings = {"REDIS_URL": redis_server, **TRIALS, "JOB_PACKAGES": "jobs,tests.trial_jobs,elsewhere", "PYTHONPATH": str(tmp_path)}
    with Intray(tmp_path / "home", settings, forks=False) as one:
        one.start()
        users = Users(one)
        backlog = users.submit("heavy", BACKLOG)
        users.wait_for(backlog[1], "started", "finished")
        (single,) = users.submit("light", type="other_queue")
        done = users.wait_for(single, "started", "finished")
        assert users.started_between(backlog, done["created_at"], done["started_at"]) <= 1


def test_jobs_in_the_web_process_are_taken_by_turns_too(tmp_path: Path) -> None:
    with Intray(tmp_path / "home", {"QUEUE_MODE": "inline", **TRIALS}) as one:
        one.start()
        users = Users(one)
        backlog = users.submit("heavy", BACKLOG)
        users.wait_for(backlog[1], "started", "finished")
        (single,) = users.submit("light")
        done = users.wait_for(single, "started", "finished")
        assert users.started_between(backlog, done["created_at"], done["started_at"]) <= 1
