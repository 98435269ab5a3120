"""rq-dashboard under /admin/rq/: who may look and act, and what of it is mended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient
from rq import Queue
from rq.job import Job as RqJob
from rq.results import Result
from rq.serializers import JSONSerializer
from sqlalchemy import select

from monolith.db.engine import read_session
from monolith.runner.ledger.audit import AuditEntry
from monolith.runner.queue import rq_queues
from tests.support.callers import Caller

QUEUE = "default.normal"
SAME = {"Sec-Fetch-Site": "same-origin"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ACTS = ["/job/{id}/delete", "/job/{id}/requeue", f"/requeue/{QUEUE}", f"/queue/{QUEUE}/queued/empty", f"/queue/{QUEUE}/compact"]
PAGES = ["/", "/0/view/workers", "/0/view/jobs", f"/0/view/jobs/{QUEUE}/queued/8/asc/1", "/0/view/job/{id}"]
DATA = ["/0/data/queues.json", "/0/data/workers.json", f"/0/data/jobs/{QUEUE}/queued/8/asc/1.json", "/0/data/job/{id}.json"]


@pytest.fixture
def job_id(alice: Caller) -> str:
    """A job that mostly waits: its message has something in `meta`, which RQ would read by pickle."""
    job_id = str(alice.post("/api/v1/jobs", json={"type": "trial_echo", "params": {"value": "x"}}).json["id"])
    rq_queues.connection().hset(RqJob.key_for(job_id), "meta", JSONSerializer.dumps({"waits": True}))
    return job_id


@pytest.fixture
def signed_in(app: object, admin: Caller) -> Callable[[Caller], FlaskClient]:
    """A browser's client, with a session."""

    def sign_in(who: Caller) -> FlaskClient:
        client: FlaskClient = who.client.application.test_client()
        form = {"csrf_token": csrf_of(client.get("/sign-in").text), "email": who.user.email, "password": "a long password"}
        assert client.post("/sign-in", data=form).status_code == 303
        return client

    return sign_in


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    return found[1]


def messages() -> list[str]:
    return list(rq_queues.queue(QUEUE).get_job_ids())


def audited() -> list[tuple[str, str, str, int | None]]:
    with read_session() as session:
        rows = session.execute(select(AuditEntry.actor, AuditEntry.act, AuditEntry.subject, AuditEntry.count).order_by(AuditEntry.id))
        return [tuple(row) for row in rows]


# ---- who may


@pytest.mark.parametrize("path", [*PAGES, *DATA])
def test_admins_and_viewers_may_look_and_nobody_else(admin, alice, caller, app, job_id, path):
    path = f"/admin/rq{path.format(id=job_id)}"
    assert admin.get(path).status_code == 200
    assert caller("v@example.org", is_viewer=True).get(path).status_code == 200
    assert alice.get(path).status_code == 403
    assert app.test_client().get(path).status_code == 303


@pytest.mark.parametrize("path", ACTS)
def test_only_admins_may_act(admin, alice, caller, app, job_id, path):
    path = f"/admin/rq{path.format(id=job_id)}"
    assert alice.post(path).status_code == 403
    assert caller("v@example.org", is_viewer=True).post(path).status_code == 403
    assert app.test_client().post(path).status_code in (401, 303, 403)
    assert (messages(), audited()) == ([job_id], [])
    assert admin.post(path).status_code in (200, 409)  # there is nothing that RQ holds for failed


@pytest.mark.parametrize("path", ACTS)
def test_a_browser_needs_the_token_and_our_own_page(admin, signed_in, job_id, path):
    client, path = signed_in(admin), f"/admin/rq{path.format(id=job_id)}"
    page = client.get("/admin/rq/").text
    token = re.search(r'"X-CSRFToken": "([^"]+)"', page)
    assert token
    csrf = {"X-CSRFToken": token[1]}
    assert client.post(path, headers=SAME).status_code == 403
    for foreign in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}):
        assert client.post(path, headers={**csrf, **foreign}).status_code == 403
    assert (messages(), audited()) == ([job_id], [])
    assert client.post(path, headers={**csrf, "Origin": "http://localhost"}).status_code in (200, 409)
    assert client.post(path, headers={**csrf, **SAME}).status_code in (200, 409)


def test_reading_an_address_never_requeues(admin, job_id):
    answer = admin.get(f"/admin/rq/requeue/{QUEUE}")
    assert (answer.status_code, audited()) == (405, [])


def test_what_is_done_is_written_down_with_how_many(admin, job_id):
    assert admin.post(f"/admin/rq/job/{job_id}/delete").json == {"status": "OK"}
    assert admin.post(f"/admin/rq/queue/{QUEUE}/queued/empty").json == {"status": "OK"}
    assert audited() == [
        ("admin@example.org", "rq_delete_job", f"job {job_id}", 1),
        ("admin@example.org", "rq_empty_queue", f"queue {QUEUE} queued", 0),
    ]


def test_more_than_one_request_can_do_is_refused(admin, job_id, monkeypatch):
    monkeypatch.setattr("monolith.queue_admin.rq_pages.MAX_MESSAGES", 0)
    assert admin.post(f"/admin/rq/queue/{QUEUE}/queued/empty").status_code == 409
    assert messages() == [job_id]


# ---- what is mended


def test_it_reads_our_messages_which_are_json(admin, job_id):
    said = admin.get(f"/admin/rq/0/data/job/{job_id}.json").json
    assert (said["origin"], said["status"], json.loads(said["metadata"])) == (QUEUE, "queued", {"waits": True})
    listed = admin.get(f"/admin/rq/0/data/jobs/{QUEUE}/queued/8/asc/1.json").json
    assert [one["id"] for one in listed["jobs"]] == [job_id]


def test_nothing_in_redis_is_ever_unpickled(admin, job_id):
    """RQ's default would run what is pickled here."""
    bomb = b"cos\nsystem\n(S'touch /tmp/unpickled'\ntR."
    rq_queues.connection().hset(RqJob.key_for(job_id), mapping={"data": bomb, "meta": bomb})
    for path in (f"/0/view/job/{job_id}", f"/0/data/job/{job_id}.json", f"/0/data/jobs/{QUEUE}/queued/8/asc/1.json"):
        assert admin.get(f"/admin/rq{path}").status_code in (200, 409)


def test_it_uses_the_connection_of_the_app(admin, job_id):
    before = rq_queues.connection().info("stats")["total_connections_received"]
    for _ in range(5):
        admin.get("/admin/rq/0/data/queues.json")
    assert rq_queues.connection().info("stats")["total_connections_received"] - before <= 1


@pytest.mark.parametrize("path", ["/0/view/job/{id}", "/0/data/job/{id}.json", "/job/{id}/requeue"])
def test_a_message_that_is_not_there_is_not_found(admin, path):
    unknown = f"/admin/rq{path.format(id='00000000-0000-4000-8000-000000000000')}"
    answer = admin.post(unknown) if path.endswith("requeue") else admin.get(unknown)
    assert answer.status_code == 404
    assert "Jobs page" in answer.text


def test_a_job_that_depends_on_others_can_be_looked_at(admin, job_id):
    first = RqJob.fetch(job_id, connection=rq_queues.connection(), serializer=JSONSerializer)
    second = rq_queues.queue(QUEUE).enqueue_call("monolith.runner.worker.execute.run", ("none",), depends_on=first)
    said = admin.get(f"/admin/rq/0/data/job/{second.id}.json").json
    assert (said["depends_on"], said["depends_on_status"]) == ([job_id], ["active"])
    first.delete()
    assert admin.get(f"/admin/rq/0/data/job/{second.id}.json").json["depends_on_status"] == ["expired"]


@pytest.mark.parametrize(
    "path",
    [
        "/0/view/jobs/');alert(1);('/queued/8/asc/1",
        f"/0/view/jobs/{QUEUE}/nothing/8/asc/1",
        f"/0/view/jobs/{QUEUE}/queued/8/up/1",
        f"/0/data/jobs/{QUEUE}/queued/x/asc/1.json",
        f"/0/data/jobs/{QUEUE}/queued/8/asc/0.json",
        f"/0/data/jobs/{QUEUE}/nothing/8/asc/1.json",
        "/1/view/queues",
        "/0/view/job/a%20b",
    ],
)
def test_an_address_that_cannot_be_is_not_found_and_gets_into_no_script(admin, path):
    answer = admin.get(f"/admin/rq{path}")
    assert answer.status_code == 404
    assert "alert(1)" not in answer.text


def test_its_policy_is_looser_on_its_own_pages_only_and_still_lets_no_foreign_script_run(admin, job_id):
    page = admin.get("/admin/rq/")
    policy = page.headers["Content-Security-Policy"]
    nonce = re.search(r"'nonce-([\w-]+)'", policy)
    assert nonce and f'<script nonce="{nonce[1]}">' in page.text
    assert "'unsafe-eval'" in policy and "script-src 'self' 'unsafe-inline'" not in policy
    assert policy != admin.get("/admin/rq/").headers["Content-Security-Policy"]
    for path in ("/admin/", "/jobs", "/admin/rq/0/data/queues.json"):
        assert "unsafe" not in admin.get(path).headers["Content-Security-Policy"]


def test_a_hostile_name_of_a_queue_is_text(admin, job_id):
    Queue(HOSTILE, connection=rq_queues.connection(), serializer=JSONSerializer).enqueue_call("os.getcwd")
    assert "<img src=x" not in admin.get("/admin/rq/0/view/jobs").text


def test_a_hostile_result_and_error_are_data(admin, job_id):
    job = RqJob.fetch(job_id, connection=rq_queues.connection(), serializer=JSONSerializer)
    Result.create_failure(job, ttl=60, exc_string=HOSTILE)
    answer = admin.get(f"/admin/rq/0/data/job/{job_id}.json")
    assert (answer.content_type, answer.json["exc_info"]) == ("application/json", HOSTILE)


def test_where_redis_is_away_a_page_says_so(admin, intray_settings):
    intray_settings(REDIS_URL="redis://127.0.0.1:1/0")
    answer = admin.get("/admin/rq/")
    assert answer.status_code == 503
    assert "Redis is not responding" in answer.text


def test_where_jobs_run_in_the_web_process_a_page_says_so(admin, intray_settings):
    intray_settings(QUEUE_MODE="inline")
    answer = admin.get("/admin/rq/")
    assert answer.status_code == 404
    assert "QUEUE_MODE=inline" in answer.text
