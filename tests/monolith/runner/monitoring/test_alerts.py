"""Alerts: each opens for what it is for and closes when that is over, once; who is told; and what the API and the page say."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update
from structlog.testing import capture_logs

from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job, JobEvent, Lease, Tally
from monolith.job_types import registry
from monolith.runner.ledger import clock_lease, lifecycle
from monolith.runner.ledger.pauses import Pause
from monolith.runner.llm import budget
from monolith.runner.llm.circuit_breaker import CircuitBreaker
from monolith.runner.monitoring import alert_snapshot, alerts
from monolith.runner.monitoring.alert_rules import RULES
from monolith.runner.monitoring.alerts import Alert, AlertTask
from monolith.runner.queue import rq_queues
from monolith.runner.webhooks.models import Delivery
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.jobs import make_due, new_jobs
from tests.support.mail_server import MailServer
from tests.support.processes import ROOT, until
from tests.support.receiver import Receiver
from tests.support.receiver import status as answering

pytestmark = pytest.mark.databases

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes....").decode()


@pytest.fixture
def evaluate(app: object, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Evaluates the alerts as the leading clock does."""
    clock_lease.lead("tests")
    one = AlertTask()

    def work() -> None:
        one._count_at = 0.0
        for _ in one.work():
            pass

    return work


@pytest.fixture
def submit(alice: Caller) -> Callable[..., list[str]]:
    def some(number: int, seconds_ago: float = 0, name: str = "trial_echo") -> list[str]:
        jobs = new_jobs(alice.user.id, name, number)
        with write_session() as session:
            session.execute(update(Job).where(Job.id.in_([job.id for job in jobs])).values(queued_at=Job.queued_at - seconds_ago))
        return [job.id for job in jobs]

    return some


def fail(job_ids: list[str]) -> None:
    for job_id in job_ids:
        claim = lifecycle.claim(job_id, "w")
        assert claim
        lifecycle.fail(claim, lifecycle.Failure("x", "x", permanent=True), registry.fixed(1))


def opened() -> set[tuple[str, str]]:
    with read_session() as session:
        return {(one.code, one.subject) for one in alerts.opened(session)}


def listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a worker listened to everything; the rest of Redis is real."""
    monkeypatch.setattr(rq_queues, "listened", lambda: set(rq_queues.names()))


def health(admin: Caller) -> dict[str, Any]:
    answer = admin.get("/api/v1/queues/health")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json
    return found


# ---- what opens and closes


def test_nothing_is_wrong_where_nothing_is(evaluate, admin):
    evaluate()
    said = health(admin)
    assert (said["healthy"], said["alerts"], said["stats"]["queued"]) == (True, [], 0)
    assert set(said) == {"healthy", "alerts", "stats", "timestamp"}
    assert set(said["stats"]) == {"queued", "scheduled", "started", "finished", "failed", "stopped", "canceled"}


def test_more_failures_than_the_limit_open_a_warning_that_closes_at_four_fifths_of_it(evaluate, submit, admin, monkeypatch):
    listen(monkeypatch)
    fail(submit(10))
    evaluate()
    assert opened() == set()
    fail(submit(1))
    evaluate()
    assert opened() == {("failed", "all")}
    said = health(admin)
    warning = {"code": "failed", "severity": "warning", "subject": "all", "message": "11 jobs failed in the last 24 hours."}
    assert (said["healthy"], said["alerts"]) == (True, [warning])
    for stays, is_open in ((9, True), (8, False)):
        with write_session() as session:
            keep = session.scalars(select(Job.id).where(Job.status == "failed").limit(stays)).all()
            session.execute(update(Job).where(Job.id.not_in(keep)).values(ended_at=now() - 25 * 3600))
        evaluate()
        assert (("failed", "all") in opened()) is is_open


def test_many_that_wait_and_one_that_waits_long_open_each_their_own(evaluate, submit, intray_settings, monkeypatch):
    listen(monkeypatch)
    intray_settings(ALERT_WAITING="2", ALERT_OLDEST_S="100")
    submit(3)
    evaluate()
    assert opened() == {("waiting", "all")}
    submit(1, seconds_ago=101)
    evaluate()
    assert opened() == {("waiting", "all"), ("oldest_waiting", "default")}


def test_a_queue_that_nobody_listens_to_is_critical_once_a_job_has_waited_there_for_a_while(evaluate, submit, admin):
    submit(1)
    evaluate()
    assert opened() == set()
    submit(1, seconds_ago=11)
    evaluate()
    assert opened() == {("no_worker", "default.normal")}
    said = health(admin)
    assert (said["healthy"], said["alerts"][0]["severity"]) == (False, "critical")
    assert said["alerts"][0]["message"] == "No worker is running for default.normal (2 jobs waiting)."


def test_what_is_paused_waits_for_no_worker(evaluate, submit, admin):
    submit(1, seconds_ago=400)
    admin.put("/api/v1/pauses/queue:default", json={"reason": "Maintenance"})
    evaluate()
    assert opened() == set()


def test_redis_that_is_away_twice_in_a_row_is_critical_and_what_needs_it_is_left_as_it_was(evaluate, submit, intray_settings, redis_url):
    submit(1, seconds_ago=20)
    evaluate()
    intray_settings(REDIS_URL="redis://127.0.0.1:1/0")
    evaluate()
    assert opened() == {("no_worker", "default.normal")}
    evaluate()
    assert opened() == {("no_worker", "default.normal"), ("redis_away", "redis")}
    intray_settings(REDIS_URL=redis_url)
    evaluate()
    assert opened() == {("no_worker", "default.normal")}


def test_redis_that_is_away_for_the_web_process_alone_is_said_at_once(admin, intray_settings):
    clock_lease.lead("tests")
    intray_settings(REDIS_URL="redis://127.0.0.1:1/0")
    assert [one["code"] for one in health(admin)["alerts"]] == ["redis_away"]


def test_a_clock_that_is_missing_is_said_by_those_who_are_asked_and_what_it_would_have_said_too(submit, admin):
    submit(1, seconds_ago=20)
    said = health(admin)
    assert (said["healthy"], [one["code"] for one in said["alerts"]]) == (False, ["clock_missing", "no_worker"])
    assert opened() == set()


def test_a_pause_without_an_end_is_forgotten_after_an_hour(evaluate, admin):
    admin.put("/api/v1/pauses/all", json={"reason": "Maintenance"})
    admin.put("/api/v1/pauses/type:analyze", json={"reason": "Maintenance", "until": "2099-01-01T00:00:00Z"})
    evaluate()
    assert opened() == set()
    with write_session() as session:
        session.execute(update(Pause).values(since=Pause.since - 3601))
    evaluate()
    assert opened() == {("pause_forgotten", "all")}
    admin.delete("/api/v1/pauses/all")
    evaluate()
    assert opened() == set()


def test_workers_that_beat_while_nothing_is_begun_or_ended_are_silent(evaluate, submit, monkeypatch):
    listen(monkeypatch)
    first, *_ = submit(2, seconds_ago=700)
    evaluate()
    assert ("silence", "all") in opened()
    assert lifecycle.claim(first, "w")
    evaluate()
    assert ("silence", "all") not in opened()


def test_a_job_that_vanished_is_critical(evaluate, submit, admin):
    submit(1)
    with write_session() as session:
        session.execute(delete(Job))
    evaluate()
    assert opened() == {("ledger_imbalance", "ledger")}
    assert health(admin)["alerts"][0]["message"] == "1 job missing from the ledger."


def test_a_type_that_no_worker_has_is_a_warning_after_five_minutes_while_its_jobs_are_tried(evaluate, submit):
    (job,) = submit(1)
    with write_session() as session:
        session.execute(update(Job).values(type="newer"))
    execute.run(job)
    evaluate()
    assert opened() == set()
    with write_session() as session:
        session.execute(update(JobEvent).values(at=JobEvent.at - 301))
    evaluate()
    assert opened() == {("missing_type", "newer")}
    make_due(job)
    lifecycle.queue_due(1)
    evaluate()
    assert opened() == {("missing_type", "newer")}, "it is tried just now, which does not close the alert"


def test_an_open_breaker_and_a_budget_that_is_used_up_are_warnings(evaluate, alice, intray_settings):
    intray_settings(LLM_BUDGET_USD="1", LLM_BUDGET_PER_USER_USD="0.5")
    with write_session() as session:
        session.execute(insert(CircuitBreaker).values(name="openai", failures=3, open_until=now() + 60, reason="It answered 429."))
        budget.record(session, alice.user.id, budget.Cost(1, 1, Decimal("1.5")))
    evaluate()
    assert opened() == {("breaker_open", "openai"), ("budget_reached", "everybody"), ("budget_reached", "alice@example.org")}


def test_a_redis_that_is_nearly_full_is_a_warning(evaluate, monkeypatch):
    connection = rq_queues.connection()
    used = connection.info("memory")["used_memory"]
    connection.config_set("maxmemory", int(used * 1.1))
    try:
        evaluate()
        assert opened() == {("redis_memory", "redis")}
    finally:
        connection.config_set("maxmemory", 0)
    evaluate()
    assert opened() == set()


def test_every_rule_says_how_bad_it_is_when_it_opens_and_what_to_do(admin):
    assert all(rule.severity in ("critical", "warning") and rule.fix.endswith(".") for rule in RULES.values())
    page = admin.get("/admin/alerts").text
    assert all(code in page for code in RULES)
    assert "more than 10 jobs failed" in page and "more than 50 jobs are waiting" in page


# ---- who is told


def test_an_alert_is_told_once_when_it_opens_and_once_when_it_closes(evaluate, submit, admin):
    submit(1, seconds_ago=20)
    with capture_logs() as lines:
        for _ in range(3):
            evaluate()
        with write_session() as session:
            session.execute(delete(Job))
            session.execute(update(Tally).values(amount=0))
        for _ in range(3):
            evaluate()
    told = [(line["event"], line["code"], line["log_level"]) for line in lines if line["event"].startswith("alert_")]
    assert told == [("alert_opened", "no_worker", "error"), ("alert_closed", "no_worker", "info")]
    page = admin.get("/admin/alerts").text
    assert "No open alerts" in page and "No worker is running for default.normal" in page


def test_it_is_mailed_to_all_admins_by_a_job_written_with_the_alert(evaluate, submit, admin, intray_settings):
    """Nobody listens, so the clock itself sends it."""
    with MailServer() as server:
        intray_settings(SMTP_URL=server.url, MAIL_FROM="Intray <intray@example.org>")
        clock_lease.lead("tests")
        submit(1, seconds_ago=20)
        evaluate()
        until(lambda: statuses("email") == ["finished"])
        evaluate()
        (letter,) = server.received
    assert letter.recipients == ["admin@example.org"]
    assert letter.message["Subject"].strip() == "Intray: [critical] No worker is running for default.normal (1 job waiting)."
    assert "manage.py worker" in letter.message.get_body(("plain",)).get_content()
    assert statuses("email") == ["finished"]


def statuses(type_name: str) -> list[str]:
    with read_session() as session:
        return list(session.scalars(select(Job.status).where(Job.type == type_name)))


def test_mail_goes_to_the_addresses_of_the_setting_and_a_wrong_one_holds_no_alert_back(
    evaluate, submit, admin, intray_settings, monkeypatch
):
    listen(monkeypatch)
    intray_settings(
        ALERT_WAITING="0", SMTP_URL="smtp://127.0.0.1:1", MAIL_FROM="i@example.org", ALERT_EMAIL="ops@example.org,b@example.org"
    )
    submit(1)
    evaluate()
    with read_session() as session:
        assert session.scalars(select(Job.params).where(Job.type == "email")).one()["to"] == ["ops@example.org", "b@example.org"]
    intray_settings(ALERT_EMAIL="nobody", ALERT_OLDEST_S="0")
    submit(1, seconds_ago=5)
    evaluate()
    assert opened() == {("waiting", "all"), ("oldest_waiting", "default")}


def test_it_is_told_by_a_signed_webhook_also_when_nobody_listens(evaluate, submit, admin, intray_settings):
    with Receiver() as receiver:
        intray_settings(ALERT_WEBHOOK_URL=receiver.url, ALERT_WEBHOOK_SECRET=SECRET, FETCH_ALLOW_LOOPBACK="true")
        submit(1, seconds_ago=20)
        evaluate()
        until(lambda: states() == ["delivered"])
    (request,) = receiver.requests
    said = request.verified(SECRET)
    assert said["type"] == "alert.opened"
    assert (said["data"]["code"], said["data"]["subject"], said["data"]["severity"]) == ("no_worker", "default.normal", "critical")
    assert admin.get("/api/v1/webhooks").json["data"] == []  # it is the settings', and no one's


def states() -> list[str]:
    with read_session() as session:
        return list(session.scalars(select(Delivery.state)))


def test_an_endpoint_that_fails_is_tried_again_as_of_every_webhook(evaluate, submit, admin, intray_settings):
    with Receiver(answering(500)) as receiver:
        intray_settings(ALERT_WEBHOOK_URL=receiver.url, ALERT_WEBHOOK_SECRET=SECRET, FETCH_ALLOW_LOOPBACK="true")
        submit(1, seconds_ago=20)
        evaluate()
        until(lambda: states() == ["waiting"])
    with read_session() as session:
        row = session.scalars(select(Delivery)).one()
        assert (row.attempts, row.due_at is not None, json.loads(row.body)["data"]["code"]) == (1, True, "no_worker")


def test_two_clocks_at_once_open_it_once(evaluate, submit, admin):
    submit(1, seconds_ago=20)
    seen = alert_snapshot.take_snapshot()
    with write_session() as session:
        session.execute(insert(Alert).values(code="no_worker", subject="default.normal", severity="critical", message="x", opened_at=now()))
    condition = next(one for one in alerts.alert_rules.conditions(seen) if one.opens)
    alerts._open_and_close([condition], [], seen)
    with read_session() as session:
        assert len(session.scalars(select(Alert)).all()) == 1


@pytest.mark.parametrize(("who", "path", "status"), [("alice", "/api/v1/queues/health", 403), ("alice", "/admin/alerts", 403)])
def test_it_is_for_admins_and_viewers(request, caller, who, path, status):
    assert request.getfixturevalue(who).get(path).status_code == status
    assert caller("v@example.org", is_viewer=True).get(path).status_code == 200


def test_the_lease_is_what_says_that_a_clock_is_there(evaluate, admin):
    evaluate()
    assert health(admin)["healthy"]
    with write_session() as session:
        session.execute(delete(Lease))
    assert not health(admin)["healthy"]


def test_the_page_of_operations_has_every_rule_as_it_is(app):
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = [f"| `{code}` | {rule.severity} | {rule.when.format(limit=rule.limit())} | {rule.fix} |" for code, rule in RULES.items()]
    assert [row for row in rows if row not in page] == []
