"""`GET /metrics`: who may read it, and what it says."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete

from monolith.database import writing
from monolith.models import Job
from monolith.runner import clock
from tests.conftest import Caller


def read(admin: Caller) -> dict[tuple[str, ...], float]:
    answer = admin.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    found = text_string_to_metric_families(answer.text)
    return {(sample.name, *sample.labels.values()): sample.value for family in found for sample in family.samples}


def test_it_says_where_the_jobs_are_and_that_all_is_well(admin, alice):
    clock.lead("tests")
    for _ in range(2):
        alice.post("/api/v1/jobs", json={"type": "trial_echo", "priority": "high"})
    said = read(admin)
    assert said["intray_jobs", "default", "queued", "trial_echo"] == 2
    assert said["intray_jobs_accepted_total",] == 2
    assert said["intray_jobs_pruned_total",] == 0
    assert said["intray_ledger_imbalance",] == 0
    assert 0 <= said["intray_oldest_waiting_seconds", "default"] < 60
    assert (said["intray_messages", "default.high"], said["intray_messages", "default.low"]) == (2, 0)
    assert (said["intray_redis_up",], said["intray_clock_up",]) == (1, 1)


def test_it_says_what_is_away_and_what_vanished(admin, alice, intray_settings):
    alice.post("/api/v1/jobs", json={"type": "trial_echo"})
    with writing() as session:
        session.execute(delete(Job))
    intray_settings(REDIS_URL="redis://127.0.0.1:1/0")
    said = read(admin)
    assert said["intray_ledger_imbalance",] == 1
    assert (said["intray_redis_up",], said["intray_clock_up",]) == (0, 0)
    assert [key for key in said if key[0] == "intray_messages"] == []


@pytest.mark.parametrize(("who", "status"), [("alice", 403), ("nobody", 303)])
def test_it_is_for_admins(request, app, who, status):
    caller = app.test_client() if who == "nobody" else request.getfixturevalue(who)
    assert caller.get("/metrics").status_code == status
