"""`on_failure` of a job type that misbehaves: the job fails all the same, says so, and nobody waits for it; on each database."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from monolith.db.engine import now, write_session
from monolith.db.models import Job
from monolith.runner.ledger import lifecycle, on_failure
from monolith.runner.prefork.hooks import LATER
from monolith.runner.scheduler import recovery
from monolith.runner.worker import execute
from monolith.runner.worker.ledger_worker import LedgerHooks
from tests.support.callers import Caller
from tests.support.jobs import stored, submit_text
from tests.support.processes import until

pytestmark = pytest.mark.databases


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_failure, "LIMIT_S", 0.5)
    monkeypatch.setattr(on_failure, "KILLED_AFTER_S", 1.0)


def submit(caller: Caller, value: str) -> str:
    body = {"type": "trial_unruly", "params": {"value": value}}
    return str(submit_text(caller, "Boats.", jobs=[body])["jobs"][0]["id"])


def ended(caller: Caller, job_id: str) -> tuple[str, str | None, list[str]]:
    """Status, route of the document, and what the event says of `on_failure`."""
    row = stored(job_id)
    route = caller.get(f"/api/v1/documents/{row.document_id}").json["route"]
    return row.status, route, [event.note for event in row.events if event.name == "on_failure_failed"]


@pytest.mark.parametrize(
    ("value", "route", "problem"),
    [
        ("exit", "ONSITE", "SystemExit: 3"),
        ("long", "ONSITE", "It took longer than 0.5 s."),
        ("unreadable", "ONSITE", "Unreadable: This error has no readable message."),
        ("unsaved", None, "What it asked for cannot be saved: Out of range float values are not JSON compliant"),
    ],
)
def test_a_job_fails_whatever_its_on_failure_does(alice: Caller, limited: None, value: str, route: str | None, problem: str) -> None:
    job_id = submit(alice, value)
    execute.run(job_id)
    assert ended(alice, job_id) == ("failed", route, [problem])


@pytest.mark.parametrize(("value", "problem"), [("loop", "it took too long"), ("die", "its process ended: it left with code 7")])
def test_an_on_failure_that_nothing_but_a_kill_ends_delays_neither_clock_nor_hooks(
    alice: Caller, limited: None, value: str, problem: str
) -> None:
    poison, neighbour = submit(alice, value), submit(alice, "exit")
    for number in (1, 2):
        lifecycle.claim(poison, "w")
        lifecycle.interrupt(poison, number, "killed")
    for job_id in (poison, neighbour):
        lifecycle.claim(job_id, "w")
    if value == "loop":
        with write_session() as session:
            session.execute(update(Job).values(heartbeat_at=now() - 31, run_at=now()))
        list(recovery.interrupt_lost())
        assert [stored(job_id).status for job_id in (poison, neighbour)] == ["started", "queued"]
        until(lambda: list(recovery.interrupt_lost()) == [], 20)
    else:
        hooks, lost = LedgerHooks("w"), [(poison, 3, "killed"), (neighbour, 1, "killed")]
        until(lambda: hooks.lost(lost)[0] != LATER, 20)
        assert stored(neighbour).status == "queued"
    status, route, problems = ended(alice, poison)
    assert (status, route, stored(poison).error_type) == ("failed", None, "poison")
    assert problems == [f"It ended without an outcome: {problem}."]
