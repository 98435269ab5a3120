"""E-mail by a real SMTP server, on each database: the message of a job runs as a worker runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from jobs.tools.mail import smtp, templates
from monolith.config import settings
from monolith.errors import BadSetting, Invalid
from monolith.job_types import registry
from monolith.runner.ledger import lifecycle
from monolith.runner.worker import execute
from monolith.runner.worker.context import RunningJob
from tests.support.callers import Caller
from tests.support.jobs import run_due
from tests.support.mail_server import ACCEPTED, DROP, HANG, PASSWORD, USER, MailServer, new_certificate

A, B = "a@example.org", "b@example.org"
PARAMS = {"to": [A], "subject": "Grüße", "text": "Dear <b>all</b>,\nit is done."}
Send = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as one:
        yield one


@pytest.fixture
def send(admin: Caller, server: MailServer, intray_settings: Callable[..., None]) -> Send:
    """Submit a message and run it once; gives its row."""
    intray_settings(SMTP_URL=server.url, MAIL_FROM="Intray <intray@example.org>")

    def one(**params: Any) -> Any:
        answer = admin.post("/api/v1/jobs", json={"type": "email", "params": {**PARAMS, **params}})
        assert answer.status_code == 202, answer.text
        return run_due(answer.json["id"])

    return one


def marks(row: Any) -> list[str]:
    return [event.name.removeprefix("mark.") for event in row.events if event.name.startswith("mark.")]


def test_a_message_arrives_with_its_text_its_html_and_the_ids_of_its_job(send: Send, server: MailServer) -> None:
    row = send(cc=[B], bcc=["hidden@example.org"])
    assert (row.status, row.result["sent"], row.result["repeated"]) == ("finished", True, [])
    (got,) = server.received
    assert (got.sender, got.recipients) == ("intray@example.org", [A, B, "hidden@example.org"])
    assert (got.message["Subject"], got.message["From"], got.message["To"]) == ("Grüße", "Intray <intray@example.org>", A)
    assert got.message["Message-ID"] == row.result["message_id"] == f"<{row.id}@example.org>"
    assert (got.message["X-Intray-Job"], got.message["Auto-Submitted"]) == (row.id, "auto-generated")
    assert "hidden@example.org" not in got.message.as_string()
    assert got.message.get_body(("plain",)).get_content().split("\r\n") == ["Dear <b>all</b>,", "it is done.", ""]
    assert "Dear &lt;b&gt;all&lt;/b&gt;," in got.message.get_body(("html",)).get_content()
    assert marks(row) == ["sending", "accepted"]
    assert row.result["accepted"][0] == {"address": A, "reply": ACCEPTED}


@pytest.mark.parametrize("answer", ["451 4.7.1 Greylisted, try again later", DROP])
def test_a_greylist_and_a_connection_lost_in_the_message_are_tried_again(send: Send, server: MailServer, answer: str) -> None:
    server.will(answer)
    row = send()
    assert (row.status, row.attempt, row.error_type) == ("scheduled", 1, "SendFailed")
    done = run_due(row.id)
    assert (done.status, done.attempt, done.result["sent"]) == ("finished", 2, True)
    assert len({got.message["Message-ID"] for got in server.received}) == 1
    assert done.result["repeated"] == ([A] if answer == DROP else [])  # a 451 says that the server does not have it


@pytest.mark.parametrize("recipients", [{}, {A: "550 5.1.1 No such user"}])
def test_a_refusal_fails_at_once_and_quotes_the_server(send: Send, server: MailServer, recipients: dict[str, str]) -> None:
    server.recipients = recipients
    server.will("550 5.7.1 No spam please")
    row = send()
    assert (row.status, row.attempt, row.error_type) == ("failed", 1, "permanent")
    assert ("No such user" if recipients else "No spam please") in row.error_message


def test_a_refused_message_can_be_sent_when_a_person_starts_it_again(send: Send, server: MailServer) -> None:
    server.recipients = {A: "550 5.1.1 No such user"}
    row = send()
    server.recipients = {}
    assert lifecycle.requeue(row.id)
    done = run_due(row.id)
    assert (done.status, done.result["repeated"], done.result["refused"]) == ("finished", [], [])


def test_one_of_two_recipients_refused_the_other_gets_it(send: Send, server: MailServer) -> None:
    server.recipients[B] = "550 5.1.1 No such user"
    row = send(to=[A, B])
    assert (row.status, server.received[0].recipients) == ("finished", [A])
    assert row.result["refused"] == [{"address": B, "reply": "550 5.1.1 No such user"}]


def test_one_of_two_recipients_put_off_gets_it_later_and_the_other_not_again(send: Send, server: MailServer) -> None:
    server.recipients[B] = "451 4.7.1 Greylisted"
    row = send(to=[A, B])
    assert (row.status, row.error_type) == ("scheduled", "SendFailed")
    server.recipients.clear()
    done = run_due(row.id)
    assert [got.recipients for got in server.received] == [[A], [B]]
    assert [one["address"] for one in done.result["accepted"]] == [A, B]


def test_a_run_that_was_lost_after_the_acceptance_is_not_sent_again(send: Send, server: MailServer, admin: Caller) -> None:
    job_id = admin.post("/api/v1/jobs", json={"type": "email", "params": PARAMS}).json["id"]
    claim = lifecycle.claim(job_id, worker="one that dies")
    assert claim
    registry.find("email").function(RunningJob(claim), claim.job.params)  # and its outcome is not recorded
    lifecycle.interrupt(job_id, claim.number, "its worker died")
    done = run_due(job_id)
    assert len(server.received) == 1
    assert (done.status, done.result["sent"]) == ("finished", True)
    assert "not sent again" in done.result["note"]


def test_a_run_that_was_lost_while_sending_is_sent_once_more_and_says_so(send: Send, server: MailServer, admin: Caller) -> None:
    job_id = admin.post("/api/v1/jobs", json={"type": "email", "params": PARAMS}).json["id"]
    claim = lifecycle.claim(job_id, worker="one that dies")
    assert claim
    RunningJob(claim).mark("sending", f"{A}: ")
    lifecycle.interrupt(job_id, claim.number, "its worker died")
    done = run_due(job_id)
    assert (done.result["repeated"], len(server.received)) == ([A], 1)
    assert "sending again" in [event.note for event in done.events]


def test_what_happened_is_marked_even_when_the_job_was_stopped_meanwhile(send: Send, server: MailServer, admin: Caller) -> None:
    job_id = admin.post("/api/v1/jobs", json={"type": "email", "params": PARAMS}).json["id"]
    server.will(lambda: ACCEPTED if lifecycle.stop(job_id) else "451 no")
    assert run_due(job_id).status == "stopped"
    assert lifecycle.requeue(job_id)
    assert "not sent again" in run_due(job_id).result["note"]
    assert len(server.received) == 1


def test_a_server_that_does_not_answer_is_tried_again(send: Send, server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "STEP_S", 0.3)
    server.recipients[A] = HANG
    assert "did not answer in time" in send().error_message
    assert server.received == []


def test_an_acceptance_that_was_not_heard_is_unknown(send: Send, server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "DEADLINE_S", 0.5)
    monkeypatch.setattr(smtp, "MIN_DATA_S", 0.0)
    server.will(HANG)
    row = send()
    assert (row.status, marks(row)) == ("scheduled", ["sending"])
    assert run_due(row.id).result["repeated"] == [A]


def test_a_message_whose_answer_is_lost_each_time_goes_out_twice_and_not_again(send: Send, server: MailServer) -> None:
    server.will(*[DROP] * 6)
    job_id = send(to=[A]).id
    for _ in range(5):
        row = run_due(job_id)
    assert (marks(row), row.status, row.error_type) == (["sending", "sending"], "failed", "permanent")
    assert row.error_message.startswith(f"The mail server did not confirm the message to {A}, twice")
    assert lifecycle.requeue(job_id)
    assert (marks(run_due(job_id)), server.received) == (["sending", "sending"], [])


def test_a_server_that_is_away_is_tried_again(send: Send, server: MailServer, intray_settings: Callable[..., None]) -> None:
    intray_settings(SMTP_URL="smtp://127.0.0.1:9")
    row = send()
    assert (row.status, row.error_type) == ("scheduled", "SendFailed")


def test_without_a_server_the_message_is_kept_as_a_file(admin: Caller) -> None:
    job_id = admin.post("/api/v1/jobs", json={"type": "email", "params": PARAMS}).json["id"]
    row = run_due(job_id)
    assert (row.status, row.result["sent"], [file.name for file in row.artefacts]) == ("finished", False, ["message.eml"])
    assert "SMTP_URL" in row.result["note"]
    assert f"X-Intray-Job: {job_id}".encode() in admin.get(f"/api/v1/jobs/{job_id}/artifacts/message.eml").data


# ---- TLS and passwords


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # to aiosmtpd, TLS from the start is none
@pytest.mark.parametrize(("scheme", "password"), [("smtp", PASSWORD), ("smtps", PASSWORD), ("smtp", "hunter2"), ("smtps", "hunter2")])
def test_the_password_is_given_over_tls_only_and_a_wrong_one_fails_at_once(
    send: Send, certificate: Path, intray_settings: Callable[..., None], scheme: str, password: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with MailServer(certificate=certificate, is_tls=scheme == "smtps", needs_password=True) as server:
        url = f"{scheme}://{USER}:{quote(password, safe='')}@localhost:{server.port}"
        intray_settings(SMTP_URL=url, SSL_CERT_FILE=str(certificate))
        row = send()
    if password == PASSWORD:
        assert (row.status, len(server.received)) == ("finished", 1)
    else:
        assert (row.status, row.error_type, server.received) == ("failed", "permanent", [])
        assert "SMTP_URL" in row.error_message
    told = "".join([*capfd.readouterr(), str(row.result), str(row.error_message), str(row.error_trace), *(str(e.note) for e in row.events)])
    assert password not in told


def test_a_certificate_that_nobody_vouches_for_is_refused(send: Send, certificate: Path, intray_settings: Callable[..., None]) -> None:
    with MailServer(certificate=certificate) as server:
        intray_settings(SMTP_URL=f"smtp://localhost:{server.port}")
        row = send()
    assert (row.error_type, "certificate" in row.error_message, server.received) == ("permanent", True, [])


def test_a_password_is_not_given_where_nothing_is_encrypted(send: Send, server: MailServer, intray_settings: Callable[..., None]) -> None:
    intray_settings(SMTP_URL=f"smtp://user:secret@127.0.0.1:{server.port}")
    assert "offers no STARTTLS" in send().error_message


@pytest.mark.parametrize(
    "url", ["http://h", "smtp://", "smtp://h:no", "smtp://h?starttls=maybe", "smtp://h?tls=1", "smtp://u:hunter2@h/path"]
)
def test_a_wrong_smtp_url_is_said_without_the_password(intray_settings: Callable[..., None], url: str) -> None:
    intray_settings(SMTP_URL=url, MAIL_FROM=A)
    with pytest.raises(BadSetting, match="SMTP_URL cannot be used") as raised:
        settings()
    assert "hunter2" not in str(raised.value)


# ---- params


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"to": []}, "/params/to"),
        ({"to": ["no address"]}, "/params/to/0"),
        ({"to": [f"{A}\r\nBcc: {B}"]}, "/params/to/0"),
        ({"to": [f"{A}\n"]}, "/params/to/0"),
        ({"to": ["ä@example.org"]}, "/params/to/0"),
        ({"to": [A] * 15, "bcc": [B] * 6}, "/params/to"),
        ({"to": [f"{'x' * 60}{i}@{'y' * 60}.example.org" for i in range(12)]}, "/params/to"),
        ({"subject": f"Hello\r\nBcc: {B}"}, "/params/subject"),
        ({"subject": "x" * 201}, "/params/subject"),
        ({"subject": None}, "/params/subject"),
        ({"text": "x" * 100_001}, "/params/text"),
        ({"reply_to": f"{A}\nX: y"}, "/params/reply_to"),
        ({"template": "../../etc/passwd"}, "/params/template"),
        ({"template": "quality_check"}, "/params/values"),
        ({"values": {"x": "y" * 100_001}}, "/params/values"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(params: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as raised:
        registry.find("email").load_params({**PARAMS, **params}, has_document=False)
    assert [error.pointer for error in raised.value.errors] == [field]


def test_an_international_domain_is_written_as_the_wire_wants_it() -> None:
    assert templates.address("info@Bücher.example") == "info@xn--bcher-kva.example"


def test_a_template_is_filled_in_and_a_line_break_in_a_value_makes_no_header(send: Send, server: MailServer) -> None:
    finding = {"where": "Section 2", "fix": "Give the date", "severity": "high"}
    values = {"title": f"Form <7>\r\nBcc: {B}", "decision": "review", "route": "ONSITE", "score": 61, "findings": [finding, finding]}
    row = send(template="quality_check", values=values, subject=None, text=None)
    assert row.status == "finished", row.error_message
    (got,) = server.received
    assert got.message["Subject"] == f"Quality check of Form <7> Bcc: {B}: needs review"
    assert got.recipients == [A] and got.message["Bcc"] is None
    assert "Score: 61 of 100" in got.message.get_body(("plain",)).get_content()
    assert "- Section 2: Give the date (high)" in got.message.get_body(("plain",)).get_content()
    assert "Form &lt;7&gt;" in got.message.get_body(("html",)).get_content()


# ---- who may


def test_ordinary_users_neither_see_nor_submit_mail_but_get_it_as_a_follow_up(alice: Caller, admin: Caller) -> None:
    assert "email" not in [one["name"] for one in alice.get("/api/v1/job-types").json["data"]]
    assert "email" in [one["name"] for one in admin.get("/api/v1/job-types").json["data"]]
    assert alice.get("/api/v1/job-types/email").status_code == 404
    refused = alice.post("/api/v1/jobs", json={"type": "email", "params": PARAMS})
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/type")
    assert "Only admins" in refused.json["detail"] and "analyze" in refused.json["detail"]
    refused = alice.post("/api/v1/documents", json={"text": "hello", "jobs": [{"type": "email", "params": PARAMS}]})
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/jobs/0/type")
    assert "email" not in alice.get("/").text
    parent = alice.post("/api/v1/jobs", json={"type": "trial_follow", "params": {"type": "email", "params": PARAMS}}).json["id"]
    execute.run(parent)
    follow_up = alice.get("/api/v1/jobs?type=email").json["data"][0]
    assert follow_up["parent_id"] == parent
    assert run_due(follow_up["id"]).status == "finished"
