"""Mail and calendars by real processes and real servers: the whole story, and a child killed when the server has accepted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.support.caldav_server import LOGIN, radicale, with_login
from tests.support.mail_server import ACCEPTED, PASSWORD, USER, MailServer, new_certificate
from tests.support.processes import Intray, until

__all__ = ["radicale"]
PARAMS = {"to": ["a@example.org"], "subject": "It is done", "text": "Have a look."}


class Office:
    """An installation that sends by a mail server which wants TLS and a password."""

    def __init__(self, intray: Intray, server: MailServer) -> None:
        self.intray, self.server = intray, server
        self.admin = {"Authorization": f"Bearer {intray.token()}"}
        self.user = {"Authorization": f"Bearer {intray.token(intray.user('u@example.org'))}"}

    def submit(self, headers: dict[str, str], type: str = "email", params: dict[str, Any] = PARAMS) -> requests.Response:
        body = {"type": type, "params": params}
        return requests.post(f"{self.intray.base_url}/api/v1/jobs", json=body, headers=headers, timeout=20)

    def read(self, path: str) -> Any:
        return requests.get(f"{self.intray.base_url}{path}", headers=self.admin, timeout=20).json()

    def over(self, job: dict[str, Any]) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            found: dict[str, Any] = self.read(job["links"]["self"])
            return found

        until(lambda: read()["status"] in ("finished", "failed"), 60, lambda: f"{read()}\n{self.intray.output()[-3000:]}")
        return read()

    def kill_children(self) -> str:
        """Kill every child of the workers; gives the server's answer, which none of them hears."""
        lines = self.intray.processes()
        workers = {pid for pid, line in lines.items() if "worker" in line}
        for pid in workers:
            if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) in workers:
                os.kill(pid, signal.SIGKILL)
        return ACCEPTED


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, radicale: str) -> Iterator[Office]:
    certificate = new_certificate(tmp_path_factory.mktemp("certificate"))
    with MailServer(certificate=certificate, needs_password=True) as server:
        url = f"smtp://{USER}:{quote(PASSWORD, safe='')}@localhost:{server.port}"
        settings = {
            "SMTP_URL": url,
            "MAIL_FROM": "intray@example.org",
            "SSL_CERT_FILE": str(certificate),
            "EMAIL_BACKOFF": "0.2",
            "CALDAV_URL": with_login(radicale),
        }
        with Intray(tmp_path_factory.mktemp("intray") / "home", {**settings, "JOB_PACKAGES": "jobs,tests.trial_jobs"}) as one:
            yield Office(one.start(), server)
            for secret in (PASSWORD, quote(PASSWORD, safe=""), LOGIN[1], quote(LOGIN[1], safe="")):
                assert secret not in one.output()


def test_mail_is_sent_once_after_a_greylist_for_admins_and_as_a_follow_up_only(office: Office) -> None:
    assert office.submit(office.user).status_code == 422
    office.server.will("451 4.7.1 Greylisted")
    job = office.over(office.submit(office.admin).json())
    assert (job["status"], job["attempt"], job["result"]["sent"]) == ("finished", 2, True)
    assert {got.message["Message-ID"] for got in office.server.received} == {job["result"]["message_id"]}
    parent = office.over(office.submit(office.user, "trial_follow", {"type": "email", "params": PARAMS}).json())
    follow_up = next(one for one in office.read("/api/v1/jobs?type=email")["data"] if one["parent_id"] == parent["id"])
    assert office.over(follow_up)["result"]["sent"]


def test_a_child_killed_when_the_server_has_accepted_sends_once_more_with_the_same_id_and_says_so(office: Office) -> None:
    office.server.received.clear()
    office.server.will(office.kill_children)
    job = office.over(office.submit(office.admin).json())
    assert (job["status"], job["attempt"], job["interruptions"]) == ("finished", 1, 1)
    assert job["result"]["repeated"] == ["a@example.org"]
    assert [got.message["Message-ID"] for got in office.server.received] == [job["result"]["message_id"]] * 2


def test_an_event_gets_into_the_calendar_and_is_moved_and_cancelled(office: Office) -> None:
    start = {"start": "2026-12-01T10:00", "timezone": "Europe/Berlin"}
    made = office.over(office.submit(office.admin, "calendar", {"title": "Inspection", **start}).json())["result"]
    for params in ({"action": "update", "start": "2026-12-02T10:00Z"}, {"action": "cancel"}):
        assert office.over(office.submit(office.admin, "calendar", {"uid": made["uid"], **params}).json())["status"] == "finished"
    event = requests.get(made["url"], auth=LOGIN, timeout=20).text
    assert all(line in event for line in ("SUMMARY:Inspection", "STATUS:CANCELLED", "SEQUENCE:2", "DTSTART:20261202T100000Z"))
