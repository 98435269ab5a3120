"""What people do to RQ's messages in rq-dashboard, and how clock and ledger heal it; with a real clock and a real worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rq import Queue
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from monolith.runner.queue import rq_queues
from tests.support.callers import Caller
from tests.support.jobs import submit_job
from tests.support.processes import Intray, until

QUEUE = "default.normal"


@pytest.fixture
def processes(new_intray: Callable[..., Intray], database_url: str, redis_url: str, intray_settings: object) -> Intray:
    """An installation whose web is the test's own, on the same database and Redis."""
    return new_intray(DATABASE_URL=database_url, REDIS_URL=redis_url, JOB_PACKAGES="jobs,tests.trial_jobs", LOG_FORMAT="json")


def status(alice: Caller, job_id: str) -> str:
    return str(alice.get(f"/api/v1/jobs/{job_id}").json["status"])


def messages() -> set[str]:
    return set(rq_queues.queue(QUEUE).get_job_ids())


def test_what_was_deleted_or_emptied_is_pushed_again_and_done_once(processes, admin, alice):
    deleted, emptied, canceled = (submit_job(alice, "trial_echo")["id"] for _ in range(3))
    assert admin.post(f"/admin/rq/job/{deleted}/delete").json == {"status": "OK"}
    assert messages() == {emptied, canceled}
    alice.post(f"/api/v1/jobs/{canceled}/cancel")
    assert admin.post(f"/admin/rq/queue/{QUEUE}/queued/empty").json == {"status": "OK"}
    assert messages() == set()
    processes.spawn("clock")
    processes.wait_until(lambda: messages() == {deleted, emptied})
    processes.spawn("worker")
    until(lambda: [status(alice, one) for one in (deleted, emptied, canceled)] == ["finished", "finished", "canceled"], 60)


def test_a_message_of_a_running_job_that_is_deleted_changes_nothing_for_it(processes, admin, alice):
    job_id = str(alice.post("/api/v1/jobs", json={"type": "trial_sleep", "params": {"seconds": 2}}).json["id"])
    processes.spawn("clock")
    processes.spawn("worker")
    until(lambda: status(alice, job_id) == "started", 60)
    assert admin.post(f"/admin/rq/job/{job_id}/delete").status_code == 200
    until(lambda: status(alice, job_id) == "finished")


def test_what_rq_holds_for_failed_is_requeued_there_and_the_ledger_does_not_run_it_again(processes, admin, alice):
    job_id = submit_job(alice, "trial_permanent")["id"]
    processes.spawn("worker")
    until(lambda: status(alice, job_id) == "failed", 60)
    leave_as_failed(job_id)
    assert admin.post(f"/admin/rq/requeue/{QUEUE}").json == {"status": "OK", "count": 1}
    processes.wait_until(lambda: "message_ignored" in processes.output())
    job = alice.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["attempt"]) == ("failed", 1)


def leave_as_failed(job_id: str) -> None:
    """As a stock worker leaves a message whose process was killed."""
    queue = Queue(QUEUE, connection=rq_queues.connection(), serializer=JSONSerializer)
    message = RqJob.create(rq_queues.FUNCTION, (job_id,), id=job_id, connection=queue.connection, serializer=JSONSerializer, origin=QUEUE)
    message.set_status(JobStatus.FAILED)
    message.save()
    queue.failed_job_registry.add(message, ttl=600)
