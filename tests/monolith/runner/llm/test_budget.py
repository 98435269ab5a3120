"""What the LLM costs: tokens and money of each job, daily budgets, prices; real jobs against a real server, on each database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs

from jobs.tools.llm import client
from monolith.config import settings
from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job
from monolith.db.rates import RateUse
from monolith.errors import BadSetting
from monolith.runner.llm.budget import DAY_S, Cost, Spending, record
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import run_due, stored, submit_text
from tests.support.openai_server import ANALYSIS, OpenAIServer, Reply, answer, hang

pytestmark = pytest.mark.databases

TEXT = "Marlin keeps a shared list of tasks in one file. It is fast. It does not support Windows."
PRICES = '{"gpt-5-mini": [0.25, 2, 0.025], "other": ["1", "2"]}'
NO_BUDGET = {"LLM_BUDGET_USD": "0", "LLM_BUDGET_PER_USER_USD": "0", "LLM_OVER_BUDGET": "park"}
Settings = Callable[..., None]


@pytest.fixture
def model(intray_settings: Settings) -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        intray_settings(OPENAI_API_KEY="sk-test-0123456789", OPENAI_BASE_URL=server.url, LLM_PRICES=PRICES, **NO_BUDGET)
        client._warn_once.cache_clear()
        yield server


def read(caller: Caller, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = caller.get(f"/api/v1/jobs/{job_id}").json
    return found


def analyse(caller: Caller, text: str = TEXT) -> dict[str, Any]:
    job_id = submit_text(caller, text, jobs=["analyze"])["jobs"][0]["id"]
    execute.run(job_id)
    return read(caller, job_id)


def usage(read: Any, written: Any, cached: Any = 0) -> Reply:
    return answer(
        ANALYSIS,
        usage={"prompt_tokens": read, "completion_tokens": written, "total_tokens": 0, "prompt_tokens_details": {"cached_tokens": cached}},
    )


# ---- rates


def test_over_the_rate_of_requests_jobs_are_snoozed_without_an_attempt_and_say_why(
    model: OpenAIServer, intray_settings: Settings, alice: Caller
) -> None:
    intray_settings(OPENAI_RATE="60/h")
    jobs = [analyse(alice, f"{TEXT} Number {number}.") for number in range(3)]
    assert [job["status"] for job in jobs] == ["finished", "finished", "scheduled"]
    assert jobs[2]["attempt"] == 0
    assert stored(jobs[2]["id"]).snooze_reason == "The requests to the language model are limited to 60 an hour."
    with write_session() as session:
        session.execute(update(RateUse).values(next_at=RateUse.next_at - 120))
    assert run_due(jobs[2]["id"]).status == "finished"
    assert len(model.requests) == 3


def test_tokens_are_charged_as_estimated_and_then_as_used(model: OpenAIServer, intray_settings: Settings, alice: Caller) -> None:
    intray_settings(OPENAI_TOKENS="1000000/h")
    model.will(usage(900_000, 0))
    assert analyse(alice)["status"] == "finished"
    assert analyse(alice, f"{TEXT} More.")["status"] == "scheduled"
    with read_session() as session:
        left_s = session.scalar(select(RateUse.next_at - now()).where(RateUse.key == "tokens of the language model"))
    assert 3000 < left_s <= 3240


def test_a_rate_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_RATE", "many")
    settings.cache_clear()
    with pytest.raises(BadSetting, match="OPENAI_RATE is 'many'. It is not a rate. Write a rate as 60/m, 10/s or 1000/h"):
        settings()


# ---- cost


def test_a_job_costs_what_its_calls_took_by_the_prices(model: OpenAIServer, alice: Caller) -> None:
    model.will(answer("no json"), usage(1_000_001, 3))
    job = analyse(alice)
    assert job["cost"] == {"input_tokens": 1_000_101, "output_tokens": 23, "usd": 0.250071250}
    assert "Engine</dt><dd>gpt-5-mini</dd>" in alice.get(f"/jobs/{job['id']}").text
    assert "1,000,101 input, 23 output" in alice.get(f"/jobs/{job['id']}").text
    assert "0.2501 USD" in alice.get(f"/jobs/{job['id']}").text
    assert "No price" not in job["result"]["basis"]


def test_what_the_server_had_kept_is_cheaper(model: OpenAIServer, alice: Caller) -> None:
    model.will(usage(1_000_000, 0, cached=400_000))
    assert analyse(alice)["cost"]["usd"] == 0.16


def test_a_model_without_a_price_costs_nothing_and_says_so(model: OpenAIServer, alice: Caller, intray_settings: Settings) -> None:
    intray_settings(OPENAI_MODEL="unheard-of")
    with capture_logs() as logs:
        job, _ = analyse(alice), analyse(alice, "Another.")
    assert job["cost"] == {"input_tokens": 100, "output_tokens": 20, "usd": 0}
    assert "No price is set for unheard-of (LLM_PRICES)" in job["result"]["basis"]
    assert [line["log_level"] for line in logs if line["event"] == "price_unknown"] == ["warning"]


@pytest.mark.parametrize("wrong", [(-5, 10**30), ("many", None), (True, 1.5), ({}, [])])
def test_what_the_server_says_of_tokens_is_not_taken_on_trust(model: OpenAIServer, alice: Caller, wrong: tuple[Any, Any]) -> None:
    model.will(usage(*wrong, cached=10**9))
    job = analyse(alice)
    assert (job["status"], job["cost"]) == ("finished", {"input_tokens": 0, "output_tokens": 0, "usd": 0})


def test_an_answer_without_usage_counts_as_nothing(model: OpenAIServer, alice: Caller) -> None:
    model.will(answer(ANALYSIS, usage=None))
    assert analyse(alice)["cost"]["input_tokens"] == 0


def test_what_a_stopped_job_had_spent_is_paid_all_the_same(model: OpenAIServer, alice: Caller, intray_settings: Settings) -> None:
    intray_settings(LLM_BUDGET_PER_USER_USD="0.000065")
    over = threading.Event()
    model.will(lambda request: answer(ANALYSIS) if over.wait(20) else hang(0))
    job_id = submit_text(alice, TEXT, jobs=["analyze"])["jobs"][0]["id"]
    runner = threading.Thread(target=execute.run, args=(job_id,))
    runner.start()
    while not model.requests:
        runner.join(0.02)
    alice.post(f"/api/v1/jobs/{job_id}/stop")
    over.set()
    runner.join(20)
    assert (read(alice, job_id)["status"], read(alice, job_id)["cost"]["usd"]) == ("stopped", 0.000065)
    assert analyse(alice, "Another.")["status"] == "scheduled"


# ---- budgets


def test_over_their_budget_a_users_jobs_are_parked_until_midnight_and_spend_no_attempt(
    model: OpenAIServer, alice: Caller, bob: Caller, intray_settings: Settings
) -> None:
    intray_settings(LLM_BUDGET_PER_USER_USD="0.000065")
    assert analyse(alice)["status"] == "finished"
    job = analyse(alice, "Another.")
    assert (job["status"], job["attempt"], job["cost"]["usd"]) == ("scheduled", 0, 0)
    why = "Your daily language model budget of 0.000065 USD is used up until midnight UTC."
    with read_session() as session:
        row = session.get_one(Job, job["id"])
    assert row.snooze_reason == why
    assert row.run_at is not None and (row.run_at + 60) % DAY_S < 120
    assert why in alice.get(f"/jobs/{job['id']}").text
    assert analyse(bob, "A third.")["status"] == "finished"
    assert len(model.requests) == 2


def test_what_others_asked_before_is_answered_without_a_budget(
    model: OpenAIServer, alice: Caller, bob: Caller, intray_settings: Settings
) -> None:
    intray_settings(LLM_BUDGET_USD="0.000065")
    analyse(alice)
    assert analyse(bob)["status"] == "finished"
    assert analyse(bob, "Another.")["status"] == "scheduled"


def test_over_everybodys_budget_the_local_engine_works_on_and_says_why(
    model: OpenAIServer, alice: Caller, bob: Caller, intray_settings: Settings
) -> None:
    intray_settings(LLM_BUDGET_USD="0.00006", LLM_OVER_BUDGET="local")
    assert analyse(alice)["result"]["engine"] == "openai:gpt-5-mini"
    job = analyse(bob, TEXT + " Another.")
    assert (job["status"], job["result"]["engine"], job["attempt"]) == ("finished", "local", 1)
    assert job["result"]["basis"].startswith("The total daily language model budget of 0.00006 USD is used up until midnight UTC.")
    assert "It does not support Windows." in job["result"]["limitations"]
    assert len(model.requests) == 1


def test_at_midnight_there_is_a_budget_again(model: OpenAIServer, alice: Caller, intray_settings: Settings) -> None:
    intray_settings(LLM_BUDGET_PER_USER_USD="0.00001")
    analyse(alice)
    with write_session() as session:
        session.execute(update(Spending).values(day=Spending.day - 1))
    assert analyse(alice, "Another.")["status"] == "finished"


def test_who_deletes_their_documents_gets_nothing_back(model: OpenAIServer, alice: Caller, intray_settings: Settings) -> None:
    intray_settings(LLM_BUDGET_PER_USER_USD="0.00001")
    document = analyse(alice)["document_id"]
    assert alice.delete(f"/api/v1/documents/{document}").status_code == 204
    assert analyse(alice, "Another.")["status"] == "scheduled"


def test_many_at_once_lose_no_cent_and_overrun_the_budget_by_no_more_than_was_under_way(
    model: OpenAIServer, alice: Caller, intray_settings: Settings
) -> None:
    intray_settings(LLM_BUDGET_PER_USER_USD="0.00001")
    everybody_asks = threading.Barrier(6)
    model.will(lambda request: answer(ANALYSIS) if everybody_asks.wait(20) >= 0 else hang(0))
    ids = [submit_text(alice, f"{TEXT} {number}", jobs=["analyze"])["jobs"][0]["id"] for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(execute.run, ids))
    assert [read(alice, one)["status"] for one in ids] == ["finished"] * 6
    with read_session() as session:
        found = session.query(Spending).one()
    assert (found.input_tokens, found.output_tokens, found.nano_usd) == (600, 120, 6 * 65_000)
    assert analyse(alice, "Another.")["status"] == "scheduled"


def test_a_billionth_of_a_dollar_is_the_smallest_that_is_kept(intray_settings: Settings) -> None:
    for usd in ("0.000000001", "0.0000000014", "1000000"):
        with write_session() as session:
            record(session, 1, Cost(1, 1, Decimal(usd)))
    with read_session() as session:
        assert session.query(Spending).one().nano_usd == 1_000_000_000_000_002


# ---- settings


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("LLM_PRICES", "0.25", "Not a valid mapping type"),
        ("LLM_PRICES", "{", "not valid JSON"),
        ("LLM_PRICES", '{"m": 1}', "Not a valid list"),
        ("LLM_PRICES", '{"m": [1]}', "Length must be between 2 and 3"),
        ("LLM_PRICES", '{"m": [1, -2]}', "Must be greater than or equal to 0"),
        ("LLM_PRICES", '{"m": [1, NaN]}', "Special numeric values"),
        ("LLM_PRICES", '{"m": [true, 1]}', "Not a valid number"),
        ("LLM_BUDGET_USD", "much", "LLM_BUDGET_USD"),
        ("LLM_BUDGET_PER_USER_USD", "-1", "LLM_BUDGET_PER_USER_USD"),
        ("LLM_OVER_BUDGET", "drop", "park, local"),
    ],
)
def test_a_setting_that_cannot_be_used_says_why(monkeypatch: pytest.MonkeyPatch, name: str, text: str, why: str) -> None:
    monkeypatch.setenv(name, text)
    settings.cache_clear()
    with pytest.raises(BadSetting, match=why):
        settings()
    settings.cache_clear()


def test_now_is_the_databases(intray_settings: Settings) -> None:
    with write_session() as session:
        record(session, 1, Cost(1, 1, Decimal(1)))
        assert session.scalar(now().select()) // DAY_S == session.query(Spending).one().day
