"""Schedules and the audit trail over HTTP: for programs and in pages, who may, and what is refused with the mend."""

from __future__ import annotations

import csv
import getpass
import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from monolith.db.engine import write_session
from monolith.runner.ledger import audit
from monolith.runner.ledger.audit import Actor
from tests.acceptance.processes import MANAGE
from tests.conftest import Caller

WEEKLY = {"name": "Weekly", "type": "analyze", "params": {"description": "A tool."}, "cron": "30 6 * * MON"}
FORM = {
    "name": "Weekly",
    "type": "analyze",
    "cron": "30 6 * * MON",
    "analyze.url": "https://example.org/",
    "priority": "low",
    "is_on": "on",
}


def test_a_schedule_is_created_shown_changed_run_and_deleted(admin: Caller) -> None:
    made = admin.post("/api/v1/schedules", json={**WEEKLY, "priority": 9})
    assert made.status_code == 201, made.json
    one = made.json
    assert (one["priority"], one["enabled"], one["owner"], one["last_at"]) == ("high", True, "admin@example.org", None)
    assert (one["explained"], one["next_at"], len(one["upcoming"])) == ("At 06:30 on Monday", one["upcoming"][0], 5)
    path = one["links"]["self"]
    assert admin.get(path).json == one
    assert [each["name"] for each in admin.get("/api/v1/schedules").json["data"]] == ["Weekly"]
    changed = admin.patch(path, json={"cron": "0 7 * * *", "enabled": False}).json
    assert (changed["explained"], changed["next_at"], changed["params"]) == ("At 07:00 every day", None, WEEKLY["params"])
    run = admin.post(f"{path}/run")
    assert run.status_code == 202
    assert admin.get(f"/api/v1/jobs/{run.json['job_id']}").json["status"] == "queued"
    assert admin.get(path).json["last_job_id"] == run.json["job_id"]
    assert admin.delete(path).status_code == 204
    assert admin.get(path).status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"cron": "61 * * * *"}, 422, "/cron"),
        ({"cron": None}, 422, "/cron"),
        ({"name": ""}, 422, "/name"),
        ({"type": "build", "params": {}}, 422, "/document_id"),
        ({"type": "nope"}, 422, "/type"),
        ({"params": {"description": 1}}, 422, "/params/description"),
        ({"priority": "urgent"}, 422, "/priority"),
        ({"enabled": "perhaps"}, 422, "/enabled"),
        ({"owner": "me"}, 422, "/owner"),
    ],
    ids=str,
)
def test_a_wrong_schedule_is_refused_with_its_field(admin: Caller, change: dict[str, Any], status: int, pointer: str) -> None:
    answer = admin.post("/api/v1/schedules", json={**WEEKLY, **change})
    assert (answer.status_code, [one["pointer"] for one in answer.json["errors"]]) == (status, [pointer])
    assert admin.get("/api/v1/schedules").json["data"] == []


def test_a_taken_name_is_a_conflict(admin: Caller) -> None:
    assert admin.post("/api/v1/schedules", json=WEEKLY).status_code == 201
    assert admin.post("/api/v1/schedules", json=WEEKLY).status_code == 409
    again = admin.post("/admin/schedules/new", data=FORM)
    assert again.status_code == 422 and 'id="name-error"' in again.text


def test_a_schedule_is_set_up_and_changed_by_the_form(admin: Caller) -> None:
    assert "New schedule" in admin.get("/admin/schedules/new?type=analyze").text
    assert admin.post("/admin/schedules/new", data=FORM).status_code == 303
    [one] = admin.get("/api/v1/schedules").json["data"]
    assert (one["priority"], one["enabled"]) == ("low", True)
    assert one["params"] == {"url": "https://example.org/"}
    page = admin.get(f"/admin/schedules/{one['id']}").text
    assert 'value="https://example.org/"' in page and 'value="30 6 * * MON"' in page
    off = {name: text for name, text in FORM.items() if name != "is_on"}
    assert admin.post(f"/admin/schedules/{one['id']}", data={**off, "name": "Weekly news"}).status_code == 303
    assert "Weekly news" in admin.get("/admin/schedules").text
    assert admin.post(f"/admin/schedules/{one['id']}/on").status_code == 303
    assert admin.get(f"/api/v1/schedules/{one['id']}").json["enabled"] is True
    assert admin.post(f"/admin/schedules/{one['id']}/run").headers["Location"].startswith("/jobs/")
    assert admin.post(f"/admin/schedules/{one['id']}/delete").status_code == 303
    assert "No schedules yet" in admin.get("/admin/schedules").text


@pytest.mark.parametrize(
    ("change", "control"),
    [({"cron": "x"}, "cron"), ({"name": ""}, "name"), ({"analyze.url": "no address"}, "analyze.url"), ({"priority": "x"}, "priority")],
    ids=str,
)
def test_a_wrong_form_says_what_to_mend_and_keeps_what_was_typed(admin: Caller, change: dict[str, str], control: str) -> None:
    answer = admin.post("/admin/schedules/new", data={**FORM, **change})
    assert answer.status_code == 422
    assert f'id="{control}-error"' in answer.text
    assert admin.get("/api/v1/schedules").json["data"] == []


def test_every_job_type_that_can_be_chosen_has_a_form(admin: Caller) -> None:
    choices = admin.get("/admin/schedules").text.partition('<select id="type"')[2].partition("</select>")[0]
    names = [part.partition('"')[0] for part in choices.split('value="')[1:]]
    assert "report" in names and "analyze" in names and "build" not in names and "webhook" not in names
    for name in names:
        assert admin.get(f"/admin/schedules/new?type={name}").status_code == 200


def test_viewers_may_look_and_submitters_may_not(alice: Caller, admin: Caller, caller: Callable[..., Caller]) -> None:
    own = admin.post("/api/v1/schedules", json=WEEKLY).json
    viewer = caller("viewer@example.org", is_viewer=True)
    page = f"/admin/schedules/{own['id']}"
    reads = ("/admin/schedules", page, "/api/v1/schedules", own["links"]["self"], "/admin/audit", "/api/v1/audit", "/admin/audit/audit.csv")
    for path in reads:
        assert (alice.get(path).status_code, viewer.get(path).status_code) == (403, 200), path
    writes = (("/admin/schedules/new", "post"), (page, "post"), (f"{page}/on", "post"), (f"{page}/run", "post"), (f"{page}/delete", "post"))
    for path, method in (*writes, ("/api/v1/schedules", "post"), (own["links"]["self"], "patch"), (own["links"]["self"], "delete")):
        for one in (alice, viewer):
            assert getattr(one, method)(path, json={} if "/api/" in path else None).status_code == 403, path
    assert "<button" not in viewer.get("/admin/schedules").text.partition("<h1")[2].partition("</main>")[0]
    assert "<button" not in viewer.get(page).text.partition("<h1")[2].partition("</main>")[0]


# ---- the audit trail


def acted(count: int = 1, actor: str = "ada@example.org", act: str = "clean", subject: str = "type:analyze", **told: Any) -> None:
    with write_session() as session:
        for number in range(count):
            audit.record(session, Actor(actor, "192.0.2.7", "request-1"), act, subject, count=number, **told)


def test_the_trail_says_who_what_on_which_how_many_from_where_before_and_after(admin: Caller) -> None:
    admin.put("/api/v1/pauses/all", json={"reason": "One"}, headers={"X-Request-Id": "request-1"})
    admin.put("/api/v1/pauses/all", json={"reason": "Two"})
    newest, oldest = admin.get("/api/v1/audit").json["data"]
    assert [oldest[name] for name in ("actor", "act", "subject", "address", "request_id", "before")] == [
        *("admin@example.org", "pause", "all", "127.0.0.1", "request-1", None),
    ]
    assert (newest["before"]["reason"], newest["after"]["reason"]) == ("One", "Two")
    page = admin.get("/admin/audit").text
    assert "from 127.0.0.1" in page and "Two" in page


def test_the_trail_is_filtered_and_comes_in_pages(admin: Caller) -> None:
    acted(60)
    acted(2, actor="bob@example.org", act="pause", subject="queue:100%_real")
    first = admin.get("/api/v1/audit?limit=50")
    assert (len(first.json["data"]), first.json["has_more"]) == (50, True)
    following = first.headers["Link"].partition("<")[2].partition(">")[0]
    assert len(admin.get(following).json["data"]) == 12
    for query, count in {
        "actor=BOB": 2,
        "act=pause": 2,
        "act=pau": 0,
        "subject=100%25_": 2,
        "subject=1__": 0,
        "since=2099-01-01": 0,
    }.items():
        assert len(admin.get(f"/api/v1/audit?limit=100&{query}").json["data"]) == count, query
    assert len(admin.get("/api/v1/audit?limit=100&until=2099-01-01T00:00:00Z").json["data"]) == 62
    page = admin.get("/admin/audit?actor=ada").text
    assert page.count('class="entry"') == 50
    older = page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert "actor=ada" in older and admin.get(older).text.count('class="entry"') == 10


@pytest.mark.parametrize("query", ["since=soon", "until=2026-13-01"], ids=str)
def test_a_wrong_time_is_said_at_its_field(admin: Caller, query: str) -> None:
    field = query.partition("=")[0]
    answer = admin.get(f"/api/v1/audit?{query}")
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, f"/{field}")
    page = admin.get(f"/admin/audit?{query}")
    assert page.status_code == 422 and f'id="{field}-error"' in page.text


def test_the_csv_has_all_that_matches_and_no_formula(admin: Caller) -> None:
    acted(3, subject="=1+1", before={"reason": '=HYPERLINK("x")'})
    acted(1, actor="+bob@example.org")
    answer = admin.get("/admin/audit/audit.csv?subject==1")
    assert (answer.mimetype, answer.headers["Content-Disposition"]) == ("text/csv", "attachment; filename=audit.csv")
    rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))
    assert [row["subject"] for row in rows] == ["'=1+1"] * 3
    assert rows[0]["before"] == '{"reason": "=HYPERLINK(\\"x\\")"}' and rows[0]["after"] == ""
    everything = list(csv.reader(io.StringIO(admin.get("/admin/audit/audit.csv").text)))
    assert len(everything) == 5
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in everything for cell in row)


def test_what_was_written_by_strangers_is_shown_as_text(admin: Caller) -> None:
    acted(1, actor="<script>alert(1)</script>", subject="<b>", before={"<i>": "<img src=x onerror=alert(1)>"})
    page = admin.get("/admin/audit").text
    assert "<script>alert" not in page and "<img src=x" not in page and "<b>" not in page


def test_users_passwords_and_tokens_made_at_the_command_line_are_in_the_trail_without_their_secrets(admin: Caller) -> None:
    given = ("--email", "eve@example.org", "--password")
    commands = [
        ("user", "create", *given, "a first long phrase", "--viewer"),
        ("user", "password", *given, "a second long phrase"),
        ("token", "create", "--email", "eve@example.org", "--scope", "read"),
    ]
    said = [subprocess.run([sys.executable, MANAGE, *words], check=True, capture_output=True, text=True).stdout for words in commands]
    trail = admin.get("/api/v1/audit?actor=command").json["data"]
    assert [(entry["act"], entry["subject"]) for entry in trail] == [
        (act, "eve@example.org") for act in ("token_created", "password_reset", "user_created")
    ]
    assert all(getpass.getuser() in entry["actor"] for entry in trail)
    assert trail[2]["after"] == {"is_admin": False, "is_viewer": True}
    assert "phrase" not in str(trail) and said[2].split()[-1] not in str(trail)
