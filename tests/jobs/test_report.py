"""Reports through the API: whose jobs are in them, and that every figure is right, on each database."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from typing import Any

import pytest
from pypdf import PdfReader
from sqlalchemy import insert, select

from jobs.tools.report import csv_export
from monolith.db.engine import read_session, write_session
from monolith.db.models import Document, Job, User, new_id
from monolith.runner.worker import execute, report_queries
from tests.support.callers import Caller

pytestmark = pytest.mark.databases

DAY_S = 86400.0
NOW = time.time()  # only a day that is over is asked for by its date
OURS = ("finished", "failed", "stopped", "open")


def ran(owner: Caller, number: int = 1, **columns: Any) -> None:
    """Jobs of the ledger that ran yesterday, unless said otherwise."""
    at = columns.pop("created_at", NOW - DAY_S)
    took, waited = columns.pop("took", 2.0), columns.pop("waited", 1.0)
    times = {"created_at": at, "queued_at": at, "started_at": at + waited, "ended_at": at + waited + took}
    same = {
        "type": "analyze",
        "queue": "default",
        "priority": "normal",
        "params": {},
        "status": "finished",
        "attempt": 1,
        "max_attempts": 3,
    }
    with write_session() as session:
        session.execute(insert(Job), [{"id": new_id(), "owner_id": owner.user.id, **same, **times, **columns} for _ in range(number)])


def made(caller: Caller, **params: Any) -> dict[str, Any]:
    """A report, submitted and run: the job as the API answers it."""
    answer = caller.post("/api/v1/jobs", json={"type": "report", "params": params})
    assert answer.status_code == 202, answer.text
    execute.run(answer.json["id"])
    job: dict[str, Any] = caller.get(answer.json["links"]["self"]).json
    return job


def result(caller: Caller, **params: Any) -> dict[str, Any]:
    job = made(caller, **params)
    assert job["status"] == "finished", job
    return dict(job["result"])


def file(caller: Caller, job: dict[str, Any], name: str) -> bytes:
    url = next(one["url"] for one in job["artifacts"] if one["name"] == name)
    return bytes(caller.get(url).data)


def table(caller: Caller, job: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file(caller, job, "report.csv").decode("utf-8-sig"))))


def words(caller: Caller, job: dict[str, Any]) -> str:
    pages = PdfReader(io.BytesIO(file(caller, job, "report.pdf"))).pages
    return "\n".join(page.extract_text() for page in pages)


def test_every_figure_is_right(alice: Caller) -> None:
    for took in range(1, 21):
        ran(alice, took=float(took), waited=took / 10, usd=0.01, input_tokens=100, output_tokens=10)
    ran(alice, 3, status="failed", type="enhance", error_type="timeout", took=60.0)
    ran(alice, 1, status="canceled", started_at=None, ended_at=NOW)
    ran(alice, 1, status="queued", started_at=None, ended_at=None)
    ran(alice, 1, created_at=NOW - 40 * DAY_S)  # before the period
    job = made(alice)
    found = job["result"]
    assert (found["days"], found["jobs"], [found[name] for name in OURS]) == (30, 25, [20, 3, 1, 1])
    assert found["failure_rate"] == round(3 / 23, 4)
    assert found["cost"] == {"input_tokens": 2000, "output_tokens": 200, "usd": 0.2}
    analyze = found["by_type"][0]
    assert (analyze["type"], analyze["jobs"], analyze["failed"], analyze["failure_rate"]) == ("analyze", 22, 0, 0)
    assert (analyze["ran"], analyze["waited"]) == ({"p50_s": 10.0, "p95_s": 19.0}, {"p50_s": 1.0, "p95_s": 1.9})
    assert found["failures"] == [{"type": "enhance", "error": "timeout", "jobs": 3}]
    assert (len(found["by_time"]), sum(one["finished"] for one in found["by_time"]), found["by_time"][28]["failed"]) == (30, 20, 3)
    assert [row["type"] for row in table(alice, job)].count("enhance") == 3
    assert (job["max_attempts"], found["csv_rows"], found["csv_is_complete"]) == (2, 25, True)
    said = words(alice, job)
    assert all(one in said for one in ("Job report", "Jobs per day", "By job type", "Wait times", "Failures", "13.0 %", "Page 1 of"))


def test_users_get_their_own_and_admins_all_or_those_of_one(alice: Caller, bob: Caller, admin: Caller) -> None:
    ran(alice, 2)
    ran(bob, 3, type="email")
    job = made(alice)
    assert (job["result"]["jobs"], job["result"]["owner"]) == (2, "alice@example.org")
    assert {row["owner"] for row in table(alice, job)} == {"alice@example.org"}
    assert "bob@" not in words(alice, job) and "email" not in words(alice, job)
    everybody = result(admin)
    assert (everybody["jobs"], everybody["owner"]) == (6, None)  # and alice's report
    assert [(one["owner"], one["jobs"]) for one in everybody["by_owner"]] == [("alice@example.org", 3), ("bob@example.org", 3)]
    assert (result(admin, owner="BOB@example.org")["jobs"], result(admin, types=["email"])["jobs"]) == (3, 3)
    assert bob.get(f"{job['links']['self']}/artifacts/report.pdf").status_code == 404


def test_the_owner_is_for_admins_to_name_whatever_way_the_job_came(alice: Caller, bob: Caller, admin: Caller) -> None:
    answer = alice.post("/api/v1/jobs", json={"type": "report", "params": {"owner": "bob@example.org"}})
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/params/owner")
    follow = {"type": "report", "params": {"owner": "bob@example.org"}}
    execute.run(alice.post("/api/v1/jobs", json={"type": "trial_follow", "params": follow}).json["id"])
    with read_session() as session:
        job_id = session.scalar(select(Job.id).where(Job.type == "report"))
    execute.run(job_id or "")
    job = alice.get(f"/api/v1/jobs/{job_id}").json
    assert (job["status"], job["error"]["type"], job["artifacts"]) == ("failed", "permanent", [])
    assert "Only admins" in job["error"]["message"]
    assert "Unknown user 'nobody@example.org'" in made(admin, owner="nobody@example.org")["error"]["message"]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"from": "24.11.2026"}, "from", "2026-11-24"),
    ({"from": "2026-02-30"}, "from", "not a date"),
    ({"from": "2026-11-02", "to": "2026-11-01"}, "to", "before the first"),
    ({"to": "2026-11-01"}, "from", "Also give the first day"),
    ({"from": "2025-01-01", "to": "2026-11-01"}, "from", "at most 366 days"),
    ({"days": 367}, "days", "366"),
    ({"days": 0}, "days", "1"),
    ({"days": 7, "from": "2026-11-01"}, "days", "either"),
    ({"types": ["analyse"]}, "types/0", "Unknown job type 'analyse'. Use one of: analyze,"),
    ({"since": "2026-11-01"}, "since", "Unknown"),
]


def test_a_wrong_period_is_refused_with_what_to_do(alice: Caller) -> None:
    for params, field, said in WRONG:
        answer = alice.post("/api/v1/jobs", json={"type": "report", "params": params})
        assert answer.status_code == 422
        assert {one["pointer"]: said in one["detail"] for one in answer.json["errors"]} == {f"/params/{field}": True}, params


def test_a_period_that_turns_out_too_long_says_so(alice: Caller) -> None:
    job = made(alice, **{"from": "2020-01-01"})
    assert (job["status"], job["attempt"]) == ("failed", 1) and "more than 366 days" in job["error"]["message"]


def test_days_are_whole_and_in_utc(alice: Caller) -> None:
    noon = 1_700_049_600.0  # 2023-11-15T12:00:00Z
    for at in (noon - 13 * 3600, noon - 12 * 3600, noon + 12 * 3600 - 0.001, noon + 12 * 3600):
        ran(alice, created_at=at)
    found = result(alice, **{"from": "2023-11-15", "to": "2023-11-15"})
    assert (found["jobs"], found["days"], [one["finished"] for one in found["by_time"]]) == (2, 1, [2])
    year = result(alice, **{"from": "2023-11-14", "to": "2024-11-13"})
    assert (year["days"], year["step_days"], len(year["by_time"]), year["by_time"][0]["finished"]) == (366, 7, 53, 4)


def test_a_period_without_jobs_gives_a_report_that_says_so(alice: Caller) -> None:
    job = made(alice, days=1)
    assert (job["result"]["jobs"], job["result"]["failure_rate"], table(alice, job)) == (0, None, [])
    assert "No jobs in this period" in words(alice, job)


def test_what_quality_checks_decided_is_counted(alice: Caller) -> None:
    for decision, route in [("approve", "ONLINE"), ("review", "ONSITE"), ("review", "ONSITE")]:
        ran(alice, type="quality_check", result={"decision": decision, "route": route})
    ran(alice, type="quality_check", result={"decision": None, "other": [1]})
    ran(alice, type="quality_check", status="failed", error_type="timeout")  # so its document goes on site by default
    checks = {"checked": 5, "approve": 1, "review": 2, "reject": 0, "online": 1, "onsite": 2, "defaulted": 1}
    assert result(alice)["quality_checks"] == checks


def test_no_cell_is_a_formula(alice: Caller) -> None:
    titles = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]
    for title in titles:
        document = Document(owner_id=alice.user.id, title=title, kind="text", media_type="text/plain")
        with write_session() as session:
            session.add(document)
        ran(alice, document_id=document.id, error_message=title, status="failed")
    rows = table(alice, made(alice))
    assert {(row["document"], row["error"]) for row in rows} == {(f"'{title}", f"'{title}") for title in titles}


def test_titles_in_every_script_and_names_of_every_length_are_drawn(alice: Caller) -> None:
    titles = ["漢字のタイトル.docx", "שלום עולם", "مرحبا بالعالم", "😀 \u202e txt.exe", "line\nbreak", "long " * 60, "W" * 300, "\ufffd"]
    documents = [Document(owner_id=alice.user.id, title=one, kind="text", media_type="text/plain") for one in titles]
    with write_session() as session:
        session.add_all(documents)
    for place, document in enumerate(documents):
        ran(alice, document_id=document.id, type=f"{'a_very_long_name_of_a_type_' * 2}{place}"[:60])
    job = made(alice)
    assert {row["document"] for row in table(alice, job)} == {"line\nbreak", *titles}
    assert "□□" in words(alice, job) and "Longest jobs" in words(alice, job)


def test_each_row_comes_once_although_they_are_read_some_at_a_time(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_queries, "ROWS_PER_PAGE", 7)
    ran(alice, 40)  # all at the same moment
    ran(alice, 2, created_at=NOW - 3 * DAY_S)
    rows = table(alice, made(alice))
    assert len({row["id"] for row in rows}) == len(rows) == 42
    assert [row["submitted"] for row in rows] == sorted(row["submitted"] for row in rows)


def test_a_table_that_would_be_too_large_ends_early_and_says_so(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_export, "MAX_BYTES", 1000)
    ran(alice, 40)
    job = made(alice)
    assert job["result"]["csv_is_complete"] is False and 1 < job["result"]["csv_rows"] < 40
    assert f"the first {job['result']['csv_rows']} of 40 jobs" in words(alice, job)


def test_what_intray_submits_by_itself_is_left_out_unless_it_is_named(alice: Caller) -> None:
    ran(alice, 2, type="webhook")
    ran(alice)
    assert (result(alice)["jobs"], result(alice, types=["webhook"])["jobs"]) == (1, 2)


def test_the_page_has_its_form_and_shows_the_owner_to_admins_only(
    alice: Caller, admin: Caller, intray_settings: Callable[..., None]
) -> None:
    assert 'href="/run/report"' in alice.get("/").text
    shown, of_admin = alice.get("/run/report").text, admin.get("/run/report").text
    assert 'name="report.days"' in shown and "report.owner" not in shown and 'name="report.owner"' in of_admin
    wrong = alice.post("/run/report", data={"report.days": "400"})
    assert wrong.status_code == 422 and 'id="report.days-error"' in wrong.text
    gone = alice.post("/run/report", data={"report.days": "7", "report.types": "analyze\nemail"})
    assert gone.status_code == 303
    with read_session() as session:
        assert session.scalar(select(Job.params)) == {"from": None, "to": None, "days": 7, "types": ["analyze", "email"], "owner": None}
        assert session.scalar(select(Job.owner_id)) == session.scalar(select(User.id).where(User.email == "alice@example.org"))
    assert [alice.get(f"/run/{name}").status_code for name in ("analyze", "email", "webhook", "nothing")] == [404] * 4
