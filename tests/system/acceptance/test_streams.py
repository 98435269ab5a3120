"""Open streams of a real web process: they hold no thread, end with it, and outlive a Redis that is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from tests.support.listening import Event, events
from tests.support.processes import Intray, NewIntray, until

MANY = 40
LONGER_THAN_KEPT_ALIVE_S = 8  # gunicorn closes a connection that it holds after 5 s without a request
SETTINGS = {
    **{"JOB_PACKAGES": "jobs,tests.trial_jobs", "WEB_THREADS": "2", "WEB_CONCURRENCY": "1"},
    **{"MAX_STREAMS": str(MANY + 2), "MAX_STREAMS_PER_USER": str(MANY)},
}


class Client:
    def __init__(self, intray: Intray, token: str, opened: ExitStack) -> None:
        self.intray = intray
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"
        self._opened = opened

    def submit(self, type: str = "trial_echo", **wanted: Any) -> dict[str, Any]:
        answer = self.session.post(f"{self.intray.base_url}/api/v1/jobs", json={"type": type, **wanted}, timeout=20)
        job: dict[str, Any] = answer.json()
        return job

    def open(self, path: str = "/api/v1/events") -> requests.Response:
        answer = self.session.get(f"{self.intray.base_url}{path}", stream=True, timeout=30)
        self._opened.enter_context(answer)
        return answer

    def listen(self, path: str = "/api/v1/events") -> Iterator[Event]:
        answer = self.open(path)
        assert (answer.status_code, answer.headers["Connection"]) == (200, "close"), answer.text  # or the client would use it again
        return events(answer.iter_content(chunk_size=None))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intray]:
    with Intray(tmp_path_factory.mktemp("streams") / "home", SETTINGS) as one:
        yield one.start()


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def ada(running: Intray, opened: ExitStack) -> Client:
    return Client(running, running.token(), opened)


def test_many_more_streams_than_threads_are_open_and_requests_are_answered_beside(ada: Client) -> None:
    job = ada.submit(delay=LONGER_THAN_KEPT_ALIVE_S)
    of_job = [ada.listen(job["links"]["events"]) for _ in range(MANY - 1)]
    assert {next(one).data["event"] for one in of_job} == {"submitted"}
    of_user = ada.listen()
    next(of_user)
    done = ada.submit()
    assert next(event for event in of_user if event.data["job_id"] == done["id"] and event.data["event"] == "finished")
    assert [[event.data["event"] for event in one][-1] for one in of_job] == ["finished"] * len(of_job)


def test_beyond_the_cap_a_client_is_told_to_ask_and_room_is_made_by_who_leaves(running: Intray, ada: Client, opened: ExitStack) -> None:
    answers = [ada.open() for _ in range(MANY + 1)]
    until(lambda: answers[-1].status_code == 503 or not answers.append(ada.open()))
    refused = answers[-1]
    assert (refused.headers["Retry-After"], refused.json()["code"]) == ("30", "busy")
    other = Client(running, running.token(running.user("bob@example.org")), opened)
    assert next(other.listen()).name == "ready"
    for one in answers:
        one.close()
    until(lambda: ada.open().status_code == 200)


def test_a_head_request_holds_nothing(ada: Client) -> None:
    answer = ada.session.head(f"{ada.intray.base_url}/api/v1/events", timeout=20)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")


@pytest.mark.parametrize("mode", ["redis", "inline"])
def test_streams_tell_and_end_at_once_when_the_server_is_asked_to(new_intray: NewIntray, opened: ExitStack, mode: str) -> None:
    intray = new_intray(**SETTINGS, QUEUE_MODE=mode).start()
    ada = Client(intray, intray.token(), opened)
    job = ada.submit("trial_second_time")
    assert [one.data["event"] for one in ada.listen(job["links"]["events"])][-2:] == ["started", "finished"]
    stream = ada.listen()
    next(stream)
    assert intray.run
    intray.run.send_signal(signal.SIGTERM)
    assert list(stream) == []  # its end came in order
    assert intray.run.wait(20) == 0


def test_a_killed_redis_silences_no_stream(new_intray: NewIntray, opened: ExitStack) -> None:
    intray = new_intray(**SETTINGS).start()
    ada = Client(intray, intray.token(), opened)
    stream = ada.listen()
    next(stream)
    pid = next(pid for pid, line in intray.processes().items() if "valkey" in line.split()[0] or "redis-server" in line.split()[0])
    os.kill(pid, signal.SIGKILL)
    job = ada.submit()
    told = []
    while not told or told[-1] != "finished":
        event = next(stream)
        assert event.data["job_id"] == job["id"]
        told.append(event.data.get("event"))  # its progress has none
