"""Every route, asked by everybody: who may come in, and who does not even learn that something is there.

Generated from the URL map. A route that is not named in DOORS fails: whoever adds one says here whom it is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from flask import Flask
from werkzeug.routing import Rule

from tests.support.callers import Caller
from tests.support.routes import HERS, SAFE, World, path_of, routes
from tests.support.visitor import signed_in

# open: everybody. own: whoever is signed in, and it shows what is theirs. shared: its owner and admins, and viewers to look.
# private: its owner alone. admins: admins, and viewers to look.
DOORS = {
    "static": "open",
    "health.*": "open",
    "auth.sign_in": "open",
    "auth.sign_out": "own",
    "docs.page": "open",
    "api-docs.openapi_json": "open",
    "account.Me": "own",
    "account.Password": "own",
    "account.Tokens": "own",
    "account.OneToken": "private",
    "account.Sessions": "own",
    "account.OneSession": "private",
    "account_pages.show": "own",
    "account_pages.change_password": "own",
    "account_pages.choose_mail": "own",
    "account_pages.create_token": "own",
    "account_pages.revoke_token": "private",
    "account_pages.end_session": "private",
    "account_pages.end_other_sessions": "own",
    "documents.Documents": "own",
    "selections.*": "own",
    "documents.OneDocument": "shared",
    "documents.DocumentContent": "shared",
    "jobs.Jobs": "own",
    "jobs.OneJob": "shared",
    "jobs.CancelJob": "shared",
    "jobs.StopJob": "shared",
    "jobs.RequeueJob": "shared",
    "jobs.JobResult": "shared",
    "jobs.JobArtefact": "shared",
    "job_pages.result": "shared",
    "events.JobEvents": "shared",
    "events.Events": "own",
    "batches.Batches": "own",
    "batches.OneBatch": "shared",
    "batches.RetryBatch": "shared",
    "job-types.*": "own",
    "webhooks.Webhooks": "own",
    "webhooks.SharedSecret": "own",
    "webhooks.OneWebhook": "private",
    "webhooks.RotateSecret": "private",
    "webhooks.TestWebhook": "private",
    "webhooks.Deliveries": "private",
    "webhooks.ReplayDelivery": "private",
    "document_pages.submit_form": "own",
    "document_pages.submit": "own",
    "document_pages.documents": "own",
    "document_pages.document": "shared",
    "document_pages.change_tags": "shared",
    "bulk_pages.*": "own",
    "document_pages.submit_job": "shared",
    "document_pages.confirm_delete": "shared",
    "document_pages.delete_document": "shared",
    "job_pages.jobs": "own",
    "job_pages.job": "shared",
    "job_pages.job_live": "shared",
    "job_pages.change_status": "shared",
    "job_type_pages.*": "own",
    "batch_pages.index": "own",
    "batch_pages.show": "shared",
    "batch_pages.live": "shared",
    "batch_pages.retry": "shared",
    "webhook_pages.index": "own",
    "webhook_pages.create": "own",
    "webhook_pages.*": "private",
    "metrics.metrics": "admins",
    "ai.Trial": "admins",
    "pauses.*": "admins",
    "alerts.*": "admins",
    "trash.*": "admins",
    "failures.*": "admins",
    "queues.*": "admins",
    "schedules.*": "admins",
    "audit.*": "admins",
}
ABOUT_ONESELF = ("auth", "account", "account_pages")
CLOSED = {
    **dict.fromkeys(("own", "shared", "private"), (401, 403, 404, 405, 500)),
    "admins": (401, 403, 500),
    "open": (403, 404, 405, 500),
}
IN, OUT = "comes in", {"anonymous": 401, "gone": 404, "forbidden": 403}


def kind_of(rule: Rule) -> str | None:
    """For whom it is. Below /admin everything is for admins, whoever adds it."""
    if rule.rule.startswith("/admin"):
        return "admins"
    return DOORS.get(rule.endpoint) or next((kind for pattern, kind in DOORS.items() if fnmatchcase(rule.endpoint, pattern)), None)


def test_every_route_says_whom_it_is_for(app: Flask) -> None:
    assert sorted({rule.endpoint for rule, _ in routes(app) if kind_of(rule) is None}) == [], "name them in DOORS"


def expected(kind: str, who: str, method: str, blueprint: str) -> int | str:
    """What the answer must be: a status, or that one comes in."""
    if kind == "open":
        return IN
    if who == "anonymous":
        return OUT["anonymous"]
    if who == "viewer" and method not in SAFE and blueprint not in ABOUT_ONESELF:
        return OUT["forbidden"]
    if kind == "admins":
        return IN if who in ("admin", "viewer") else OUT["forbidden"]
    if kind == "shared":
        return IN if who != "other" else OUT["gone"]
    if kind == "private":
        return IN if who == "owner" else OUT["gone"]
    return IN


@pytest.fixture
def people(caller: Callable[..., Caller], app: Flask) -> dict[str, Caller]:
    return {
        "other": caller("bob@example.org"),
        "viewer": caller("viewer@example.org", is_viewer=True),
        "owner": caller("alice@example.org"),
        "admin": caller("admin@example.org", is_admin=True),
    }


def test_nobody_comes_in_where_they_should_not_and_everybody_where_they_should(
    app: Flask, people: dict[str, Caller], intray_settings: Callable[..., None]
) -> None:
    intray_settings(FETCH_ALLOW_LOOPBACK="true")  # Alice's webhook is an address of this machine
    world = World(people["owner"])
    ids, wrong, asked = world.ids(), [], 0
    for rule, method in routes(app):
        kind, blueprint = str(kind_of(rule)), rule.endpoint.partition(".")[0]
        for who in ("anonymous", "other", "viewer", "admin", "owner"):
            status = ask(app, people.get(who), method, path_of(app, rule, method, ids))
            if method not in SAFE and status < 400:
                ids = world.renewed(ids)
            asked += 1
            want = expected(kind, who, method, blueprint)
            if status != want and not (want == IN and status not in CLOSED[kind]):
                wrong.append(f"{method} {rule.rule}, {who}: {status} instead of {want}")
    assert not wrong, "\n".join(wrong)
    assert asked > 350


def ask(app: Flask, who: Caller | None, method: str, path: str) -> int:
    """The status; 401 also for who is sent to sign in. The body is not read: a stream has no end."""
    headers = {"Authorization": f"Bearer {who.token}"} if who else {}
    body = {"json": {}} if path.startswith("/api/") and method not in SAFE and method != "DELETE" else {}
    answer = app.test_client().open(path, method=method, headers=headers, **body)
    if answer.status_code == 308:  # the same address with another slash
        return ask(app, who, method, answer.headers["Location"])
    location = answer.headers.get("Location", "")
    answer.close()
    if who is None and (location.startswith("/sign-in") or (answer.status_code == 403 and method not in SAFE)):
        return 401
    return answer.status_code


def test_what_is_named_in_a_body_a_query_or_beside_ones_own_is_not_found_either(
    app: Flask, people: dict[str, Caller], intray_settings: Callable[..., None]
) -> None:
    intray_settings(FETCH_ALLOW_LOOPBACK="true")
    hers, bob = World(people["owner"]).ids(), people["other"]
    own = bob.post("/api/v1/webhooks", json={"url": "http://127.0.0.1:9/"}).json["id"]
    assert bob.post("/api/v1/jobs", json={"type": "analyze", "document_id": hers["document_id"]}).status_code == 404
    assert bob.get(f"/api/v1/jobs?document_id={hers['document_id']}").json["data"] == []
    assert bob.get(f"/api/v1/webhooks?job_id={hers['job_id']}").json["data"] == []
    assert bob.post(f"/api/v1/webhooks/{own}/deliveries/{hers['delivery_id']}/replay").status_code == 404
    for path, name in {"documents": "document_id", "jobs": "job_id", "batches": "batch_id", "webhooks": "webhook_id"}.items():
        theirs = bob.get(f"/api/v1/{path}?starting_after={hers[name]}")
        nobodys = bob.get(f"/api/v1/{path}?starting_after={hers[name][:-4]}0000")
        assert (theirs.status_code, nobodys.status_code) == (422, 422), path
        assert re.sub(r"'[^']+'", "", theirs.json["detail"]) == re.sub(r"'[^']+'", "", nobodys.json["detail"])


def test_selecting_what_is_somebody_elses_changes_nothing_and_shows_nothing(
    app: Flask, people: dict[str, Caller], intray_settings: Callable[..., None]
) -> None:
    intray_settings(FETCH_ALLOW_LOOPBACK="true")
    hers, bob = World(people["owner"]).ids(), people["other"]
    paths = {"documents/delete": "document_id", "jobs/cancel": "job_id", "jobs/stop": "job_id", "jobs/requeue": "job_id"}
    for path, name in paths.items():
        said = bob.post(f"/api/v1/{path}", json={"ids": [hers[name]]}).json
        assert said["changed"] == 0 and [one["detail"].startswith("You have no") for one in said["left"]] == [True], path
    for kind, name in {"documents": "document_id", "jobs": "job_id"}.items():
        for form in (
            {"act": "download"},
            {"act": "delete"},
            {"act": "stop"},
            {"act": "delete", "sure": "1"},
            {"act": "cancel", "sure": "1"},
        ):
            answer = bob.post(f"/{kind}/selected", data={**form, "id": hers[name]})
            assert answer.status_code in (303, 404) and HERS not in answer.text, (kind, form)
    assert people["owner"].get(f"/api/v1/documents/{hers['document_id']}").status_code == 200
    assert people["owner"].get(f"/api/v1/jobs/{hers['job_id']}").json["status"] == "finished"


def test_lists_hold_ones_own_only(app: Flask, people: dict[str, Caller], intray_settings: Callable[..., None]) -> None:
    intray_settings(FETCH_ALLOW_LOOPBACK="true")
    World(people["owner"]).ids()
    lists = [rule.rule for rule, method in routes(app) if method == "GET" and not rule.arguments and kind_of(rule) == "own"]
    lists.remove("/api/v1/events")  # a stream has no end
    for path in lists:
        shown = people["other"].get(path).text
        assert HERS not in shown and "alice" not in shown, path


def test_no_act_of_an_admin_is_done_without_the_token_of_the_page_or_for_another_site(
    app: Flask, people: dict[str, Caller], intray_settings: Callable[..., None]
) -> None:
    intray_settings(FETCH_ALLOW_LOOPBACK="true")
    ids, browser = World(people["owner"]).ids(), signed_in(app, "admin@example.org")
    token, client, done = {"X-CSRFToken": browser.csrf_token()}, browser.client, []
    lures: list[dict[str, str]] = [{}, {**token, "Sec-Fetch-Site": "cross-site"}, {**token, "Origin": "https://evil.example"}]
    acts = [(rule, method) for rule, method in routes(app) if kind_of(rule) == "admins" and method not in SAFE]
    for rule, method in acts:
        path = path_of(app, rule, method, ids)
        answers = [client.open(path, method=method, headers=lure) for lure in lures]
        done += [f"{method} {path}: {answer.status_code}" for answer in answers if answer.status_code != 403]
    assert not done, "\n".join(done)
    assert len(acts) > 25
    assert client.put("/api/v1/pauses/all", json={"reason": "x"}, headers={**token, "Origin": "http://localhost"}).status_code == 200
