"""Delivering webhooks to real servers, good and bad ones, on each database. The clock is ticked and jobs are run by hand."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from marshmallow import Schema, fields
from sqlalchemy import select, update
from standardwebhooks import WebhookVerificationError

from jobs import webhook as webhook_type
from monolith.content import fetch, http_post
from monolith.db.engine import now, read_session, write_session
from monolith.db.models import Job
from monolith.job_types import registry
from monolith.runner.ledger import lifecycle
from monolith.runner.webhooks import dispatch
from monolith.runner.webhooks.dispatch import WebhookTask
from monolith.runner.webhooks.models import Delivery, Webhook
from monolith.runner.worker import context, execute
from tests.support.callers import Caller
from tests.support.receiver import Receiver, drip, hang, hang_up, status


@pytest.fixture
def receiver(intray_settings: Callable[..., None]) -> Iterator[Receiver]:
    with Receiver() as one:
        intray_settings(FETCH_ALLOW_LOOPBACK="1")
        yield one


def create(caller: Caller, url: str, **wanted: Any) -> dict[str, Any]:
    answer = caller.post("/api/v1/webhooks", json={"url": url, **wanted})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json
    return made


def run_job(caller: Caller, type: str = "trial_echo", **wanted: Any) -> str:
    answer = caller.post("/api/v1/jobs", json={"type": type, **wanted})
    assert answer.status_code == 202, answer.text
    execute.run(answer.json["id"])
    return str(answer.json["id"])


def senders() -> list[str]:
    with read_session() as session:
        return list(session.scalars(select(Job.id).where(Job.type == "webhook", Job.status == "queued")))


def sending() -> Counter[int]:
    """How many deliveries of each user are being sent."""
    with read_session() as session:
        return Counter(session.scalars(select(Webhook.owner_id).join(Delivery).where(Delivery.state == "sending")))


def deliver(times: int = 1) -> None:
    """What clock and worker do: so many rounds of it, each as if all that waits were due."""
    for _ in range(times):
        with write_session() as session:
            session.execute(update(Delivery).where(Delivery.state == "waiting").values(due_at=now()))
        tick(WebhookTask())
        for job_id in senders():
            execute.run(job_id)


def tick(one: WebhookTask) -> None:
    for _ in one.work():
        pass


def deliveries(caller: Caller, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = caller.get(webhook["links"]["deliveries"]).json["data"]
    return found


def seconds_until(moment: str) -> float:
    with read_session() as session:
        return datetime.fromisoformat(moment).timestamp() - (session.scalar(select(now())) or 0.0)


# ---- what is told


def test_a_finished_job_is_told_signed_as_the_reference_library_verifies(alice: Caller, receiver: Receiver) -> None:
    webhook = create(alice, receiver.url)
    job_id = run_job(alice, params={"value": "Grüße ☃"})
    deliver()
    (received,) = receiver.requests
    said = received.verified(webhook["secret"])
    assert said == received.said
    assert set(said) == {"type", "timestamp", "data"}
    assert (said["type"], said["data"]["id"], said["data"]["status"]) == ("job.finished", job_id, "finished")
    assert said["data"]["result"] == {"value": "Grüße ☃"}
    assert abs(seconds_until(said["timestamp"])) < 60
    (delivery,) = deliveries(alice, webhook)
    assert (delivery["id"], delivery["status"], delivery["attempts"]) == (received.id, "delivered", 1)
    assert delivery["body"].encode() == received.body
    with pytest.raises(WebhookVerificationError):
        received.verified(create(alice, receiver.url)["secret"])


@pytest.mark.parametrize(("act", "type"), [("failed", "job.failed"), ("stopped", "job.stopped"), ("canceled", "job.canceled")])
def test_every_other_end_is_told_too(alice: Caller, receiver: Receiver, act: str, type: str) -> None:
    webhook = create(alice, receiver.url)
    if act == "failed":
        run_job(alice, "trial_permanent")
    else:
        job_id = alice.post("/api/v1/jobs", json={"type": "trial_echo"}).json["id"]
        if act == "stopped":
            lifecycle.claim(job_id, "w")
        assert alice.post(f"/api/v1/jobs/{job_id}/{'stop' if act == 'stopped' else 'cancel'}").status_code == 200
    deliver()
    (said,) = [one.verified(webhook["secret"]) for one in receiver.requests]
    assert (said["type"], said["data"]["status"]) == (type, act)
    assert bool(said["data"]["error"]) == (act == "failed")


def test_only_the_chosen_events_of_ones_own_jobs_are_told(alice: Caller, bob: Caller, receiver: Receiver) -> None:
    create(alice, receiver.url, events=["job.failed"])
    run_job(alice)
    run_job(bob, "trial_permanent")
    deliver()
    assert receiver.requests == []
    run_job(alice, "trial_permanent")
    deliver()
    assert [one.said["type"] for one in receiver.requests] == ["job.failed"]


def test_what_happened_before_there_was_a_webhook_is_not_told_and_sending_tells_nothing_of_itself(
    alice: Caller, receiver: Receiver
) -> None:
    run_job(alice)
    create(alice, receiver.url)
    deliver(3)
    assert receiver.requests == []
    run_job(alice)
    deliver(3)
    assert len(receiver.requests) == 1


def test_fifty_jobs_are_each_told_once(alice: Caller, receiver: Receiver) -> None:
    create(alice, receiver.url)
    jobs = {run_job(alice, params={"value": number}) for number in range(50)}
    deliver(2)
    assert {one.said["data"]["id"] for one in receiver.requests} == jobs
    assert set(receiver.ids().values()) == {1} and len(receiver.ids()) == 50


def test_a_large_result_stays_out_of_the_message_and_that_is_said(alice: Caller, receiver: Receiver) -> None:
    create(alice, receiver.url)
    run_job(alice, params={"value": "x" * 100_000})
    deliver()
    data = receiver.requests[0].said["data"]
    assert (data["result"], data["result_omitted"]) == (None, True)
    assert len(alice.get(data["links"]["result"]).json["value"]) == 100_000


def test_progress_is_told_to_who_chose_it_and_once_for_what_has_not_changed(alice: Caller, receiver: Receiver) -> None:
    create(alice, receiver.url, events=["job.progress"])
    job_id = alice.post("/api/v1/jobs", json={"type": "trial_echo"}).json["id"]
    claim = lifecycle.claim(job_id, "w")
    job = context.RunningJob(claim)
    job.progress(10, "listening")
    clock = WebhookTask()
    for _ in range(3):
        tick(clock)
        for sender in senders():
            execute.run(sender)
    (said,) = [one.said for one in receiver.requests]
    assert (said["type"], said["data"]["progress"], said["data"]["progress_note"]) == ("job.progress", 10, "listening")


# ---- endpoints that do not take it


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (status(500), 500, "answered 500"),
        (status(404), 404, "answered 404"),
        (status(302, Location="/elsewhere"), 302, "Redirects are not followed"),
        (status(304), 304, "answered 304"),
        (hang_up, None, "could not be reached"),
    ],
)
def test_what_is_no_success_is_tried_again_after_a_pause(alice: Caller, receiver: Receiver, answer: Any, code: int, words: str) -> None:
    webhook = create(alice, receiver.url)
    run_job(alice)
    receiver.will(answer, status(200))
    deliver()
    (failed,) = deliveries(alice, webhook)
    assert (failed["status"], failed["attempts"], failed["response_status"]) == ("waiting", 1, code)
    assert words in failed["error"]
    assert 2 < seconds_until(failed["next_attempt_at"]) < 6
    assert alice.get(webhook["links"]["self"]).json["failing_since"]
    deliver()
    (done,) = deliveries(alice, webhook)
    assert (done["status"], done["attempts"], done["error"], done["next_attempt_at"]) == ("delivered", 2, None, None)
    assert list(receiver.ids().values()) == [2]
    assert len({one.path for one in receiver.requests}) == 1
    assert alice.get(webhook["links"]["self"]).json["failing_since"] is None


def test_the_pauses_grow_to_three_days_and_after_ten_attempts_it_has_failed(alice: Caller, receiver: Receiver) -> None:
    webhook = create(alice, receiver.url)
    run_job(alice)
    receiver.will(status(500))
    pauses = []
    for attempt in range(1, 11):
        deliver()
        (delivery,) = deliveries(alice, webhook)
        assert delivery["attempts"] == attempt
        if delivery["next_attempt_at"]:
            pauses.append(seconds_until(delivery["next_attempt_at"]))
    assert delivery["status"] == "failed"
    assert pauses == sorted(pauses) and len(pauses) == 9
    assert 70 * 3600 < sum(pauses) < 80 * 3600
    deliver(2)
    assert list(receiver.ids().values()) == [10]


def test_retry_after_is_obeyed_where_it_is_longer(alice: Caller, receiver: Receiver) -> None:
    webhook = create(alice, receiver.url)
    run_job(alice)
    receiver.will(status(503, Retry_After="7200"), status(429, Retry_After="1"))
    deliver()
    assert 7100 < seconds_until(deliveries(alice, webhook)[0]["next_attempt_at"]) < 8000
    deliver()
    assert 290 < seconds_until(deliveries(alice, webhook)[0]["next_attempt_at"]) < 340  # its own pause is longer


@pytest.mark.parametrize("answer", [hang, drip])
def test_a_slow_endpoint_is_given_up_in_time(alice: Caller, receiver: Receiver, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_post.post, "__defaults__", (0.5,))
    webhook = create(alice, receiver.url)
    run_job(alice)
    receiver.will(answer)
    deliver()
    (delivery,) = deliveries(alice, webhook)
    assert (delivery["status"], delivery["response_status"]) == ("waiting", None)
    assert "did not answer" in delivery["error"]
    assert 0.4 < delivery["duration"] < 10


def test_of_a_long_answer_the_first_kilobyte_is_kept(alice: Caller, receiver: Receiver) -> None:
    webhook = create(alice, receiver.url)
    run_job(alice)
    receiver.will(status(200, b"\x00ok " + b"y" * 5_000_000))
    deliver()
    (delivery,) = deliveries(alice, webhook)
    assert (delivery["status"], len(delivery["response_text"])) == ("delivered", 1024)


def test_410_disables_the_endpoint_and_nothing_more_is_sent_until_it_is_enabled(alice: Caller, receiver: Receiver) -> None:
    webhook = create(alice, receiver.url)
    run_job(alice)
    receiver.will(status(410), status(200))
    deliver()
    shown = alice.get(webhook["links"]["self"]).json
    assert (shown["enabled"], "410" in shown["disabled_reason"]) == (False, True)
    missed = run_job(alice)
    deliver(2)
    (failed,) = deliveries(alice, webhook)
    assert (failed["status"], len(receiver.requests)) == ("failed", 1)
    replay = f"{webhook['links']['deliveries']}/{failed['id']}/replay"
    assert alice.post(replay).status_code == 409
    assert alice.patch(webhook["links"]["self"], json={"enabled": True}).json["enabled"] is True
    told = run_job(alice)
    deliver()
    assert [one.said["data"]["id"] for one in receiver.requests[1:]] == [told] != [missed]
    assert alice.post(replay).status_code == 202
    deliver()
    assert receiver.ids()[failed["id"]] == 2


def fail_since(webhook: dict[str, Any], days: float) -> None:
    with write_session() as session:
        session.execute(update(Webhook).where(Webhook.id == webhook["id"]).values(failing_since=now() - days * 86400))


@pytest.mark.parametrize(("days", "enabled"), [(4.9, True), (5.1, False)])
def test_an_endpoint_that_fails_for_five_days_is_disabled(alice: Caller, receiver: Receiver, days: float, enabled: bool) -> None:
    webhook = create(alice, receiver.url)
    run_job(alice)
    receiver.will(status(500))
    fail_since(webhook, days)
    deliver()
    assert alice.get(webhook["links"]["self"]).json["enabled"] is enabled
    assert deliveries(alice, webhook)[0]["status"] == ("waiting" if enabled else "failed")


class Mail(Schema):
    to = fields.List(fields.Email(), required=True)
    subject = fields.String(required=True)
    text = fields.String(required=True)


@pytest.mark.parametrize("has_email", [True, False])
def test_its_owner_is_told_by_an_email_where_there_is_that_job_type(
    alice: Caller, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, has_email: bool
) -> None:
    declared = registry._declared
    monkeypatch.delitem(declared, "email", raising=False)
    if has_email:
        monkeypatch.setitem(declared, "email", replace(declared["trial_echo"], name="email", params=Mail))
    registry.discover.cache_clear()
    webhook = create(alice, receiver.url)
    run_job(alice)
    receiver.will(status(410))
    deliver()
    mails = alice.get("/api/v1/jobs?type=email").json["data"]
    assert [one["params"]["to"] for one in mails] == [["alice@example.org"]] * has_email
    assert all(webhook["url"] in one["params"]["text"] and "410" in one["params"]["text"] for one in mails)


def test_an_endpoint_that_fails_gets_two_at_a_time_and_holds_up_no_other(alice: Caller, bob: Caller, receiver: Receiver) -> None:
    dead = create(alice, receiver.url.replace("/hook", "/dead"))
    fail_since(dead, 1)
    create(bob, receiver.url)
    for _ in range(5):
        run_job(alice)
    run_job(bob)
    tick(WebhookTask())
    assert sending() == {alice.user.id: 2, bob.user.id: 1}


def test_a_host_that_hangs_leaves_threads_to_others_and_what_was_not_begun_in_time_spends_no_attempt(
    alice: Caller, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_post.post, "__defaults__", (2.0,))
    monkeypatch.setattr(webhook_type, "TURN_S", 1.0)
    receiver.will(hang)
    hanging = create(alice, receiver.url)
    with Receiver() as works:
        create(alice, works.url)
        for _ in range(12):
            run_job(alice)
        deliver()
        assert len(works.requests) == 12
    assert len(receiver.requests) == webhook_type.HOST_AT_ONCE
    attempts = Counter((one["status"], one["attempts"]) for one in deliveries(alice, hanging))
    assert attempts == {("waiting", 1): webhook_type.HOST_AT_ONCE, ("waiting", 0): 12 - webhook_type.HOST_AT_ONCE}


def test_what_a_batch_has_left_for_an_endpoint_that_is_gone_is_not_sent(alice: Caller, receiver: Receiver) -> None:
    webhook = create(alice, receiver.url)
    receiver.will(status(410))
    for _ in range(20):
        run_job(alice)
    deliver()
    assert len(receiver.requests) <= webhook_type.HOST_AT_ONCE
    assert {one["status"] for one in deliveries(alice, webhook)} == {"failed"}


def test_a_sender_that_ended_without_a_word_has_spent_an_attempt(alice: Caller, receiver: Receiver) -> None:
    webhook = create(alice, receiver.url)
    run_job(alice)
    tick(WebhookTask())
    assert alice.post(f"/api/v1/jobs/{senders()[0]}/cancel").status_code == 200
    tick(WebhookTask())
    (delivery,) = deliveries(alice, webhook)
    assert (delivery["status"], delivery["attempts"]) == ("waiting", 1)
    deliver()
    assert deliveries(alice, webhook)[0]["status"] == "delivered"
    assert len(webhook_type.RETRY_DELAYS_S) + 1 == dispatch.MAX_ATTEMPTS


def test_two_senders_of_one_delivery_record_it_once(alice: Caller, receiver: Receiver) -> None:
    """A worker that was held for dead goes on: what it says then changes nothing."""
    webhook = create(alice, receiver.url)
    run_job(alice)
    tick(WebhookTask())
    (stale,) = context.RunningJob(lifecycle.claim(senders()[0], "w")).deliveries()
    deliver()
    with write_session() as session:
        session.execute(update(Delivery).values(state="delivered", sender_id=None))
    assert stale.record(is_delivered=False, again_in=5, disable="stale") is False
    assert deliveries(alice, webhook)[0]["status"] == "delivered"
    assert alice.get(webhook["links"]["self"]).json["enabled"] is True


# ---- secrets


def test_after_a_rotation_both_secrets_sign_until_the_old_one_ends(alice: Caller, receiver: Receiver) -> None:
    webhook = create(alice, receiver.url)
    rotated = alice.post(f"{webhook['links']['self']}/rotate", json={"overlap_hours": 1}).json
    assert rotated["secret"] != webhook["secret"]
    assert 3500 < seconds_until(rotated["previous_secret_until"]) <= 3600
    run_job(alice)
    deliver()
    for secret in (webhook["secret"], rotated["secret"]):
        receiver.requests[0].verified(secret)
    newest = alice.post(f"{webhook['links']['self']}/rotate", json={"overlap_hours": 0}).json["secret"]
    run_job(alice)
    deliver()
    receiver.requests[1].verified(newest)
    with pytest.raises(WebhookVerificationError):
        receiver.requests[1].verified(rotated["secret"])


def test_another_secret_key_sends_nothing_with_a_wrong_signature(
    alice: Caller, receiver: Receiver, intray_settings: Callable[..., None]
) -> None:
    webhook = create(alice, receiver.url)
    run_job(alice)
    intray_settings(SECRET_KEY="another")
    deliver()
    assert receiver.requests == []
    secret = alice.post(f"{webhook['links']['self']}/rotate", json={"overlap_hours": 0}).json["secret"]
    deliver(2)
    receiver.requests[0].verified(secret)


def test_a_secret_that_cannot_be_read_keeps_no_other_delivery_of_its_owner(
    alice: Caller, receiver: Receiver, intray_settings: Callable[..., None]
) -> None:
    old = create(alice, receiver.url)
    intray_settings(SECRET_KEY="another")
    new = create(alice, receiver.url)
    run_job(alice)
    deliver()
    assert [one.verified(new["secret"])["type"] for one in receiver.requests] == ["job.finished"]
    (failed,) = deliveries(alice, old)
    assert (failed["status"], failed["attempts"], "Rotate the secret" in failed["error"]) == ("waiting", 1, True)


# ---- addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "[::1]", "[fd00::1]", "2130706433", "localhost"])
def test_an_address_of_this_network_is_refused_when_it_is_saved(alice: Caller, host: str) -> None:
    for url in (f"http://{host}/", f"https://{host}:8443/x"):
        answer = alice.post("/api/v1/webhooks", json={"url": url})
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/url")
        answer = alice.post("/api/v1/jobs", json={"type": "trial_echo", "webhook_url": url})
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/webhook_url")


def test_an_address_that_became_one_of_this_network_is_refused_when_it_is_sent_to(
    alice: Caller, receiver: Receiver, intray_settings: Callable[..., None]
) -> None:
    webhook = create(alice, receiver.url)
    run_job(alice)
    intray_settings(FETCH_ALLOW_LOOPBACK="0")
    deliver()
    (delivery,) = deliveries(alice, webhook)
    assert (delivery["status"], receiver.requests) == ("waiting", [])
    assert "not a public site" in delivery["error"]


def test_a_name_that_turns_private_between_check_and_connection_is_refused(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    answers = iter(["93.184.215.14", "10.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 80))])
    answer = http_post.post("http://rebinding.example/", b"{}", {})
    assert answer.error is not None and "not a public site" in answer.error


def test_a_name_that_cannot_be_looked_up_now_may_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    def later(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", later)
    assert http_post.target_problem("https://example.org/") is None
    assert fetch.url_problem("ftp://example.org") is not None


# ---- a single job's webhook_url


def test_a_single_job_is_told_to_its_webhook_url_and_the_secret_is_shown_once(alice: Caller, receiver: Receiver) -> None:
    wanted = {"type": "trial_echo", "webhook_url": receiver.url}
    first = alice.post("/api/v1/jobs", json=wanted, headers={"Idempotency-Key": "a"})
    secret = first.json["webhook_secret"]
    second = alice.post("/api/v1/jobs", json=wanted)
    assert secret.startswith("whsec_") and "webhook_secret" not in second.json
    assert "webhook_secret" not in alice.post("/api/v1/jobs", json=wanted, headers={"Idempotency-Key": "a"}).json
    run_job(alice)
    for job_id in (first.json["id"], second.json["id"]):
        execute.run(job_id)
    deliver()
    assert {one.verified(secret)["data"]["id"] for one in receiver.requests} == {first.json["id"], second.json["id"]}
    assert len(receiver.requests) == 2
    assert alice.get("/api/v1/webhooks").json["data"] == []
    (single,) = alice.get(f"/api/v1/webhooks?job_id={second.json['id']}").json["data"]
    assert [one["status"] for one in deliveries(alice, single)] == ["delivered"]


def test_the_secret_of_single_jobs_can_be_made_anew(alice: Caller, receiver: Receiver) -> None:
    made = alice.post("/api/v1/webhooks/secret")
    assert (made.status_code, made.json["previous_secret_until"]) == (200, None)
    again = alice.post("/api/v1/webhooks/secret", json={}).json
    job_id = alice.post("/api/v1/jobs", json={"type": "trial_echo", "webhook_url": receiver.url}).json["id"]
    execute.run(job_id)
    deliver()
    for secret in (made.json["secret"], again["secret"]):
        receiver.requests[0].verified(secret)


def test_a_unique_job_that_lives_already_is_told_to_the_new_url_too(alice: Caller, receiver: Receiver) -> None:
    live = alice.post("/api/v1/jobs", json={"type": "trial_echo", "unique": True}).json["id"]
    shared = alice.post("/api/v1/jobs", json={"type": "trial_echo", "unique": True, "webhook_url": receiver.url})
    assert (shared.json["id"], shared.status_code) == (live, 200)
    execute.run(live)
    deliver()
    receiver.requests[0].verified(shared.json["webhook_secret"])


def test_what_is_stored_of_a_secret_is_not_the_secret(alice: Caller, receiver: Receiver) -> None:
    webhook = create(alice, receiver.url)
    with read_session() as session:
        row = session.scalars(select(Webhook)).one()
        assert webhook["secret"].removeprefix("whsec_") not in row.secret.sealed
    assert "secret" not in alice.get(webhook["links"]["self"]).json
    assert webhook["secret"] not in json.dumps(alice.get("/api/v1/webhooks").json)
