"""`analyze` with a language model: real processes against a real server that speaks OpenAI's protocol."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import requests

from tests.support.openai_server import OpenAIServer, Reply, answer, status
from tests.support.processes import VENV_ONLY, Intray, until

TEXT = "Marlin keeps a shared list of tasks in one file. It is fast to install. It does not support Windows."
GOOD = {"summary": "A list of tasks.", "strengths": ["fast"], "limitations": ["no Windows"], "use_cases": ["teams"], "maturity_score": 0.4}
Submit = Callable[..., Callable[[], dict[str, Any]]]


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def running(model: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Intray]:
    """Intray with a model, prices, and a budget of one dollar a day for each user."""
    settings = {
        "OPENAI_API_KEY": "sk-test-0123456789",
        "OPENAI_BASE_URL": model.url,
        "ANALYZE_BACKOFF": "0.2",
        "LLM_PRICES": '{"gpt-5-mini": [1, 5]}',
        "LLM_BUDGET_PER_USER_USD": "1",
        "PATH": f"{VENV_ONLY}:/usr/bin:/bin",
    }
    with Intray(tmp_path_factory.mktemp("intray") / "home", settings) as one:
        yield one.start()
        assert "sk-test-0123456789" not in one.output()


@pytest.fixture(scope="module")
def submit(running: Intray) -> Submit:
    """Submit a text for analysis; gives what reads the job."""
    one = running

    def call(text: str, token: str = one.token()) -> Callable[[], dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}"}
        body = {"text": text, "jobs": ["analyze"]}
        job = requests.post(f"{one.base_url}/api/v1/documents", json=body, headers=headers, timeout=20).json()["jobs"][0]
        return lambda: requests.get(f"{one.base_url}{job['links']['self']}", headers=headers, timeout=20).json()

    return call


def over(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    until(lambda: read()["status"] in ("finished", "failed"), 30, lambda: str(read()))
    return read()


def test_the_result_is_the_models_and_its_cost_is_kept(submit: Submit, model: OpenAIServer) -> None:
    model.will(answer(GOOD))
    job = over(submit(TEXT))
    assert (job["status"], job["result"]["summary"], job["result"]["engine"]) == ("finished", "A list of tasks.", "openai:gpt-5-mini")
    assert job["cost"] == {"input_tokens": 100, "output_tokens": 20, "usd": 0.0002}


@pytest.mark.parametrize("first", [status(500), answer("no json at all")], ids=["a 500", "nonsense"])
def test_a_model_that_fails_once_is_asked_again(submit: Submit, model: OpenAIServer, first: Reply) -> None:
    model.will(first, answer(GOOD))
    job = over(submit(f"{TEXT} {first.status} {len(first.body)}"))
    assert (job["status"], job["result"]["summary"]) == ("finished", "A list of tasks.")


def test_a_key_that_is_refused_fails_the_job_with_what_the_admin_must_mend(submit: Submit, model: OpenAIServer) -> None:
    model.will(status(401))
    job = over(submit(f"{TEXT} Refused."))
    assert (job["status"], job["error"]["type"]) == ("failed", "permanent")
    assert "OPENAI_API_KEY" in job["error"]["message"]


def test_more_calls_than_there_are_children_are_under_way_at_once(submit: Submit, model: OpenAIServer) -> None:
    """They wait in threads: a worker has five children."""
    all_ask = threading.Barrier(12)
    model.will(lambda request: answer(GOOD) if all_ask.wait(30) >= 0 else status(500))
    jobs = [submit(f"{TEXT} Number {number}.") for number in range(12)]
    assert {over(job)["status"] for job in jobs} == {"finished"}


def test_over_their_budget_a_users_jobs_wait_for_midnight_and_say_so(submit: Submit, model: OpenAIServer, running: Intray) -> None:
    token = running.token(running.user("spender@example.org"))
    model.will(answer(GOOD, usage={"prompt_tokens": 900_000, "completion_tokens": 20_001, "total_tokens": 0}), answer(GOOD))
    assert over(submit(f"{TEXT} Dear.", token))["cost"]["usd"] == 1.000005
    read = submit(f"{TEXT} Too dear.", token)
    until(lambda: read()["status"] == "scheduled", 30)
    assert read()["attempt"] == 0
    assert read()["waiting_reason"].endswith("Your daily language model budget of 1 USD is used up until midnight UTC.")
    assert over(submit(f"{TEXT} Somebody else's."))["status"] == "finished"


def test_a_model_that_asks_for_a_pause_is_left_alone_by_all_workers_and_then_asked_by_one_job_first(
    submit: Submit, model: OpenAIServer, running: Intray
) -> None:
    running.spawn("worker")
    model.will(status(429, {"Retry-After": "300"}))
    asked = len(model.requests)
    jobs = [submit(f"{TEXT} Pause.")]
    until(lambda: jobs[0]()["status"] == "scheduled", 30)
    jobs += [submit(f"{TEXT} Pause {number}.") for number in range(19)]
    redis.Redis(unix_socket_path=str(running.home / "redis.sock")).flushall()
    until(lambda: all(job()["status"] == "scheduled" for job in jobs), 30)
    assert len(model.requests) == asked + 1
    assert {job()["attempt"] for job in jobs} == {0}
    assert re.fullmatch(r"Snoozed until [\d:]+ UTC: The LLM server is busy and asked us to wait.", jobs[-1]()["waiting_reason"])

    probed, told = threading.Event(), set()
    model.will(lambda request: answer(GOOD) if probed.wait(60) else status(500))
    let_the_pause_be_over(running)
    until(
        lambda: (
            told.update(number for number, job in enumerate(jobs) if "Another job is testing" in str(job()["waiting_reason"]))
            or len(told) >= 19
        ),
        30,
    )
    assert len(model.requests) == asked + 2
    probed.set()
    found = [over(job) for job in jobs]
    assert {(job["status"], job["attempt"]) for job in found} == {("finished", 1)}
    assert len(model.requests) == asked + 21


def let_the_pause_be_over(running: Intray) -> None:
    with sqlite3.connect(running.home / "intray.sqlite3", timeout=20) as database:
        database.execute("UPDATE breakers SET open_until = 0")
        database.execute("UPDATE jobs SET run_at = 0 WHERE status = 'scheduled' AND snooze_reason LIKE 'The LLM server%'")
    database.close()


def test_doctor_tells_whether_the_model_answers(model: OpenAIServer, running: Intray) -> None:
    model.will(answer({"sum": 4}))
    tried = running.manage("ai", "test")
    assert (tried.returncode, tried.stdout.partition(" (")[0]) == (0, "The model answered.")
    model.will(status(401))
    examined = running.manage("doctor")
    assert examined.returncode == 1
    assert re.search(r"^PROBLEM +llm +The LLM server rejected the API key. An admin must fix", examined.stdout, re.MULTILINE)
