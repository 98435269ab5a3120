"""The audit trail over HTTP: for programs, in pages and as CSV."""

from __future__ import annotations

import csv
import getpass
import io
import subprocess
import sys
from typing import Any

import pytest

from monolith.db.engine import write_session
from monolith.runner.ledger import audit
from monolith.runner.ledger.audit import Actor
from tests.support.callers import Caller
from tests.support.processes import MANAGE


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


@pytest.mark.databases
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
