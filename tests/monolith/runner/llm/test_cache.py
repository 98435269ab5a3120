"""An LLM's answer serves all who ask the same: real jobs, many at once, against a real server, on each database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job, LlmAnswer
from monolith.runner.llm import cache
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import submit_text
from tests.support.openai_server import ANALYSIS, OpenAIServer, answer, hang

pytestmark = pytest.mark.databases

TEXT = "Marlin keeps a shared list of tasks in one file."


@pytest.fixture
def model(intray_settings: Callable[..., None]) -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        intray_settings(OPENAI_API_KEY="sk-test-0123456789", OPENAI_BASE_URL=server.url, OPENAI_TIMEOUT="20", WEB_THREADS="8")
        yield server


def analyse(caller: Caller, text: str = TEXT) -> dict[str, Any]:
    job_id = submit_text(caller, text, jobs=["analyze"])["jobs"][0]["id"]
    execute.run(job_id)
    found: dict[str, Any] = caller.get(f"/api/v1/jobs/{job_id}").json
    return found


def test_ten_jobs_on_one_text_at_the_same_time_pay_for_one_call(model: OpenAIServer, alice: Caller) -> None:
    model.will(hang(0.7))
    ids = [submit_text(alice, TEXT, jobs=["analyze"])["jobs"][0]["id"] for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(execute.run, ids))
    jobs = [alice.get(f"/api/v1/jobs/{one}").json for one in ids]
    assert [(job["status"], job["result"]["summary"]) for job in jobs] == [("finished", ANALYSIS["summary"])] * 10
    assert len(model.requests) == 1
    assert sorted(job["cost"]["input_tokens"] for job in jobs) == [0] * 9 + [100]


def test_an_answer_serves_another_user_too_and_costs_nothing(model: OpenAIServer, alice: Caller, bob: Caller) -> None:
    first, second = analyse(alice), analyse(bob)
    assert second["result"]["summary"] == first["result"]["summary"]
    assert (first["cost"]["input_tokens"], second["cost"]["input_tokens"], len(model.requests)) == (100, 0, 1)


def test_another_text_or_another_model_is_asked_anew(model: OpenAIServer, alice: Caller, intray_settings: Callable[..., None]) -> None:
    analyse(alice)
    analyse(alice, TEXT + " It is fast.")
    intray_settings(OPENAI_MODEL="gpt-5")
    analyse(alice)
    assert [request["model"] for request in model.requests] == ["gpt-5-mini", "gpt-5-mini", "gpt-5"]


def test_after_an_hour_the_model_is_asked_again(model: OpenAIServer, alice: Caller) -> None:
    analyse(alice)
    with read_session() as session:
        assert 3590 < session.scalar(select(LlmAnswer.expires_at - now())) <= 3600
    with write_session() as session:
        session.execute(update(LlmAnswer).values(expires_at=now()))
    analyse(alice)
    assert len(model.requests) == 2


def test_an_answer_that_does_not_fit_is_not_kept(model: OpenAIServer, alice: Caller) -> None:
    model.will(answer("nonsense"), answer("nonsense"), answer(ANALYSIS))
    assert analyse(alice)["error"]["type"] == "BadAnswer"
    assert analyse(alice)["status"] == "finished"
    assert len(model.requests) == 3


# ---- the store itself


@pytest.fixture
def made(intray_settings: Callable[..., None]) -> list[str]:
    """What was made; `make(made, "x")` adds to it."""
    return []


def make(made: list[str], name: str) -> Callable[[], dict[str, Any]]:
    def one() -> dict[str, Any]:
        made.append(name)
        return {"made by": name}

    return one


def test_who_waits_for_one_that_fails_makes_it_itself(made: list[str]) -> None:
    begun, fail = threading.Event(), threading.Event()

    def failing() -> dict[str, Any]:
        begun.set()
        fail.wait(20)
        raise RuntimeError("the site answered 503")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.cached, "k", 60, 20, failing)
        assert begun.wait(20)
        second = pool.submit(cache.cached, "k", 60, 20, make(made, "second"))
        fail.set()
        assert isinstance(first.exception(20), RuntimeError)
        assert second.result(20) == {"made by": "second"}


def test_the_claim_of_one_that_died_runs_out(made: list[str]) -> None:
    assert cache._claim("k", "dead", 1)
    assert cache.cached("k", 60, 20, make(made, "heir")) == {"made by": "heir"}
    assert cache.cached("k", 60, 20, make(made, "later")) == {"made by": "heir"}


def test_nobody_waits_longer_than_making_it_takes(made: list[str]) -> None:
    assert cache._claim("k", "slow", 60)
    assert cache.cached("k", 60, 0.5, make(made, "impatient")) == {"made by": "impatient"}
    with read_session() as session:
        assert session.execute(select(LlmAnswer.maker, LlmAnswer.answer)).one() == ("slow", None)


def test_the_oldest_answers_are_dropped_and_no_claim_is(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_KEPT", 3)
    with write_session() as session:
        rows = [{"key": f"k{n}", "maker": "m", "answer": {"n": n}, "created_at": n, "expires_at": now() + 60} for n in range(5)]
        for row in [*rows, {"key": "claimed", "maker": "m", "answer": None, "created_at": -1.0, "expires_at": now() + 60}]:
            session.execute(insert(LlmAnswer).values(**row))
    cache.cached("new", 60, 20, make(made, "new"))
    with read_session() as session:
        assert set(session.scalars(select(LlmAnswer.key))) == {"claimed", "k3", "k4", "new"}


def test_where_the_database_is_away_each_makes_its_own(made: list[str], intray_settings: Callable[..., None]) -> None:
    intray_settings(DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert cache.cached("k", 60, 20, make(made, "alone")) == {"made by": "alone"}


def test_a_job_that_is_stopped_while_it_asks_leaves_no_answer_and_no_claim(model: OpenAIServer, alice: Caller) -> None:
    model.will(hang(2))
    job_id = submit_text(alice, TEXT, jobs=["analyze"])["jobs"][0]["id"]
    runner = threading.Thread(target=execute.run, args=(job_id,))
    runner.start()
    while not model.requests:
        runner.join(0.02)
    assert alice.post(f"/api/v1/jobs/{job_id}/stop").json["status"] == "stopped"
    runner.join(20)
    with read_session() as session:
        assert session.scalar(select(Job.status).where(Job.id == job_id)) == "stopped"
        assert session.scalars(select(LlmAnswer.answer)).all() == []
