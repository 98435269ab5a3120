"""`GET /metrics`: who may read it, and what it says."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, func, insert, select, update

from monolith.config import settings
from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job
from monolith.errors import BadSetting
from monolith.runner.admin import trash
from monolith.runner.admin.trash import Cleaning
from monolith.runner.ledger import balance, clock_lease, counts
from monolith.runner.llm import budget
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from monolith.runner.scheduler import retention
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tools import grafana


def read(admin: Caller) -> dict[tuple[str, ...], float]:
    answer = admin.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    found = text_string_to_metric_families(answer.text)
    return {(sample.name, *sample.labels.values()): sample.value for family in found for sample in family.samples}


@pytest.mark.databases
def test_it_says_where_the_jobs_are_and_that_all_is_well(admin, alice):
    clock_lease.lead("tests")
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


@pytest.mark.databases
def test_it_says_what_is_away_and_what_vanished(admin, alice, intray_settings):
    alice.post("/api/v1/jobs", json={"type": "trial_echo"})
    with write_session() as session:
        session.execute(delete(Job))
    intray_settings(REDIS_URL="redis://127.0.0.1:1/0")
    said = read(admin)
    assert said["intray_ledger_imbalance",] == 1
    assert (said["intray_redis_up",], said["intray_clock_up",]) == (0, 0)
    assert [key for key in said if key[0] == "intray_messages"] == []


@pytest.mark.parametrize(("who", "status"), [("alice", 403), ("nobody", 401)])
def test_it_is_for_admins(request, app, who, status):
    caller = app.test_client() if who == "nobody" else request.getfixturevalue(who)
    answer = caller.get("/metrics", headers={"Accept": "text/html, */*"})
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


def test_viewers_may_read_it_and_whoever_has_the_token_of_the_settings(app, caller, intray_settings):
    assert caller("v@example.org", is_viewer=True).get("/metrics").status_code == 200
    intray_settings(METRICS_TOKEN="a-token-of-some-length")
    for token, status in (("a-token-of-some-length", 200), ("another-token-of-some-length", 401), ("", 401), ("ü" * 16, 401)):
        answer = app.test_client().get("/metrics", headers={"Authorization": f"Bearer {token}".encode().decode("latin-1")})
        assert answer.status_code == status
    assert app.test_client().get("/api/v1/jobs", headers={"Authorization": "Bearer a-token-of-some-length"}).status_code == 401


def test_a_token_that_can_be_guessed_is_refused(intray_settings):
    intray_settings(METRICS_TOKEN="short")
    with pytest.raises(BadSetting, match="METRICS_TOKEN cannot be used. It is too short"):
        settings()


@pytest.mark.databases
def test_it_says_how_long_jobs_ran_and_waited_and_how_many_ended(admin, alice):
    for name in ("trial_echo", "trial_echo", "trial_permanent"):
        execute.run(alice.post("/api/v1/jobs", json={"type": name}).json["id"])
    with write_session() as session:
        ended = session.scalar(select(now())) // 60 * 60 - 1  # in the last whole minute
        session.execute(update(Job).values(ended_at=ended, started_at=ended - 2, queued_at=ended - 5))
    for _ in counts.sample():
        pass
    said = read(admin)
    assert said["intray_run_seconds", "50", "default", "trial_echo"] == pytest.approx(2, abs=0.01)
    assert said["intray_wait_seconds", "95", "default", "trial_echo"] == pytest.approx(3, abs=0.01)
    assert said["intray_finished_last_minute", "default", "trial_echo"] == 2
    assert said["intray_failed_last_minute", "default", "trial_permanent"] == 1


@pytest.mark.databases
def test_jobs_that_ended_are_counted_for_ever(admin, alice):
    """Neither requeueing, nor the trash, nor retention, nor the folding of tallies takes one back."""

    def ended() -> tuple[float, float, float]:
        said = read(admin)
        return said["intray_jobs_finished_total",], said["intray_jobs_failed_total",], said["intray_ledger_imbalance",]

    failed = [alice.post("/api/v1/jobs", json={"type": "trial_permanent"}).json["id"] for _ in range(2)]
    finished = alice.post("/api/v1/jobs", json={"type": "trial_echo"}).json["id"]
    for job_id in (*failed, finished):
        execute.run(job_id)
    assert ended() == (1, 2, 0)
    alice.post(f"/api/v1/jobs/{failed[0]}/requeue")
    assert ended() == (1, 2, 0)
    execute.run(failed[0])
    assert ended() == (1, 3, 0)
    for status in ("finished", "failed"):
        assert admin.post("/api/v1/queues/clean", json={"status": status, "older_than": 0}).json["deleted"] > 0
    assert ended() == (1, 3, 0)
    with write_session() as session:
        session.execute(update(Job).where(Job.status == "finished").values(trash_id=None, ended_at=0.0))
        session.execute(update(Cleaning).values(at=0.0))
    for steps in (retention.prune(), trash.empty_trash(), balance.fold(), balance.fold()):
        for _ in steps:
            pass
    with read_session() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
    assert ended() == (1, 3, 0)


def test_promtool_would_find_nothing_wrong(admin, alice):
    """The rules of `promtool check metrics`, on every metric there is."""
    for name in ("trial_echo", "trial_permanent"):
        execute.run(alice.post("/api/v1/jobs", json={"type": name}).json["id"])
    with write_session() as session:
        ended = session.scalar(select(now())) // 60 * 60 - 1
        session.execute(update(Job).values(ended_at=ended, started_at=ended - 2, queued_at=ended - 5))
        session.execute(insert(CircuitBreaker).values(name="openai", failures=3, open_until=now() + 60, reason="429"))
    for _ in counts.sample():
        pass
    admin.put("/api/v1/pauses/type:analyze", json={"reason": "Not now."})
    alice.post("/api/v1/jobs", json={"type": "trial_echo"})
    families = list(text_string_to_metric_families(admin.get("/metrics").text))
    assert all(family.samples for family in families), "a metric that this test does not see"
    for family in families:
        assert family.documentation and family.type in ("counter", "gauge"), family
        assert re.fullmatch("[a-z][a-z_]*[a-z]", family.name) and not re.search("_(total|count|sum|bucket)$", family.name)
        assert not set(family.name.split("_")) & {"counter", "gauge", "histogram", "summary"}
        assert not set(family.name.split("_")) & {
            "minutes",
            "hours",
            "days",
            "weeks",
            "milliseconds",
            "ms",
            "kilobytes",
            "megabytes",
            "percent",
        }
        for sample in family.samples:
            assert sample.name == (f"{family.name}_total" if family.type == "counter" else family.name)
            assert not set(sample.labels) & {"quantile", "le", "job", "instance"}


def test_it_says_what_is_wrong_what_is_held_back_and_what_the_language_model_costs(admin, alice):
    admin.put("/api/v1/pauses/type:analyze", json={"reason": "Not now."})
    with write_session() as session:
        session.execute(insert(CircuitBreaker).values(name="openai", failures=3, open_until=now() + 60, reason="429"))
        budget.record(session, alice.user.id, budget.Cost(10, 5, Decimal("0.25")))
    said = read(admin)
    assert said["intray_alerts_open", "clock_missing", "critical"] == 1
    assert said["intray_alerts_open", "no_worker", "critical"] == 0
    assert said["intray_paused", "type:analyze"] == 1
    assert said["intray_breaker_open", "openai"] == 1
    assert (said["intray_llm_spent_today_usd",], said["intray_llm_tokens_today", "read"]) == (0.25, 10)
    assert (said["intray_webhook_deliveries", "waiting"], said["intray_workers", "busy"]) == (0, 0)


def test_the_dashboard_for_grafana_asks_for_what_is_told_only_and_is_as_its_maker_makes_it(admin):
    made = json.loads(grafana.FILE.read_text())
    assert made == json.loads(json.dumps(grafana.dashboard())), "run: .venv/bin/python -m tools.grafana"
    told = {line.split()[2] for line in admin.get("/metrics").text.splitlines() if line.startswith("# TYPE")}
    asked = {name for panel in made["panels"] for target in panel["targets"] for name in re.findall(r"intray_\w+", target["expr"])}
    assert len(asked) > 15 and asked <= told, asked - told
    assert told - asked <= {"intray_clock_up"}, "a metric that nobody looks at"


def test_the_dashboard_for_grafana_can_be_imported():
    """What its import asks for: no id of another installation, a uid, a data source to choose, panels that do not overlap."""
    made = grafana.dashboard()
    assert (made["id"], bool(made["uid"]), made["schemaVersion"] >= 36) == (None, True, True)
    assert made["templating"]["list"][0]["type"] == "datasource"
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    places: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        taken = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not taken & places and place["x"] + place["w"] <= 24
        places |= taken
        assert all({"refId", "expr", "datasource"} <= set(target) for target in panel["targets"])
