"""Fifty requests at the same moment, and a token revoked in between, against two real web processes of many threads, on each database.

Redis is not needed.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import pytest
import requests

from tests.support.databases import new_database
from tests.support.processes import Intray

AT_ONCE = 50
LIMIT = 10
PROCESSES, THREADS = 2, 6
MOVING = ("waiting_reason",)  # what may differ between two looks at one job
ECHO = {"type": "trial_echo", "params": {"value": "hello"}}


@dataclass
class Web:
    """A running web, and somebody who calls it and has submitted nothing yet."""

    intray: Intray
    token: str

    def at_once(self, path: str, options: Callable[[int], dict[str, Any]]) -> list[requests.Response]:
        """Post fifty times at the same moment; `options` of each by its number."""
        together = threading.Barrier(AT_ONCE)

        def post(number: int) -> requests.Response:
            given = options(number)
            together.wait()
            return self.post(path, **given)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(post, range(AT_ONCE)))

    def post(self, path: str, headers: dict[str, str] | None = None, **options: Any) -> requests.Response:
        given = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        return requests.post(f"{self.intray.base_url}{path}", headers=given, timeout=60, **options)

    def ids(self, what: str) -> list[str]:
        answer = requests.get(
            f"{self.intray.base_url}/api/v1/{what}?limit=100", headers={"Authorization": f"Bearer {self.token}"}, timeout=20
        )
        return [one["id"] for one in answer.json()["data"]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intray]:
    settings = {"JOB_PACKAGES": "jobs,tests.trial_jobs", "REDIS_URL": "redis://127.0.0.1:1/0", "MAX_QUEUED_PER_USER": str(LIMIT)}
    settings |= {"WEB_CONCURRENCY": str(PROCESSES), "WEB_THREADS": str(THREADS)}
    if request.param == "postgresql":
        settings["DATABASE_URL"] = new_database(request.getfixturevalue("postgresql_server"))
    with Intray(tmp_path_factory.mktemp("web") / "home", settings) as one:
        yield one.start_web()


@pytest.fixture
def web(running: Intray) -> Web:
    return Web(running, running.token(running.user(f"{uuid.uuid4().hex}@example.org")))


def same(answers: list[requests.Response]) -> list[dict[str, Any]]:
    """The different bodies, but for what moves."""
    bodies: list[dict[str, Any]] = []
    for answer in answers:
        body = without_moving(answer.json())
        if body not in bodies:
            bodies.append(body)
    return bodies


def without_moving(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_moving(one) for name, one in value.items() if name not in MOVING}
    return [without_moving(one) for one in value] if isinstance(value, list) else value


def test_fifty_alike_with_one_key_make_one_job_and_get_equal_answers_in_the_last_place_there_is(web: Web) -> None:
    for number in range(LIMIT - 1):
        assert web.post("/api/v1/jobs", json={**ECHO, "params": {"value": number}}).status_code == 202
    answers = web.at_once("/api/v1/jobs", lambda number: {"json": ECHO, "headers": {"Idempotency-Key": "one"}})
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 49}
    assert Counter(answer.headers.get("Idempotency-Replayed") for answer in answers) == {None: 1, "true": 49}
    assert len(same(answers)) == 1
    assert web.ids("jobs")[0] == answers[0].json()["id"]
    assert len(web.ids("jobs")) == LIMIT


def test_fifty_alike_forms_with_one_key_make_one_document(web: Web) -> None:
    content = b"Fifty times the same. " * 30_000  # more than is held in memory

    def form(number: int) -> dict[str, Any]:
        return {"files": {"file": ("a.txt", content)}, "data": {"jobs": "analyze"}, "headers": {"Idempotency-Key": "form"}}

    answers = web.at_once("/api/v1/documents", form)
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 49}
    assert len(same(answers)) == 1
    assert (len(web.ids("documents")), len(web.ids("jobs"))) == (1, 1)


def test_fifty_unique_ones_make_one_job(web: Web) -> None:
    answers = web.at_once("/api/v1/jobs", lambda number: {"json": {**ECHO, "unique": True}})
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 49}
    assert Counter(answer.headers.get("Intray-Deduplicated") for answer in answers) == {None: 1, "true": 49}
    assert len(same(answers)) == 1
    assert len(web.ids("jobs")) == 1


def test_fifty_different_ones_exceed_the_limit_by_a_process_at_most(web: Web) -> None:
    answers = web.at_once("/api/v1/jobs", lambda number: {"json": {**ECHO, "params": {"value": number}}})
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {202, 429}
    assert LIMIT <= statuses[202] <= PROCESSES * LIMIT
    assert sorted(web.ids("jobs")) == sorted(answer.json()["id"] for answer in answers if answer.ok)
    assert all(5 <= int(answer.headers["Retry-After"]) <= 300 for answer in answers if not answer.ok)


def test_a_token_revoked_between_two_submissions_of_one_connection_is_refused_at_once(web: Web) -> None:
    made = web.post("/api/v1/tokens", json={"name": "laptop"}).json()
    headers = {"Authorization": f"Bearer {made['token']}", "Content-Type": "application/json"}
    with closing(HTTPConnection("127.0.0.1", web.intray.port, timeout=20)) as connection:

        def submit() -> int:
            connection.request("POST", "/api/v1/jobs", json.dumps(ECHO), headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status

        assert [submit(), submit()] == [202, 202]
        first = connection.sock
        own = {"Authorization": f"Bearer {web.token}"}
        revoked = requests.delete(f"{web.intray.base_url}/api/v1/tokens/{made['id']}", headers=own, timeout=20)
        assert (revoked.status_code, submit(), connection.sock is first) == (204, 401, True)
    assert len(web.ids("jobs")) == 2
