"""`analyze` with a language model: real processes against a real server that speaks OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.acceptance.processes import Intray, until
from tests.openai_server import OpenAIServer, Reply, answer, status

TEXT = "Marlin keeps a shared list of tasks in one file. It is fast to install. It does not support Windows."
GOOD = {"summary": "A list of tasks.", "strengths": ["fast"], "limitations": ["no Windows"], "use_cases": ["teams"], "maturity_score": 0.4}
Submit = Callable[[str], Callable[[], dict[str, Any]]]


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def submit(model: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submit]:
    """Submit a text for analysis; gives what reads the job."""
    settings = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_BASE_URL": model.url, "ANALYZE_BACKOFF": "0.2"}
    one = Intray(tmp_path_factory.mktemp("intray") / "home", settings)
    try:
        one.start()
        headers = {"Authorization": f"Bearer {one.token()}"}

        def call(text: str) -> Callable[[], dict[str, Any]]:
            body = {"text": text, "jobs": ["analyze"]}
            job = requests.post(f"{one.base_url}/api/v1/documents", json=body, headers=headers, timeout=20).json()["jobs"][0]
            return lambda: requests.get(f"{one.base_url}{job['links']['self']}", headers=headers, timeout=20).json()

        yield call
        assert "sk-test-0123456789" not in one.output()
    finally:
        one.end()


def over(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    until(lambda: read()["status"] in ("finished", "failed"), 30, lambda: str(read()))
    return read()


def test_the_result_is_the_models_and_its_cost_is_kept(submit: Submit, model: OpenAIServer) -> None:
    model.will(answer(GOOD))
    job = over(submit(TEXT))
    assert (job["status"], job["result"]["summary"], job["result"]["engine"]) == ("finished", "A list of tasks.", "openai:gpt-5-mini")
    assert (job["cost"]["input_tokens"], job["cost"]["output_tokens"]) == (100, 20)


@pytest.mark.parametrize("first", [status(500), answer("no json at all")], ids=["a 500", "nonsense"])
def test_a_model_that_fails_once_is_asked_again(submit: Submit, model: OpenAIServer, first: Reply) -> None:
    model.will(first, answer(GOOD))
    job = over(submit(f"{TEXT} {first.status} {len(first.body)}"))
    assert (job["status"], job["result"]["summary"]) == ("finished", "A list of tasks.")


def test_a_model_that_asks_for_a_pause_parks_the_job_and_spends_no_attempt(submit: Submit, model: OpenAIServer) -> None:
    model.will(status(429, {"Retry-After": "300"}))
    read = submit(f"{TEXT} Pause.")
    until(lambda: read()["status"] == "scheduled", 30)
    assert read()["attempt"] == 0
    assert read()["waiting_reason"].startswith("Parked until")


def test_a_key_that_is_refused_fails_the_job_with_what_the_admin_must_mend(submit: Submit, model: OpenAIServer) -> None:
    model.will(status(401))
    job = over(submit(f"{TEXT} Refused."))
    assert (job["status"], job["error"]["type"]) == ("failed", "permanent")
    assert "OPENAI_API_KEY" in job["error"]["message"]
