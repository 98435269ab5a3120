"""Webhooks, whole: real web, clock and worker, a real receiver, and a worker that is killed after the receiver answered."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.databases import new_database
from tests.support.processes import Intray, until
from tests.support.receiver import Receiver, Request, hang, status


class Told:
    """An installation whose workers a test starts, with somebody new and a receiver that their jobs are told to."""

    def __init__(self, intray: Intray, receiver: Receiver) -> None:
        self.intray, self.receiver = intray, receiver
        self._token = intray.token(intray.user(f"{uuid.uuid4().hex}@example.org"))

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        url, headers = f"{self.intray.base_url}{path}", {"Authorization": f"Bearer {self._token}"}
        answer = requests.request(method, url, headers=headers, timeout=40, **options)
        assert answer.status_code < 300, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def submit(self, type: str = "trial_echo", **wanted: Any) -> str:
        return str(self.call("post", "/api/v1/jobs", json={"type": type, **wanted})["id"])

    def wait_until(self, is_so: Callable[[], bool], within: float = 60) -> None:
        until(is_so, within, lambda: f"received {self.receiver.ids()}\n{self.intray.output()[-3000:]}")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Intray]:
    settings = {"REDIS_URL": redis_server, "FETCH_ALLOW_LOOPBACK": "1", "JOB_PACKAGES": "jobs,tests.trial_jobs", "SHUTDOWN_GRACE": "1"}
    if request.param == "postgresql":
        settings["DATABASE_URL"] = new_database(request.getfixturevalue("postgresql_server"))
    with Intray(tmp_path_factory.mktemp("hooks") / "home", settings | {"RQ_KEY_PREFIX": f"hooks-{request.param}"}) as one:
        one.checked("db", "upgrade")
        one.spawn("web")
        one.spawn("clock")
        one.wait_until(one.is_ready)
        yield one


@pytest.fixture
def told(running: Intray) -> Iterator[Told]:
    with Receiver() as receiver:
        yield Told(running, receiver)
    running.end_all("worker")


def test_fifty_jobs_of_each_end_are_told_once_each_and_progress_in_between(told: Told) -> None:
    told.intray.spawn("worker")
    webhook = told.call(
        "post", "/api/v1/webhooks", json={"url": told.receiver.url, "events": ["job.finished", "job.failed", "job.progress"]}
    )
    told.receiver.will(status(503, Retry_After="1"), status(204))
    slow = told.submit("trial_sleep", params={"seconds": 8})
    jobs = {told.submit(params={"value": number}): "job.finished" for number in range(40)}
    jobs |= {told.submit("trial_permanent"): "job.failed" for _ in range(10)}
    jobs[slow] = "job.finished"

    def ends() -> dict[str, str]:
        said = [one.verified(webhook["secret"]) for one in list(told.receiver.requests)]
        return {one["data"]["id"]: one["type"] for one in said if one["type"] != "job.progress"}

    told.wait_until(lambda: ends() == jobs)
    told.wait_until(lambda: all(one["status"] == "delivered" for one in told.call("get", webhook["links"]["deliveries"])["data"]))
    assert set(told.receiver.ids().values()) <= {1, 2}  # 2: the one that was answered with 503
    assert list(told.receiver.ids().values()).count(2) <= 1
    assert [one.said["data"]["id"] for one in told.receiver.requests if one.said["type"] == "job.progress"].count(slow) == 1


def test_a_worker_killed_after_the_receiver_answered_sends_again_under_the_same_id(told: Told) -> None:
    worker = told.intray.spawn("worker")
    children: list[int] = []

    def kill_the_worker_and_answer(request: Request) -> None:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        children.append(worker.pid)
        status(200)(request)

    told.receiver.will(kill_the_worker_and_answer, status(200))
    job = told.submit(webhook_url=told.receiver.url)
    told.wait_until(lambda: bool(children))
    told.intray.spawn("worker")
    told.wait_until(lambda: len(told.receiver.requests) >= 2)
    first, second = told.receiver.requests[:2]
    assert first.id == second.id
    assert first.body == second.body
    assert second.said["data"]["id"] == job


def test_what_ended_while_the_clock_was_away_is_told_when_it_is_back(told: Told) -> None:
    told.intray.spawn("worker")
    secret = told.call("post", "/api/v1/webhooks", json={"url": told.receiver.url})["secret"]
    told.intray.end_all("clock", signal.SIGKILL)
    job = told.submit()
    told.wait_until(lambda: told.call("get", f"/api/v1/jobs/{job}")["status"] == "finished")
    assert told.receiver.requests == []
    told.intray.spawn("clock")
    told.wait_until(lambda: bool(told.receiver.requests))
    assert told.receiver.requests[0].verified(secret)["data"]["id"] == job


def test_a_receiver_that_hangs_keeps_no_job_from_running(told: Told) -> None:
    over = threading.Event()
    told.receiver.will(lambda request: over.wait(60) and None)
    told.intray.spawn("worker")
    told.call("post", "/api/v1/webhooks", json={"url": told.receiver.url})
    for _ in range(20):
        told.submit()
    told.wait_until(lambda: len(told.receiver.requests) >= 5)
    job = told.submit()
    told.wait_until(lambda: told.call("get", f"/api/v1/jobs/{job}")["status"] == "finished", within=10)
    over.set()


# ---- shares


MANY = 120
FEW = 60  # of them


@pytest.fixture
def hog(running: Intray) -> Iterator[Told]:
    """Somebody whose receiver hangs: it listens on every address of this machine, so that there may be as many hosts."""
    with Receiver(hang, address="0.0.0.0") as receiver:
        yield Told(running, receiver)


@pytest.mark.parametrize("hosts", [1, MANY])
def test_hanging_endpoints_of_one_owner_keep_no_other_owners_message_and_no_io_bound_job(
    told: Told, hog: Told, hosts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(told.intray.settings, "WORKER_CONCURRENCY", "1")  # 16 slots for I/O-bound jobs
    port = urlsplit(hog.receiver.url).port
    for number in range(MANY):
        hog.submit(webhook_url=f"http://127.0.0.{number % hosts + 1}:{port}/hook")
    told.intray.spawn("worker")
    told.wait_until(lambda: len(hog.receiver.requests) >= 5)
    for _ in range(3):
        before = len(told.receiver.requests)
        told.submit(webhook_url=told.receiver.url)
        job = told.submit("chaos_wait")
        told.wait_until(lambda: len(told.receiver.requests) > before)  # noqa: B023
        told.wait_until(lambda: told.call("get", f"/api/v1/jobs/{job}")["status"] == "finished")  # noqa: B023
    assert len(hog.receiver.ids()) < FEW, "the others had to wait until the hanging ones were through"


def test_what_a_killed_worker_had_in_hand_is_sent_by_the_next(told: Told) -> None:
    """Those that hang and those that were not begun: all of one job."""
    over = threading.Event()
    told.receiver.will(lambda request: status(204)(request) if over.is_set() else hang(request))
    jobs = {told.submit(webhook_url=told.receiver.url) for _ in range(40)}
    told.intray.spawn("worker")
    told.wait_until(lambda: len(told.receiver.requests) >= 5)
    told.intray.end_all("worker", signal.SIGKILL)
    over.set()
    arrived: set[str] = set()
    before = len(told.receiver.requests)
    told.intray.spawn("worker")

    def all_arrived() -> bool:
        arrived.update(one.said["data"]["id"] for one in told.receiver.requests[before:])
        return arrived == jobs

    told.wait_until(all_arrived)
