"""Fifty requests at the same moment, against two real web processes of many threads, on each database. Redis is not needed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.support.processes import Intray, NewIntray, accepts

AT_ONCE = 50
LIMIT = 10
PROCESSES, THREADS = 2, 6
MOVING = ("waiting_reason",)  # what may differ between two looks at one job
ECHO = {"type": "trial_echo", "params": {"value": "hello"}}


@dataclass
class Web:
    """A running web, and somebody who calls it."""

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


@pytest.fixture(params=["sqlite", "postgresql"])
def web(request: pytest.FixtureRequest, new_intray: NewIntray) -> Web:
    url = {"DATABASE_URL": request.getfixturevalue("postgresql_url")} if request.param == "postgresql" else {}
    one = new_intray(
        JOB_PACKAGES="jobs,tests.trial_jobs",
        WEB_CONCURRENCY=str(PROCESSES),
        WEB_THREADS=str(THREADS),
        MAX_QUEUED_PER_USER=str(LIMIT),
        REDIS_URL="redis://127.0.0.1:1/0",
        **url,
    )
    one.checked("db", "upgrade")
    one.user("a@example.org")
    token = one.token("a@example.org")
    one.spawn("web")
    one.wait_until(lambda: accepts(one.port))
    return Web(one, token)


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
