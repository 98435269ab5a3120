"""`POST /api/v1/ai/test`: an admin asks whether the language model works; by HTTP, in a real process, against a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.callers import Caller
from tests.support.openai_server import OpenAIServer, Reply, answer, status

KEY = "sk-test-0123456789"
SUM = answer({"sum": 4})


@pytest.fixture
def model(intray_settings: Callable[..., None]) -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        intray_settings(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=server.url, OPENAI_TIMEOUT="5", LLM_PRICES='{"gpt-5-mini": [1, 2]}')
        server.will(SUM)
        yield server


def test_a_model_that_works_is_told_with_its_time_and_cost(model: OpenAIServer, admin: Caller) -> None:
    answered = admin.post("/api/v1/ai/test")
    assert answered.status_code == 200
    assert 0 < answered.json["duration_ms"] < 60_000
    assert {**answered.json, "duration_ms": 1} == {
        "object": "ai_test",
        "configured": True,
        "ok": True,
        "model": "gpt-5-mini",
        "message": "The model answered.",
        "duration_ms": 1,
        "input_tokens": 100,
        "output_tokens": 20,
        "usd": 0.00014,
    }
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (status(401, message=f"bad key {KEY}"), "An admin must fix OPENAI_API_KEY."),
        (status(429, {"Retry-After": "17"}), "asked us to wait. It asked us to wait 17 s."),
        (answer("four"), "is not JSON"),
    ],
    ids=["key", "busy", "prose"],
)
def test_one_that_does_not_is_told_with_the_reason_and_the_mend(model: OpenAIServer, admin: Caller, reply: Reply, why: str) -> None:
    model.will(reply)
    answered = admin.post("/api/v1/ai/test")
    assert (answered.status_code, answered.json["ok"]) == (200, False)
    assert why in answered.json["message"]
    assert KEY not in answered.text


def test_without_a_key_it_says_that_the_local_engine_works(admin: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    answered = admin.post("/api/v1/ai/test").json
    assert (answered["configured"], answered["ok"], answered["model"]) == (False, False, None)
    assert "OPENAI_API_KEY" in answered["message"]


def test_it_is_for_admins_and_not_too_often(model: OpenAIServer, alice: Caller, admin: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    assert alice.post("/api/v1/ai/test").status_code == 403
    assert model.requests == []
    monkeypatch.setattr("monolith.queue_admin.llm_api.RATE", "1 per minute")
    assert [admin.post("/api/v1/ai/test").status_code for _ in range(2)] == [200, 429]
    assert len(model.requests) == 1


def test_a_test_that_cannot_be_made_says_what_to_do(model: OpenAIServer, admin: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_PRICES", "broken after the start")
    answered = admin.post("/api/v1/ai/test")
    assert answered.status_code == 503 and "manage.py ai test" in answered.json["detail"]
