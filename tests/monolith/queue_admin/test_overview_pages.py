"""The overview for admins: counts, charts, workers, alerts; the pages of pauses; and the same numbers for programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, text

from monolith.db.engine import write_session
from monolith.db.models import Sample
from monolith.queue_admin import charts
from monolith.runner.ledger import lifecycle
from monolith.runner.monitoring import history
from monolith.runner.queue import rq_queues
from tests.support.callers import Caller

MINUTE = 60


def submitted(alice: Caller, count: int = 1) -> list[str]:
    body = {"type": "analyze", "params": {"description": "A tool that sorts mail."}}
    return [str(alice.post("/api/v1/jobs", json=body).json["id"]) for _ in range(count)]


def of(admin: Caller, type_name: str) -> dict[str, Any]:
    listed = admin.get("/api/v1/queues").json["data"]
    return next(one for queue in listed for one in queue["types"] if one["name"] == type_name)


def samples(*rows: dict[str, Any]) -> None:
    with write_session() as session:
        session.execute(insert(Sample), [{"queue": "default", "type": "analyze", **row} for row in rows])


@pytest.mark.databases
def test_queues_are_counted_by_state_with_what_pauses_them(alice: Caller, admin: Caller) -> None:
    first, second, _ = submitted(alice, 3)
    lifecycle.claim(first, "w")
    assert alice.post(f"/api/v1/jobs/{second}/cancel").status_code == 200
    admin.put("/api/v1/pauses/type:analyze", json={"reason": "Not now."})
    counted = of(admin, "analyze")
    assert [counted[name] for name in ("queued", "started", "canceled", "failed", "paused")] == [1, 1, 1, 0, True]
    assert counted["oldest_waiting_s"] >= 0 and counted["pause"]["reason"] == "Not now."
    queue = next(one for one in admin.get("/api/v1/queues").json["data"] if one["name"] == "default")
    assert (queue["object"], queue["queued"], queue["started"], queue["paused"], queue["pause"]) == ("queue", 1, 1, False, None)
    admin.put("/api/v1/pauses/all", json={"reason": "Moving house."})
    assert of(admin, "report")["pause"]["scope"] == "all"


def test_workers_are_listed_with_their_children_as_they_said_in_redis(alice: Caller, admin: Caller) -> None:
    first, second = submitted(alice, 2)
    for job_id in (first, second):
        lifecycle.claim(job_id, "w1")
    over = submitted(alice)[0]
    children = f'[{{"pid":7,"memory":1048576,"waits":false,"jobs":["{first}","{over}"]}},{{"pid":8,"memory":null,"waits":true,"jobs":[]}}]'
    told = {
        "hostname": "here",
        "pid": "5",
        "state": "busy",
        "queues": "default.high,default.low",
        "memory": "2097152",
        "children": children,
    }
    moments = {"birth": "2026-11-25T07:00:00.000000Z", "last_heartbeat": "2026-11-25T07:20:00.500000Z"}
    rq_queues.connection().sadd("rq:workers", "rq:worker:w1", "rq:worker:gone")
    rq_queues.connection().hset("rq:worker:w1", mapping={**told, **moments, "successful_job_count": "12"})
    [worker] = admin.get("/api/v1/workers").json["data"]
    assert (worker["name"], worker["host"], worker["queues"], worker["finished"]) == ("w1", "here", ["default.high", "default.low"], 12)
    assert (worker["memory"], worker["born_at"][:19], worker["heartbeat_at"][:19]) == (
        3145728,
        "2026-11-25T07:00:00",
        "2026-11-25T07:20:00",
    )
    assert [[job["id"] for job in child["jobs"]] for child in worker["children"]] == [[first], []]
    assert {job["id"] for job in worker["running"]} == {first, second}


def test_who_runs_something_and_is_not_in_redis_is_shown_too(alice: Caller, admin: Caller) -> None:
    [job_id] = submitted(alice)
    lifecycle.claim(job_id, "lost")
    [worker] = admin.get("/api/v1/workers").json["data"]
    assert (worker["name"], worker["children"], [job["id"] for job in worker["running"]]) == ("lost", [], [job_id])


def test_without_redis_the_overview_says_so_and_the_api_answers_503(
    admin: Caller, intray_settings: Callable[..., None], caller: Callable[..., Caller]
) -> None:
    intray_settings(REDIS_URL="redis://127.0.0.1:1/0")
    assert admin.get("/api/v1/workers").status_code == 503
    assert "Not responding" in admin.get("/admin/").text


def test_a_worker_that_tells_nothing_of_children_is_shown_too(admin: Caller) -> None:
    rq_queues.connection().sadd("rq:workers", "rq:worker:w1")
    rq_queues.connection().hset("rq:worker:w1", mapping={"children": "{", "queues": "", "state": "idle"})
    [worker] = admin.get("/api/v1/workers").json["data"]
    assert (worker["pid"], worker["born_at"], worker["children"]) == (None, None, [])
    assert admin.get("/admin/").status_code == 200


@pytest.mark.parametrize("path", ["/admin/", "/admin/parts/now", "/admin/pauses", "/api/v1/queues", "/api/v1/workers"], ids=str)
def test_viewers_may_look_and_submitters_may_not(alice: Caller, caller: Callable[..., Caller], path: str) -> None:
    assert alice.get(path).status_code == 403
    assert caller("viewer@example.org", is_viewer=True).get(path).status_code == 200


def test_a_viewer_sees_no_buttons_and_may_not_press_them(caller: Callable[..., Caller], admin: Caller) -> None:
    admin.put("/api/v1/pauses/all", json={"reason": "Not now."})
    viewer = caller("viewer@example.org", is_viewer=True)
    for path in ("/admin/", "/admin/pauses"):
        page = viewer.get(path).text.partition("<h1")[2].partition("</main>")[0]
        assert "<form" not in page and "<button" not in page, path
    for path in ("/admin/pauses", "/admin/pauses/all/resume", "/admin/ai-test"):
        assert viewer.post(path).status_code == 403


def test_a_part_is_sent_again_only_when_it_looks_different(alice: Caller, admin: Caller) -> None:
    path = part_url(admin, "trouble")
    assert admin.get(path).status_code == 204
    with write_session() as session:
        columns = "code, subject, severity, message, opened_at"
        session.execute(text(f"INSERT INTO alerts ({columns}) VALUES ('failed', 'all', 'warning', 'Eleven failed', 1)"))
    changed = admin.get(path)
    assert changed.status_code == 200 and "Eleven failed" in changed.text
    assert "Eleven failed" in admin.get("/admin/").text


def part_url(admin: Caller, name: str) -> str:
    page = admin.get(f"/admin/parts/{name}").text
    return page.partition('hx-get="')[2].partition('"')[0].replace("&amp;", "&")


@pytest.mark.databases
@pytest.mark.parametrize("period", list(history.PERIODS))
def test_the_charts_add_the_samples_up_by_step(admin: Caller, period: str) -> None:
    newest = int(time.time()) // MINUTE * MINUTE
    busy = {"finished": 30, "failed": 2, "mean_wait_s": 2.0, "oldest_waiting_s": 9.0}
    samples(
        {"at": newest, **busy}, {"at": newest - MINUTE, **busy, "finished": 10, "mean_wait_s": 6.0}, {"at": newest - 30 * 86400, **busy}
    )
    with write_session() as session:
        found = history.load(session, history.PERIODS[period], "type")
    assert len(found.measures["finished"][0].values) == history.PERIODS[period].steps <= 120
    done, failed, waited, oldest = charts.all_of(found)
    assert [chart.series[0].name for chart in (done, failed, waited, oldest)] == ["Analyze"] * 4
    assert (done.series[0].summary, failed.series[0].summary, oldest.series[0].summary) == ("40 in total", "4 in total", "9.0 s")
    page = admin.get(f"/admin/?period={period}&by=queue").text
    assert "Default: 30" in page or "Default: 40" in page, "the words for a bar"
    assert 'aria-label="Done, jobs per' in page


@pytest.mark.databases
def test_many_types_are_shown_as_the_busiest_and_others(admin: Caller) -> None:
    newest = int(time.time()) // MINUTE * MINUTE
    samples(*({"at": newest, "type": f"type_{number:02}", "finished": number} for number in range(1, 13)))
    with write_session() as session:
        names = [one.name for one in history.load(session, history.PERIODS["1h"], "type").measures["finished"]]
    assert names == [*(f"type_{number:02}" for number in range(6, 13)), "others"]


@pytest.mark.databases
def test_an_installation_without_samples_has_empty_charts(admin: Caller) -> None:
    assert admin.get("/admin/").text.count("No data for this period") == 4


# ---- pauses


def form(**fields: str) -> dict[str, Any]:
    return {"data": {"scope": "all", "reason": "Moving house", "for": "", **fields}}


def test_pausing_and_resuming_by_the_form_with_a_banner_on_all_pages(alice: Caller, admin: Caller, caller: Callable[..., Caller]) -> None:
    assert admin.post("/admin/pauses", **form(scope="type:analyze")).status_code == 303
    page = admin.get("/admin/pauses").text
    assert "Moving house" in page and "with no end time" in page
    for one in (admin, caller("viewer@example.org", is_viewer=True)):
        assert "Paused: job type Analyze" in one.get("/documents").text
    assert "Moving house" not in alice.get("/documents").text
    job_id = submitted(alice)[0]
    for path in ("/admin/", "/admin/jobs", f"/jobs/{job_id}"):
        assert "Paused</a>" in admin.get(path).text, path
    assert admin.post("/admin/pauses/type:analyze/resume").status_code == 303
    assert admin.post("/admin/pauses/type:analyze/resume").status_code == 303, "somebody was faster"
    assert "Paused" not in admin.get("/documents").text


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"for": "900"}, 900),
        ({"for": "86400"}, 86400),
        ({"for": "until", "until": "2099-01-01T12:00"}, None),
        ({"for": "until", "until": "2099-01-01T13:00", "zone": "-60"}, None),
    ],
    ids=["quarter", "day", "utc", "zoned"],
)
def test_a_pause_ends_when_the_form_says(admin: Caller, fields: dict[str, str], seconds: float | None) -> None:
    assert admin.post("/admin/pauses", **form(**fields)).status_code == 303
    [pause] = admin.get("/api/v1/pauses").json["data"]
    if seconds is None:
        assert pause["until"].startswith("2099-01-01T12:00:00")
    else:
        assert pause["until"] > pause["since"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"reason": " "}, "reason"),
        ({"scope": "nothing"}, "scope"),
        ({"for": "7"}, "for"),
        ({"for": "until", "until": ""}, "until"),
        ({"for": "until", "until": "soon"}, "until"),
        ({"for": "until", "until": "2020-01-01T00:00"}, "until"),
        ({"for": "until", "until": "2099-01-01T00:00", "zone": "99999999"}, "until"),
    ],
    ids=str,
)
def test_a_wrong_form_says_what_to_mend_and_keeps_what_was_typed(admin: Caller, fields: dict[str, str], field: str) -> None:
    answer = admin.post("/admin/pauses", **form(**fields))
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert admin.get("/api/v1/pauses").json["data"] == []
