"""A real clock with no worker beside it: it sends the alert of that itself, and says when it is over."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.callers import Caller
from tests.support.mail_server import MailServer
from tests.support.processes import Intray


def test_the_clock_mails_that_nobody_listens_and_that_somebody_does_again(
    new_intray: Callable[..., Intray], database_url: str, redis_url: str, alice: Caller, admin: Caller
) -> None:
    with MailServer() as server:
        settings = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "LOG_FORMAT": "json", "ALERT_NO_WORKER_S": "1"}
        intray = new_intray(**settings, JOB_PACKAGES="jobs,tests.trial_jobs", SMTP_URL=server.url, MAIL_FROM="Intray <i@example.org>")
        alice.post("/api/v1/jobs", json={"type": "trial_echo"})
        intray.spawn("clock")
        intray.wait_until(lambda: len(server.received) == 1)
        assert admin.get("/api/v1/queues/health").json["healthy"] is False
        intray.spawn("worker")
        intray.wait_until(lambda: len(server.received) >= 2)
        subjects = [one.message["Subject"].strip() for one in server.received]
    said = "No worker is running for default.normal (1 job waiting)."
    assert subjects == [f"Intray: [critical] {said}", f"Intray: [resolved] {said}"]
    assert admin.get("/api/v1/queues/health").json["healthy"] is True
