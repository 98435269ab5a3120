"""Schedules over HTTP: for programs and in pages, who may, and what is refused with the mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.callers import Caller

WEEKLY = {"name": "Weekly", "type": "analyze", "params": {"description": "A tool."}, "cron": "30 6 * * MON"}
FORM = {
    "name": "Weekly",
    "type": "analyze",
    "cron": "30 6 * * MON",
    "analyze.url": "https://example.org/",
    "priority": "low",
    "is_on": "on",
}


@pytest.mark.databases
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


@pytest.mark.databases
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
