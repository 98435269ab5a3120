"""An LLM server that is not there: jobs wait for it together and spend no attempts; real jobs on each database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from monolith.db.engine import now, write_session
from monolith.db.models import Job
from monolith.runner.ledger import lifecycle
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.openai_server import OpenAIServer
from tests.support.processes import free_port


@pytest.mark.databases
def test_a_server_that_is_not_there_parks_all_jobs_until_one_has_found_it_again(
    intray_settings: Callable[..., None], alice: Caller
) -> None:
    intray_settings(OPENAI_API_KEY="sk-test-0123456789", OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1")
    jobs = [
        str(alice.post("/api/v1/documents", json={"text": f"Number {n}.", "jobs": ["analyze"]}).json["jobs"][0]["id"]) for n in range(4)
    ]

    def run(job_id: str) -> dict[str, Any]:
        execute.run(job_id)
        found: dict[str, Any] = alice.get(f"/api/v1/jobs/{job_id}").json
        return found

    found = [run(job_id) for job_id in jobs]
    assert [(job["status"], job["attempt"]) for job in found] == [("scheduled", 1)] * 2 + [("scheduled", 0)] * 2
    assert {job["error"]["type"] for job in found[:2]} == {"AIUnreachable"}
    assert [job["error"] for job in found[2:]] == [None, None]
    assert "The LLM server could not be reached." in alice.get(f"/jobs/{jobs[3]}").text
    with OpenAIServer() as server:
        intray_settings(OPENAI_BASE_URL=server.url)
        let_the_pause_be_over()
        execute.run(jobs[3])
        assert alice.get(f"/api/v1/jobs/{jobs[3]}").json["status"] == "finished"


def let_the_pause_be_over() -> None:
    with write_session() as session:
        session.execute(update(CircuitBreaker).values(open_until=now()))
        session.execute(update(Job).values(run_at=now()))
    assert lifecycle.queue_due(10)
