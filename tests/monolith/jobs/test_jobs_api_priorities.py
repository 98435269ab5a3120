"""Who may ask for which priority: by the API, on the pages, and where nobody asks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from marshmallow import Schema

from monolith.accounts import tokens
from monolith.job_types.registry import job_type
from monolith.runner.worker import execute
from tests.support.callers import Caller
from tests.support.requests import pointers, upload

ECHO = {"type": "trial_echo"}
TOO_HIGH = "Only admins can submit trial_echo with priority critical. Choose one of: high, normal, low."
Settings = Callable[..., None]


def post(caller: Caller, **spec: Any) -> Any:
    return caller.post("/api/v1/jobs", json={**ECHO, **spec})


@pytest.mark.parametrize("given", ["critical", 10, "10"])
def test_critical_is_for_admins(alice: Caller, admin: Caller, given: Any) -> None:
    refused = post(alice, priority=given)
    assert (refused.status_code, pointers(refused)) == (422, ["/priority"])
    assert refused.json["errors"][0]["detail"] == TOO_HIGH
    assert [post(alice, priority=one).status_code for one in ("high", 9, "low")] == [202] * 3
    assert post(admin, priority=given).json["priority"] == "critical"
    assert len(alice.get("/api/v1/jobs").json["data"]) == 3


def test_a_token_that_is_no_admins_is_held_to_what_users_may(admin: Caller) -> None:
    submits_only = Caller(admin.client, admin.user, tokens.create_token(admin.user.id, "lesser", "submit")[1])
    assert post(submits_only, priority="critical").status_code == 422


def test_a_job_type_may_declare_that_everybody_may(alice: Caller) -> None:
    assert post(alice, type="trial_urgent", priority=10).json["priority"] == "critical"


CRITICAL = {**ECHO, "priority": 10}
TEXTS = [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/documents", {"json": {"text": "one", "jobs": ["trial_echo", CRITICAL]}}),
        ("/api/v1/documents", {"data": upload((b"one", "a.txt"), jobs=["trial_echo", json.dumps(CRITICAL)])}),
        ("/api/v1/batches", {"json": {"documents": TEXTS, "jobs": ["trial_echo", CRITICAL]}}),
    ],
    ids=["text", "file", "batch"],
)
def test_the_job_of_a_document_that_asks_for_too_much_is_named(alice: Caller, path: str, body: dict[str, Any]) -> None:
    refused = alice.post(path, **body)
    assert (refused.status_code, pointers(refused)) == (422, ["/jobs/1/priority"])
    assert refused.json["errors"][0]["detail"] == TOO_HIGH
    assert alice.get("/api/v1/documents").json["data"] == []


def test_the_highest_priority_of_users_is_a_setting(intray_settings: Settings, alice: Caller, admin: Caller) -> None:
    intray_settings(HIGHEST_PRIORITY="normal")
    assert [post(alice, priority=one).status_code for one in ("critical", "high", "normal")] == [422, 422, 202]
    intray_settings(HIGHEST_PRIORITY="low")
    assert (post(alice, priority="normal").status_code, post(alice).json["priority"]) == (422, "low")
    assert post(admin).json["priority"] == "normal"
    intray_settings(HIGHEST_PRIORITY="critical")
    assert post(alice, priority="critical").status_code == 202


def test_what_the_code_declares_is_not_limited(intray_settings: Settings, alice: Caller) -> None:
    intray_settings(HIGHEST_PRIORITY="low")
    checked = alice.post("/api/v1/documents", json={"text": "An application.", "kind": "application"}).json["jobs"]
    assert [(one["type"], one["priority"]) for one in checked] == [("quality_check", "high")]
    job = post(alice, type="trial_follow").json
    execute.run(job["id"])
    followed = [one for one in alice.get("/api/v1/jobs").json["data"] if one["parent_id"] == job["id"]]
    assert [(one["type"], one["priority"]) for one in followed] == [("trial_echo", "high")]


def test_a_job_that_is_requeued_keeps_the_priority_it_was_accepted_with(intray_settings: Settings, alice: Caller) -> None:
    intray_settings(HIGHEST_PRIORITY="critical")
    job = post(alice, priority="critical").json
    intray_settings(HIGHEST_PRIORITY="high")
    alice.post(f"{job['links']['self']}/cancel")
    again = alice.post(f"{job['links']['self']}/requeue")
    assert (again.status_code, again.json["status"], again.json["priority"]) == (200, "queued", "critical")


def test_the_api_tells_which_priorities_a_job_type_may_have(alice: Caller, admin: Caller) -> None:
    def told(caller: Caller, name: str) -> Any:
        return caller.get(f"/api/v1/job-types/{name}").json["priorities"]

    assert told(alice, "trial_echo") == ["high", "normal", "low"]
    assert told(alice, "trial_urgent") == told(admin, "trial_echo") == ["critical", "high", "normal", "low"]


def choices(page: str) -> list[str]:
    """The priorities that a page offers."""
    (select,) = re.findall(r'<select[^>]*name="priority".*?</select>', page, re.DOTALL)
    return re.findall(r'value="([^"]*)"', select)


@pytest.mark.parametrize("packages", ["jobs", "jobs,tests.trial_jobs"])
def test_the_pages_offer_what_is_allowed(intray_settings: Settings, alice: Caller, admin: Caller, packages: str) -> None:
    intray_settings(JOB_PACKAGES=packages)
    document = alice.post("/api/v1/documents", json={"text": "Hello."}).json["document"]["id"]
    pages = ["/", f"/documents/{document}", "/run/report"]
    for page in pages:
        assert choices(alice.get(page).text) == ["high", "normal", "low"], page
        assert choices(admin.get(page).text) == ["critical", "high", "normal", "low"], page
    intray_settings(HIGHEST_PRIORITY="low")
    for page in pages:
        assert choices(alice.get(page).text) == ["low"], page
    assert choices(alice.get("/run/trial_urgent").text) == ["critical", "high", "normal", "low"]


@pytest.mark.parametrize("path", ["/submit", "/run/trial_echo"])
def test_a_form_that_asks_for_too_much_is_shown_again_with_the_reason(alice: Caller, path: str) -> None:
    answer = alice.post(path, data={"text": "Hello.", "job": "trial_echo", "priority": "critical"})
    assert answer.status_code == 422 and TOO_HIGH in answer.text
    assert re.findall(r'<option value="(\w+)" selected>', answer.text) == ["normal"]  # not the first that is allowed
    assert alice.get("/api/v1/jobs").json["data"] == []


def test_schedules_are_those_of_admins_and_may_be_critical(admin: Caller) -> None:
    schedule = {"name": "Urgent", "type": "trial_echo", "cron": "@daily", "priority": 10}
    made = admin.post("/api/v1/schedules", json=schedule).json
    assert made["priority"] == "critical"
    job = admin.post(f"/api/v1/schedules/{made['id']}/run").json["job_id"]
    assert admin.get(f"/api/v1/jobs/{job}").json["priority"] == "critical"


def test_a_declared_priority_that_does_not_exist_fails_at_import() -> None:
    with pytest.raises(ValueError, match="highest_priority must be one of critical, high, normal, low"):

        @job_type(params=Schema, takes="nothing", highest_priority="urgent")
        def urgent(job: Any, params: Any) -> dict[str, Any]:
            """Be wrong."""
            return {}


def test_a_setting_that_names_no_priority_is_refused(intray_settings: Settings) -> None:
    from monolith.config import settings
    from monolith.errors import BadSetting

    intray_settings(HIGHEST_PRIORITY="urgent")
    with pytest.raises(BadSetting, match="HIGHEST_PRIORITY"):
        settings()
